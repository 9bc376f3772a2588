"""Index a folder: caption each recording, and embed the caption and the sound.

Source: paper, section 5.4. Captions are embedded by the model's own text encoder; the embedding of
a sound is the input of the audio mapping network.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple, Protocol

import numpy as np

from pengi_rt.audio.find import FoundRecordings, find_recordings
from pengi_rt.audio.recording import AudioLike, Recording
from pengi_rt.backends.protocol import F32
from pengi_rt.config.checked import as_path
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.options import IndexOptions
from pengi_rt.errors import AudioError, InputError, UsageError
from pengi_rt.results.search import Indexed
from pengi_rt.session.batches import Batch, OutputsByRecording, RecordingOutputs, window_batches
from pengi_rt.session.session import Session
from pengi_rt.system.files import file_sha256
from pengi_rt.system.regular import Regular
from pengi_rt.tasks.embed import embed_texts, unit
from pengi_rt.tasks.generate import cut_at_stop, decode_windows
from pengi_rt.tasks.prepare import PreparedRequest, prepare, prompts_of
from pengi_rt.tasks.search.approximate import complete_approximate, load_faiss
from pengi_rt.tasks.search.builder import Builder
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.index_manifest import Identity
from pengi_rt.tasks.search.rows import IndexedFile, IndexRow
from pengi_rt.tasks.search.update import FileStat, Update


class Listener(Protocol):
    """Receives progress events."""

    def planned(self, planned: Indexed, /) -> None:
        """Called when the work begins; ``planned`` is its outcome if nothing fails."""

    def done(self, file: str, /) -> None:
        """Called when a recording was captioned."""

    def failed(self, file: str, error: AudioError, /) -> None:
        """Called when a recording cannot be read."""


class NoListener:
    """A listener that ignores everything."""

    def planned(self, planned: Indexed, /) -> None:
        """Ignored."""

    def done(self, file: str, /) -> None:
        """Ignored."""

    def failed(self, file: str, error: AudioError, /) -> None:
        """Ignored."""


def index_folder(
    session: Session,
    folder: str | os.PathLike[str],
    index: str | os.PathLike[str],
    prompt: str | None,
    options: IndexOptions,
    *,
    listener: Listener | None = None,
) -> Indexed:
    """Make or update the index of ``folder``: only new and changed recordings are captioned.

    The next run continues an interrupted run; the resulting rows are the same up to rounding.

    Args:
        session: an open plan with a text encoder.
        folder: a folder with recordings at any depth.
        index: folder of the index; created if necessary.
        prompt: the prompt for every recording; by default the plan's own.
        options: see :class:`IndexOptions`; every recording is read window by window.
        listener: called as the work proceeds.

    Raises:
        UsageError: an argument is invalid; the index has a different plan, options or folder; or
            another process is writing to it.
        InputError: the folder or prompt cannot be read; there are no recordings; or the index is
            damaged, or cannot be read or written.
        BackendError: ``approximate`` is given, and faiss is missing.
    """
    session.plan.require("index")
    if options.approximate:
        load_faiss()
    folder, index = as_path("folder", folder), as_path("index", index)
    run = _Run(
        session, folder, _request(session, prompt, options), options, listener or NoListener()
    )
    outcome = run.update(index, rebuild=options.rebuild)
    if options.approximate and outcome.recordings:
        complete_approximate(Index.open(index))
    return outcome


def _request(session: Session, prompt: str | None, options: IndexOptions) -> PreparedRequest:
    """The request that every recording is captioned with. Raises UsageError, PromptError."""
    # Refuse invalid reading options here, before anything is written.
    click = np.array([0.5, -0.5], np.float32), session.config.sample_rate
    list(window_batches([click], session.config, options))
    prompts = prompts_of(prompt, options, session.generative.generation.prompt)
    return prepare(session, prompts, options)


def _check_collection(index: Path, folder: Path) -> None:
    """Refuse to replace the index of another folder, unless that folder is gone (moved)."""
    try:
        known = Index.open(index, verify=False).collection
    except InputError:  # unfinished, or the builder will say what is wrong
        return
    if known != str(folder.resolve()) and os.path.isdir(known):  # noqa: PTH112 - never raises
        raise UsageError(
            f"{index}: is the index of {known}, which {folder} would replace: name another index, "
            "or give --rebuild"
        )


def _identity(session: Session, request: PreparedRequest, options: IndexOptions) -> Identity:
    decode, config = request.decode, session.config
    assert isinstance(decode, DecodeOptions)
    return Identity(
        plan=session.plan.fingerprint,
        settings={
            "prompt": request.prompts[0].prompt,
            "text": options.text,
            "beam_size": decode.beam_size,
            "max_new_tokens": decode.max_new_tokens,
            "temperature": float(decode.divisor),
            "stop_id": decode.stop_id,
            "stop_strings": list(request.stops),
            "hop": float(config.clip_seconds if options.hop is None else options.hop),
        },
        dimension=config.d_proj,
        audio_dimension=config.d_proj,
    )


@dataclass(frozen=True)
class _Run:
    """One run over the recordings of a folder."""

    session: Session
    folder: Path
    request: PreparedRequest
    options: IndexOptions
    listener: Listener
    failed: list[tuple[str, str]] = field(default_factory=list)
    _drawn: dict[str, tuple[FileStat, str | None]] = field(default_factory=dict)
    """Files that are not captioned yet, and their SHA-256, by path."""

    def update(self, index: Path, *, rebuild: bool) -> Indexed:
        """Caption new and changed recordings."""
        names = self.names()
        files = [self._stat(Path(name)) for name in names.paths]
        if not rebuild:
            _check_collection(index, self.folder)
        identity = _identity(self.session, self.request, self.options)
        collection = str(self.folder.resolve())
        with Builder(index, identity, collection=collection, rebuild=rebuild) as builder:
            unread = (self._relative(each.path) for each in names.problems)
            files = builder.with_known_below(unread, files)
            update = builder.plan(files, lambda file: _digest(self.folder / file))
            outcome = self.outcome(update, names)
            self.listener.planned(outcome)
            batches = window_batches(
                self.sources(update.todo),
                self.session.config,
                self.options,
                on_error=self._on_error,
            )
            by_recording = OutputsByRecording[_Captioned]()
            for batch in batches:
                for part in by_recording.add(batch, self.captions(batch)):
                    self.add(builder, part)
            builder.commit(update)
        return replace(outcome, failed=tuple(self.failed))

    def outcome(self, update: Update, names: FoundRecordings) -> Indexed:
        """What an update comes to if nothing fails."""
        (prompt,) = self.request.prompts
        return Indexed(
            prompt.prompt,
            prompt.truncated,
            self.options.filled_in(self.session.generative.generation),
            new=tuple(found.file for found in update.new),
            changed=tuple(found.file for found in update.changed),
            moved=tuple(reuse.recording.file for reuse in update.moved),
            deleted=update.deleted,
            kept=tuple(reuse.recording.file for reuse in update.kept),
            unread=tuple((each.path, str(each.error)) for each in names.problems),
            skipped=names.skipped,
        )

    def names(self) -> FoundRecordings:
        """The recordings of the folder. Raises InputError, AudioError."""
        _check_folder(self.folder)
        # With the slash, no folder name is mistaken for a list (@...) or standard input (-).
        return find_recordings([f"{self.folder}{os.sep}"])

    def _relative(self, path: str | Path) -> str:
        return Path(path).relative_to(self.folder).as_posix()

    def _stat(self, path: Path) -> FileStat:
        file = self._relative(path)
        try:
            status = path.stat()
        except OSError:  # a broken link; reading it reports the error
            return FileStat(file, 0, 0)
        return FileStat(file, status.st_size, status.st_mtime_ns)

    def sources(self, files: Iterable[FileStat]) -> Iterator[Regular]:
        """The files, each hashed before it is read: the next run sees if it was replaced."""
        for file in files:
            path = self.folder / file.file
            self._drawn[str(path)] = file, _digest(path)
            yield Regular(path)

    def add(self, builder: Builder, part: "RecordingOutputs[_Captioned]") -> None:
        """Put a captioned recording into the index."""
        file, sha256 = self._drawn.pop(part.recording.name)
        if sha256 is None:
            why = f"{part.recording.name}: could not be read a moment ago: run the command again"
            self._fail(file.file, AudioError(why))
            return
        entry = IndexedFile(*file, sha256)
        windows = zip(part.spans, part.outputs, strict=True)
        rows = [IndexRow(entry, *span, each.caption, each.score) for span, each in windows]
        vectors = np.stack([each.vector for each in part.outputs])
        builder.add(rows, vectors, np.stack([each.sound for each in part.outputs]))
        self.listener.done(file.file)

    def _on_error(self, source: AudioLike | Recording, error: AudioError) -> None:
        """Note that the last recording handed out cannot be read to its end."""
        file, _ = self._drawn.pop(source.name if isinstance(source, Recording) else str(source))
        self._fail(file.file, error)

    def _fail(self, file: str, error: AudioError) -> None:
        self.failed.append((file, str(error)))
        self.listener.failed(file, error)

    def captions(self, batch: Batch) -> "list[_Captioned]":
        """Captions of a batch of windows, and the vectors of the captions and sounds."""
        (prompt,) = self.request.prompts
        with self.session.exclusive_decoding():
            encoded = self.session.encode_audio(batch.windows)
            answers = decode_windows(self.session, encoded.prefix, prompt.prefix(), self.request)
        best = [each.beams[0] for each in answers]
        decode, stops = self.session.tokenizer.decode, self.request.stops
        captions = [cut_at_stop(decode(beam.tokens), stops).strip() for beam in best]
        vectors = unit(np.stack([each.embedding for each in embed_texts(self.session, captions)]))
        scores = [beam.score for beam in best]
        return list(map(_Captioned, captions, scores, vectors, unit(encoded.embedding)))


class _Captioned(NamedTuple):
    """A window's caption, its score, and the unit vectors ``[d]`` of the caption and the sound."""

    caption: str
    score: float
    vector: F32
    sound: F32


def _check_folder(folder: Path) -> None:
    """Raise InputError unless ``folder`` is a folder."""
    try:
        found = S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        found = False
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None
    if not found:
        raise InputError(f"{folder}: is not a folder: name the one that holds the recordings")


def _digest(path: Path) -> str | None:
    """SHA-256 of a file's content; None if the file cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return None
