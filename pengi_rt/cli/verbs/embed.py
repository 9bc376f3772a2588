"""``pengi-rt embed``: recordings and texts in, vectors out."""

import argparse
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pengi_rt.cli.flags import (
    add_engine,
    add_force,
    add_reading,
    add_recordings,
    open_engine,
    options_of,
)
from pengi_rt.cli.output_checks import check_place
from pengi_rt.cli.run import Run, exit_code
from pengi_rt.config.options import ReadOptions
from pengi_rt.errors import InputError, UsageError
from pengi_rt.render.embedding import KINDS, NPY, SAFETENSORS, EmbeddingFile
from pengi_rt.render.output import PART, open_output
from pengi_rt.render.rows import FORMATS, RowWriter

if TYPE_CHECKING:
    from pengi_rt import AudioEmbedding

TEXTS_AT_A_TIME: Final = 64
"""Texts whose vectors are in memory; the rest of them is on the disk."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes."""
    parser.description = (
        "Write the vectors of recordings, window by window, and of texts, in float32, "
        "and print which row is what. A recording's embedding has length 1; a text's is as the "
        "model reads it, of length 1 only if the model was trained so: divide by the length for "
        "cosines."
    )
    add_recordings(parser, required=False)
    _add_texts(parser)
    add_reading(parser)
    add_engine(parser)
    parser.add_argument(
        "--what",
        choices=KINDS,
        help="what a .npy holds: [rows, d], or what the decoder reads, [rows, n, n_embd] "
        "(default: embedding; a .safetensors holds both)",
    )
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="text",
        help="how the table of rows is printed (default: %(default)s)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FILE",
        required=True,
        help=f"FILE{NPY}, one array, or FILE{SAFETENSORS}: audio.embedding, audio.prefix, "
        "text.embedding, text.prefix (each with its own row numbers), and in its metadata the "
        "table of rows as JSON. While it grows, the same space is taken by an unnamed file in the "
        f"same folder. If the run ends early, FILE is unchanged and FILE{PART} holds what was "
        "embedded",
    )
    add_force(parser)
    parser.set_defaults(run=run)


def _add_texts(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("texts (their rows follow the recordings')")
    group.add_argument("--texts", nargs="+", default=[], metavar="TEXT", help="texts themselves")
    group.add_argument(
        "--texts-file",
        type=Path,
        metavar="FILE",
        help="UTF-8, one text per line; they follow --texts",
    )


def run(arguments: argparse.Namespace) -> int:
    """Embed everything; a recording that cannot be read is reported and skipped."""
    texts = _texts(arguments)
    if not arguments.audio and not texts:
        raise UsageError("there is nothing to embed: name recordings, or give --texts")
    _check_output(arguments)
    run = Run(arguments)
    options = options_of(arguments, ReadOptions)
    target = Path(os.path.realpath(arguments.output))  # a link stays a link
    with open_engine(arguments) as engine, ExitStack() as files:
        vectors = EmbeddingFile(target, engine.plan, arguments.what, files)
        vectors.check_shapes(recordings=bool(run.names), texts=bool(texts))
        # Invalid texts and options are refused here, before any recording is read.
        results = engine.embed_audio(
            run, partial_results=True, on_error=run.on_error, options=options
        )
        for first in range(0, len(texts), TEXTS_AT_A_TIME):
            some = texts[first : first + TEXTS_AT_A_TIME]
            vectors.keep_texts(engine.embed_text(some, strict=arguments.strict))
        with vectors.saved_on_error():
            _write_table(run, results, vectors, arguments.format)
            if texts or vectors.audio_rows:
                vectors.save()
    return exit_code(run.answered + len(texts), run.failed)


def _write_table(
    run: Run, results: "Iterator[AudioEmbedding]", vectors: EmbeddingFile, form: str
) -> None:
    """Keep the vectors of the recordings, and print the table of rows.

    Raises:
        InputError: standard output is closed; without the table of rows the vectors are useless.
    """
    try:
        with (
            open_output(None) as output,
            RowWriter(output, form, columns=vectors.columns, line=vectors.line) as writer,
        ):
            run.write(writer, results, vectors)
            writer.write(vectors.text_rows())
    except BrokenPipeError:
        raise InputError(
            "cannot write the table of rows: nothing reads standard output now; send it to a file"
        ) from None


def _texts(arguments: argparse.Namespace) -> list[str]:
    texts: list[str] = arguments.texts
    path: Path | None = arguments.texts_file
    if path is None:
        return texts
    from pengi_rt.system.text_file import text_lines

    found = [line.strip() for line in text_lines(path) if line.strip()]
    if not found:
        raise InputError(f"{path}: the file has no texts: write one per line")
    return [*texts, *found]


def _check_output(arguments: argparse.Namespace) -> None:
    """Refuse at once a file that could not be written in the end.

    Raises:
        UsageError: its name has neither suffix, or ``--what`` does not fit the format.
        InputError: the file cannot be written there.
    """
    output = Path(arguments.output)
    check_place("--output", output, [NPY, SAFETENSORS])
    if output.suffix.lower() == SAFETENSORS and arguments.what is not None:
        raise UsageError(f"--what {arguments.what}: a {SAFETENSORS} file holds both; leave --what")
