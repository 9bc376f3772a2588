"""``pengi-rt pull``: download the published weights."""

import argparse
import sys
from pathlib import Path

from pengi_rt.errors import UsageError
from pengi_rt.system.download import PUBLISHED, cache_directory, fetch, published_url
from pengi_rt.system.streams import emit, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Download a published checkpoint (Zenodo record 8387083) and print its path. An "
        "interrupted download is resumed. The first download records the file's SHA-256 beside it; "
        "later ones compare."
    )
    parser.add_argument("model", choices=PUBLISHED, help="which published model")
    parser.add_argument(
        "--directory",
        type=Path,
        metavar="DIR",
        help="where to put it (default: $XDG_CACHE_HOME/pengi-rt, or ~/.cache/pengi-rt)",
    )
    parser.add_argument("--url", help="download from here instead, for example from a mirror")
    parser.add_argument("--sha256", metavar="HEX", help="the expected SHA-256")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Download, and print the path."""
    from tqdm import tqdm

    directory: Path = arguments.directory or cache_directory()
    if directory.exists() and not directory.is_dir():
        raise UsageError(f"--directory {directory} is a file; name a folder")
    name = PUBLISHED[arguments.model]
    hidden = arguments.quiet or not sys.stderr.isatty()
    with tqdm(desc=name, unit="B", unit_scale=True, disable=hidden) as bar:

        def progress(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        fetched = fetch(
            arguments.url or published_url(arguments.model),
            directory / name,
            sha256=arguments.sha256,
            progress=progress,
        )
    if fetched.recorded and not arguments.quiet:
        say(f"recorded SHA-256 {fetched.sha256}; later pulls compare with it")
    emit(str(fetched.path))
    return 0
