"""``pengi-rt embed``: recordings and texts in, vectors out."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pengi_rt.cli.answers import span
from pengi_rt.cli.asking import (
    add_engine,
    add_reading,
    add_recordings,
    open_engine,
    protect_inputs,
)
from pengi_rt.cli.formats import FORMATS, Row, Writer
from pengi_rt.cli.output import is_folder, open_output
from pengi_rt.cli.recordings import SOME_FAILED, Recordings
from pengi_rt.cli.vectors import save_npy, save_safetensors
from pengi_rt.errors import InputError, UsageError

if TYPE_CHECKING:
    from pengi_rt.backends.protocol import F32
    from pengi_rt.embed import AudioEmbedding, TextEmbedding
    from pengi_rt.engine import Engine

COLUMNS: Final = ("row", "audio", "text", "start", "end", "text_truncated", "audio_truncated")
KINDS: Final = ("embedding", "prefix")
NPY: Final = ".npy"
SAFETENSORS: Final = ".safetensors"


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "embed",
        help="vectors of recordings and texts, as .npy or .safetensors",
        description="Write the vectors of recordings, window by window, and of texts, in float32, "
        "and print which row is what. A recording's embedding has length 1; a text's is as the "
        "model reads it, of length 1 only if the model was trained so: divide by the length for "
        "cosines.",
    )
    add_recordings(parser, required=False)
    group = parser.add_argument_group("texts (their rows are behind the recordings')")
    group.add_argument("--texts", nargs="+", default=[], metavar="TEXT", help="texts themselves")
    group.add_argument(
        "--texts-file", type=Path, metavar="FILE", help="UTF-8, one text a line, behind --texts"
    )
    group.add_argument(
        "--strict", action="store_true", help="refuse a text over the encoder's limit"
    )
    add_reading(parser)
    add_engine(parser)
    parser.add_argument(
        "--what", choices=KINDS,
        help="what a .npy holds: [rows, d], or what the decoder reads, [rows, n, n_embd] "
        "(default: embedding; a .safetensors holds both)",
    )  # fmt: skip
    parser.add_argument("--format", choices=FORMATS, default="text",
                        help="of the rows' table (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FILE", required=True,
        help=f"FILE{NPY}, one array, or FILE{SAFETENSORS}: audio.embedding, audio.prefix, "
        "text.embedding, text.prefix (rows are counted in each), and in its metadata the rows' "
        "table as JSON",
    )  # fmt: skip
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Embed everything; a bad recording is reported and passed over."""
    from pengi_rt.inputs import find_recordings

    texts = _texts(arguments)
    if not arguments.audio and not texts:
        raise UsageError("there is nothing to embed: name recordings, or give --texts")
    _check_output(arguments)
    names = find_recordings(arguments.audio) if arguments.audio else []
    protect_inputs(arguments, names)
    with open_engine(arguments) as engine:
        return _embed(engine, names, texts, arguments)


def _embed(
    engine: "Engine", names: list[str], texts: list[str], arguments: argparse.Namespace
) -> int:
    found = _Found(engine, arguments)
    recordings = Recordings(arguments, names, engine.config)
    # Texts and options are refused here, before anything is heard.
    read = engine.embed_text(texts, strict=arguments.strict) if texts else []
    found.check_shapes(recordings=bool(names), texts=bool(read))
    results = engine.embed_audio(recordings, batch_size=arguments.batch_size)
    with (
        open_output(None) as output,
        Writer(output, arguments.format, columns=COLUMNS, line=_line) as writer,
    ):
        code = recordings.write(writer, results, found.audio_rows)
        writer.write([found.text_row(text) for text in read])
    if found.table:
        found.save(Path(arguments.output))
    return SOME_FAILED if code and read else code


class _Found:
    """The vectors so far, of recordings and of texts, and the table of their rows."""

    def __init__(self, engine: "Engine", arguments: argparse.Namespace) -> None:
        self.table: list[Row] = []
        self._engine = engine
        self._apart = arguments.output.endswith(SAFETENSORS)
        self._kinds = KINDS if self._apart else (arguments.what or KINDS[0],)
        self._arrays: dict[str, list[F32]] = {}
        self._rows: Counter[str] = Counter()

    def check_shapes(self, *, recordings: bool, texts: bool) -> None:
        """Refuse what makes no one array.

        Raises:
            UsageError: prefixes of recordings and texts differ in length.
        """
        config = self._engine.config
        lengths = config.audio_mapper.prefix_length, config.text_mapper.prefix_length
        one = recordings and texts and self._kinds == ("prefix",)
        if one and lengths[0] != lengths[1]:
            raise UsageError(
                f"--what prefix: a recording has {lengths[0]} vectors and a text {lengths[1]}, "
                f"which make no one array: write a {SAFETENSORS} file, or run it once for each"
            )

    def audio_rows(self, found: "AudioEmbedding") -> Iterator[Row]:
        """Keep a recording's vectors; the rows that they are."""
        first = self._keep("audio", {"embedding": found.embedding, "prefix": found.prefix})
        for row, (start, end) in enumerate(zip(found.starts, found.ends, strict=True), first):
            about = {"row": row, "audio": found.audio, "start": start, "end": end}
            self.table.append({**about, "audio_truncated": found.audio_truncated})
            yield self.table[-1]

    def text_row(self, found: "TextEmbedding") -> Row:
        """Keep a text's vectors; the row that they are."""
        arrays = {"embedding": found.embedding[None], "prefix": found.prefix[None]}
        row = self._keep("text", arrays)
        self.table.append({"row": row, "text": found.text, "text_truncated": found.truncated})
        return self.table[-1]

    def save(self, path: Path) -> None:
        """Write the file.

        Raises:
            InputError: it cannot be written.
        """
        import numpy as np

        arrays = {name: np.concatenate(parts) for name, parts in self._arrays.items()}
        if not self._apart:
            save_npy(path, arrays[self._kinds[0]])
            return
        about = {"plan": self._engine.plan.fingerprint, "rows": json.dumps(self.table)}
        save_safetensors(path, arrays, about)

    def _keep(self, source: str, vectors: "dict[str, F32]") -> int:
        """The number of the first row, in its own array if there are several."""
        names = {kind: f"{source}.{kind}" if self._apart else kind for kind in self._kinds}
        for kind, name in names.items():
            # A copy: a view would keep all vectors that were made with these.
            self._arrays.setdefault(name, []).append(vectors[kind].copy())
        array = names[self._kinds[0]]
        first = self._rows[array]
        self._rows[array] += len(vectors["embedding"])
        return first


def _texts(arguments: argparse.Namespace) -> list[str]:
    texts: list[str] = arguments.texts
    path: Path | None = arguments.texts_file
    if path is None:
        return texts
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 at byte {error.start}: save it as UTF-8") from None
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise InputError(f"{path}: there are no texts in it: write one a line")
    return [*texts, *found]


def _check_output(arguments: argparse.Namespace) -> None:
    """Refuse at once a file that could not be written in the end.

    Raises:
        UsageError: its name says neither format, or ``--what`` does not go with it.
        InputError: there is no place for it.
    """
    output = Path(arguments.output)
    if output.suffix not in (NPY, SAFETENSORS) or is_folder(output):
        raise UsageError(f"--output {output}: name a file that ends in {NPY} or {SAFETENSORS}")
    if output.suffix == SAFETENSORS and arguments.what is not None:
        raise UsageError(f"--what {arguments.what}: a {SAFETENSORS} file holds both; leave --what")
    if not is_folder(output.parent):
        raise InputError(f"--output {output}: there is no folder {output.parent}")


def _line(row: Row) -> str:
    if "audio" in row:
        return f"{row['row']:>6}  {row['audio']} {span(row)}"
    return f"{row['row']:>6}  {json.dumps(row['text'], ensure_ascii=False)}"
