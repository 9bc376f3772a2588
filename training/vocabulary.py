"""Train tokenizers on a manifest's own text, for a model that starts from scratch.

``python -m pengi_rt.training.vocabulary MANIFEST OUT --size N`` writes ``OUT/text.json`` and
``OUT/decoder.json``. Set a run's ``tokenizers`` to ``OUT``, and the ``vocab_size`` of both
``[model.text]`` and ``[model.decoder]`` to ``N``. ``--tasks FILE`` adds the tasks of a TOML file.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from pengi_rt.errors import InputError
from pengi_rt.text.byte_bpe import train_decoder_tokenizer, train_text_tokenizer
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.command import exit_code, write_file
from pengi_rt.training.manifest import Row, read_manifest


def write_vocabulary(rows: Sequence[Row], folder: Path, size: int) -> None:
    """Write both tokenizers, with ``size`` tokens each.

    Raises:
        UsageError: the rows do not contain enough distinct pieces of words.
        InputError: the folder cannot be written.
    """
    said = [text for row in rows for text in (row.target, row.prompt, f" {row.transcript}")]
    asked = [text for row in rows for text in (row.prompt, row.target)]
    made = {
        "decoder": train_decoder_tokenizer(said, size),
        "text": train_text_tokenizer(asked, size),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror or error}") from None
    for name, tokenizer in made.items():
        write_file(folder / f"{name}.json", tokenizer.to_str().encode())


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, required=True, help="tokens of each vocabulary")
    parser.add_argument("--tasks", type=Path, action="append", default=[], metavar="FILE")
    arguments = parser.parse_args(argv)

    def work() -> None:
        tasks = load_tasks(*arguments.tasks)
        rows = read_manifest(arguments.manifest, tasks, need_audio=False)
        write_vocabulary(rows, arguments.folder, arguments.size)

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
