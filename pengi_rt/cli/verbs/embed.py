"""``pengi-rt embed``: recordings and texts in, vectors out."""

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pengi_rt.cli.named import named_recordings
from pengi_rt.cli.options import (
    add_engine,
    add_reading,
    add_recordings,
    open_engine,
    options_of,
    protect_inputs,
)
from pengi_rt.cli.output import add_force, check_place
from pengi_rt.cli.run import SOME_FAILED, Run
from pengi_rt.config.family import generative
from pengi_rt.config.options import ReadOptions
from pengi_rt.errors import InputError, UsageError
from pengi_rt.render.fields import audio_fields, span
from pengi_rt.render.output import PART, open_output
from pengi_rt.render.rows import FORMATS, Row, RowWriter
from pengi_rt.render.vectors import GrowingArray, save_npy, save_safetensors
from pengi_rt.system.quote import printable

if TYPE_CHECKING:
    from pengi_rt.engine import Engine
    from pengi_rt.plan.reader import Plan
    from pengi_rt.results.embedding import AudioEmbedding, TextEmbedding

COLUMNS: Final = ("row", "audio", "text", "start", "end", "text_truncated", "audio_truncated")
KINDS: Final = ("embedding", "prefix")
NPY: Final = ".npy"
SAFETENSORS: Final = ".safetensors"


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
    names = named_recordings(arguments) if arguments.audio else []
    protect_inputs(arguments, names)
    with open_engine(arguments) as engine:
        return _embed(engine, names, texts, arguments)


def _embed(
    engine: "Engine", names: list[str], texts: list[str], arguments: argparse.Namespace
) -> int:
    run = Run(arguments, names)
    target = Path(os.path.realpath(arguments.output))  # a link stays a link
    with ExitStack() as files:
        found = _Vectors(engine, _kinds(arguments, engine.plan), target, files)
        found.check_shapes(recordings=bool(names), texts=bool(texts))
        # Invalid texts and options are refused here, before any recording is read.
        results = engine.embed_audio(
            run,
            partial_results=True,
            on_error=run.on_error,
            options=options_of(arguments, ReadOptions),
        )
        for text in _embedded(engine, texts, strict=arguments.strict):
            found.keep_text(text)
        with _saved_on_error(found, target):
            with (
                open_output(None) as output,
                RowWriter(output, arguments.format, columns=COLUMNS, line=_line) as writer,
            ):
                code = run.write(writer, results, found.keep_audio)
                writer.write(found.text_rows())
            if texts or found.audio_rows:
                found.save(target)
    return SOME_FAILED if code and texts else code


def _embedded(engine: "Engine", texts: list[str], *, strict: bool) -> "Iterator[TextEmbedding]":
    """Vectors of texts, those of a batch at a time in memory."""
    from pengi_rt.tasks.embed import TEXT_BATCH

    for first in range(0, len(texts), TEXT_BATCH):
        yield from engine.embed_text(texts[first : first + TEXT_BATCH], strict=strict)


@contextmanager
def _saved_on_error(found: "_Vectors", output: Path) -> Iterator[None]:
    """If the block raises, save the vectors so far beside ``output`` and say so.

    Raises:
        InputError: standard output is closed; without the table of rows the vectors are useless.
    """
    try:
        try:
            yield
        except BrokenPipeError:
            raise InputError(
                "cannot write the table of rows: nothing reads standard output now; send it to "
                "a file"
            ) from None
    except BaseException as error:
        part = output.with_name(output.name + PART)
        if found.audio_rows:
            with suppress(InputError):  # the first error is the one to tell
                found.save(part)
                error.add_note(f"the vectors so far are in {part}")
        raise


class _Vectors:
    """The vectors so far, of recordings and of texts, and the table of their rows."""

    def __init__(
        self, engine: "Engine", kinds: tuple[str, ...], target: Path, files: ExitStack
    ) -> None:
        """Start without vectors; they grow in files beside ``target``, closed with ``files``.

        Raises:
            InputError: no files can be made there.
        """
        self.audio_rows: list[Row] = []
        self._texts: list[Row] = []
        self._engine = engine
        self._kinds = kinds
        self._apart = target.suffix.lower() == SAFETENSORS

        def stored() -> GrowingArray:
            return files.enter_context(closing(GrowingArray(target)))

        self._audio, self._text = ({kind: stored() for kind in kinds} for _ in range(2))

    def check_shapes(self, *, recordings: bool, texts: bool) -> None:
        """Refuse vectors that do not fit into one array.

        Raises:
            UsageError: prefixes of recordings and texts differ in length.
        """
        if not (recordings and texts and self._kinds == ("prefix",)):
            return
        config = generative(self._engine.config)
        audio = config.audio_prefix_length
        lengths = audio, config.prefix_length - audio
        if lengths[0] != lengths[1]:
            raise UsageError(
                f"--what prefix: a recording has {lengths[0]} vectors and a text {lengths[1]}, "
                f"which do not fit one array: write a {SAFETENSORS} file, or run it once for each"
            )

    def keep_audio(self, found: "AudioEmbedding") -> list[Row]:
        """Keep a recording's vectors, and return their rows of the table."""
        for kind, stored in self._audio.items():
            stored.append(getattr(found, kind))
        spans = zip(found.starts, found.ends, strict=True)
        rows = [
            {"row": row, "audio": found.audio, "start": start, "end": end, **audio_fields(found)}
            for row, (start, end) in enumerate(spans, len(self.audio_rows))
        ]
        self.audio_rows += rows
        return rows

    def keep_text(self, found: "TextEmbedding") -> None:
        """Keep a text's vectors."""
        for kind, stored in self._text.items():
            stored.append(getattr(found, kind)[None])
        self._texts.append({"text": found.text, "text_truncated": found.truncated})

    def text_rows(self) -> list[Row]:
        """The rows of texts: in arrays of their own, or after those of the recordings so far."""
        first = 0 if self._apart else len(self.audio_rows)
        return [{"row": row, **text} for row, text in enumerate(self._texts, first)]

    def save(self, path: Path) -> None:
        """Write the file.

        Raises:
            InputError: it cannot be written.
        """
        sources = {"audio": (self._audio, self.audio_rows), "text": (self._text, self._texts)}
        arrays: dict[str, GrowingArray] = {}
        for source, (by_kind, rows) in sources.items():
            for kind, stored in by_kind.items() if rows else ():
                stored.truncate(len(rows))  # one array may have more, if this is a rescue
                arrays[f"{source}.{kind}"] = stored
        if not self._apart:
            save_npy(path, list(arrays.values()))
            return
        table = json.dumps([*self.audio_rows, *self.text_rows()])
        save_safetensors(path, arrays, {"plan": self._engine.plan.fingerprint, "rows": table})


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


def _kinds(arguments: argparse.Namespace, plan: "Plan") -> tuple[str, ...]:
    """The vectors for the file: all kinds by name, or one kind in one array.

    Raises:
        UsageError: prefixes are requested, and the plan has no decoder.
    """
    if arguments.what == "prefix":
        plan.require("embed prefixes")
    if Path(arguments.output).suffix.lower() == SAFETENSORS:
        return KINDS if "embed prefixes" in plan.tasks else KINDS[:1]
    return (arguments.what or KINDS[0],)


def _line(row: Row) -> str:
    if "audio" in row:
        return printable(f"{row['row']:>6}  {row['audio']} {span(row)}")
    return printable(f"{row['row']:>6}  {json.dumps(row['text'], ensure_ascii=False)}")
