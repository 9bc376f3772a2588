"""Embeddings as one file of vectors, and the rows that say what each vector is about."""

import json
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pengi_rt.config.family import generative
from pengi_rt.errors import InputError, UsageError
from pengi_rt.render.fields import audio_fields, span
from pengi_rt.render.output import PART
from pengi_rt.render.rows import ResultRows, Row
from pengi_rt.render.vectors import GrowingArray, save_npy, save_safetensors
from pengi_rt.system.quote import printable

if TYPE_CHECKING:
    from pengi_rt.plan.reader import Plan
    from pengi_rt.results.embedding import AudioEmbedding, TextEmbedding

EMBEDDING_COLUMNS: Final = (
    "row",
    "audio",
    "text",
    "start",
    "end",
    "text_truncated",
    "audio_truncated",
)
KINDS: Final = ("embedding", "prefix")
NPY: Final = ".npy"
SAFETENSORS: Final = ".safetensors"


class EmbeddingFile(ResultRows["AudioEmbedding"]):
    """The vectors so far, of recordings and of texts, and the table of their rows.

    A ``.npy`` file holds one array of one kind of vector, the texts' after the recordings'; a
    ``.safetensors`` file holds the arrays by name and the table.
    """

    columns = EMBEDDING_COLUMNS

    def __init__(self, path: Path, plan: "Plan", kind: str | None, files: ExitStack) -> None:
        """Start without vectors; they grow in files beside ``path``, closed with ``files``.

        Args:
            path: the file, whose suffix is :data:`NPY` or :data:`SAFETENSORS`.
            plan: what makes the vectors.
            kind: the one of :data:`KINDS` that an ``.npy`` file holds; the first if None.
            files: closes the files.

        Raises:
            UsageError: prefixes are requested, and the plan has no decoder.
            InputError: no files can be made there.
        """
        self.audio_rows: list[Row] = []
        self._text_rows: list[Row] = []
        self._path = path
        self._plan = plan
        self._apart = path.suffix.lower() == SAFETENSORS
        self._kinds = self._chosen(kind)

        def stored() -> GrowingArray:
            return files.enter_context(closing(GrowingArray(path)))

        self._audio, self._text = ({name: stored() for name in self._kinds} for _ in range(2))

    def _chosen(self, kind: str | None) -> tuple[str, ...]:
        """The vectors for the file: all kinds by name, or one kind in one array."""
        if kind == "prefix":
            self._plan.require("embed prefixes")
        if self._apart:
            return KINDS if "embed prefixes" in self._plan.tasks else KINDS[:1]
        return (kind or KINDS[0],)

    def check_shapes(self, *, recordings: bool, texts: bool) -> None:
        """Refuse vectors that do not fit into one array.

        Raises:
            UsageError: prefixes of recordings and texts differ in length.
        """
        if not (recordings and texts and self._kinds == ("prefix",)):
            return
        config = generative(self._plan.config)
        audio = config.audio_prefix_length
        lengths = audio, config.prefix_length - audio
        if lengths[0] != lengths[1]:
            raise UsageError(
                f"--what prefix: a recording has {lengths[0]} vectors and a text {lengths[1]}, "
                f"which do not fit one array: write a {SAFETENSORS} file, or run it once for each"
            )

    def __call__(self, result: "AudioEmbedding") -> list[Row]:
        """Keep a recording's vectors, and return their rows of the table."""
        for kind, stored in self._audio.items():
            stored.append(getattr(result, kind))
        spans = zip(result.starts, result.ends, strict=True)
        rest = {**audio_fields(result), "options": result.options.to_json()}
        rows = [
            {"row": row, "audio": result.audio, "start": start, "end": end, **rest}
            for row, (start, end) in enumerate(spans, len(self.audio_rows))
        ]
        self.audio_rows += rows
        return rows

    def keep_texts(self, results: "Iterable[TextEmbedding]") -> None:
        """Keep the vectors of texts."""
        for result in results:
            for kind, stored in self._text.items():
                stored.append(getattr(result, kind)[None])
            self._text_rows.append({"text": result.text, "text_truncated": result.truncated})

    def text_rows(self) -> list[Row]:
        """The rows of texts: in arrays of their own, or after those of the recordings so far."""
        first = 0 if self._apart else len(self.audio_rows)
        return [{"row": row, **text} for row, text in enumerate(self._text_rows, first)]

    def line(self, row: Row) -> str:
        """A row as text, in the format ``text``."""
        if "audio" in row:
            return printable(f"{row['row']:>6}  {row['audio']} {span(row)}")
        return printable(f"{row['row']:>6}  {json.dumps(row['text'], ensure_ascii=False)}")

    def save(self) -> None:
        """Write the file.

        Raises:
            InputError: it cannot be written.
        """
        self._save(self._path)

    @contextmanager
    def saved_on_error(self) -> Iterator[None]:
        """If the block raises, save the vectors so far beside the file and say so."""
        try:
            yield
        except BaseException as error:
            part = self._path.with_name(self._path.name + PART)
            if self.audio_rows:
                with suppress(InputError):  # the first error is the one to tell
                    self._save(part)
                    error.add_note(f"the vectors so far are in {part}")
            raise

    def _save(self, path: Path) -> None:
        sources = {"audio": (self._audio, self.audio_rows), "text": (self._text, self._text_rows)}
        arrays: dict[str, GrowingArray] = {}
        for source, (by_kind, rows) in sources.items():
            for kind, stored in by_kind.items() if rows else ():
                stored.truncate(len(rows))  # one array may have more, if this is a rescue
                arrays[f"{source}.{kind}"] = stored
        if not self._apart:
            save_npy(path, list(arrays.values()))
            return
        table = json.dumps([*self.audio_rows, *self.text_rows()])
        save_safetensors(path, arrays, {"plan": self._plan.fingerprint, "rows": table})
