"""A folder of recordings to an index: each is captioned, and caption and sound are embedded.

Source: paper, section 5.4. The caption's embedding is the model's own text encoder's, the sound's
is what the audio mapping network reads.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple, Protocol

import numpy as np

from pengi_rt.audio.find import FoundRecordings as Names
from pengi_rt.audio.find import find_recordings
from pengi_rt.audio.recording import AudioLike, Recording, load_windows
from pengi_rt.backends.protocol import F32
from pengi_rt.config.checked import as_path
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.options import IndexOptions
from pengi_rt.errors import AudioError, InputError, UsageError
from pengi_rt.session.batches import Batch, RecordingOutputs, split_by_recording, window_batches
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
from pengi_rt.tasks.search.rows import IndexedFile, IndexRow, RowBlock
from pengi_rt.tasks.search.update import FileStat, Update


@dataclass(frozen=True, slots=True)
class Indexed:
    """What an index was brought up to date with."""

    update: Update
    prompt: str
    prompt_truncated: bool
    """Its end did not fit."""
    failed: tuple[tuple[str, str], ...] = ()
    """Recordings that could not be read, and why; they are tried again next time."""
    names: Names = field(default_factory=lambda: Names([], [], {}))
    """What was found in the folder: where it could not be read, the index keeps what it has."""

    @property
    def counts(self) -> dict[str, int]:
        """Recordings that are new, changed, moved, deleted and kept, without those that failed."""
        update, failed = self.update, {file for file, _ in self.failed}
        return {
            "new": sum(found.file not in failed for found in update.new),
            "changed": sum(found.file not in failed for found in update.changed),
            "moved": len(update.moved),
            "deleted": len(update.deleted),
            "kept": len(update.kept),
        }

    @property
    def recordings(self) -> int:
        """How many the index has now."""
        return sum(count for name, count in self.counts.items() if name != "deleted")


class Listener(Protocol):
    """Is called as the work proceeds."""

    def planned(self, planned: Indexed, /) -> None:
        """The work begins; ``planned`` is its outcome if nothing fails."""

    def done(self, file: str, /) -> None:
        """A recording was captioned."""

    def failed(self, file: str, error: AudioError, /) -> None:
        """A recording cannot be read."""


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
    """Make the index of ``folder``, or bring it up to date: only what is new is captioned.

    A run that is interrupted is gone on with by the next; rows are the same up to rounding.

    Args:
        session: the plan, which has a text encoder.
        folder: looked through at any depth for recordings.
        index: the index's own folder; made if it is not there.
        prompt: what is asked; by default the plan's own.
        options: see :class:`IndexOptions`; every recording is read window by window.
        listener: is told how the work goes on.

    Raises:
        UsageError: an argument cannot be; the index is of another plan, options or folder, or
            another process writes it.
        InputError: folder, recordings (of which there must be some) or prompt cannot be read; the
            index is damaged, or cannot be read or written.
        BackendError: ``approximate`` without faiss.
    """
    if options.approximate:
        load_faiss()
    folder, index = as_path("folder", folder), as_path("index", index)
    run = _Run(
        session, folder, _request(session, prompt, options), options, listener or NoListener()
    )
    outcome = run.bring_up_to_date(index, rebuild=options.rebuild)
    if options.approximate and outcome.recordings:
        complete_approximate(Index.open(index))
    return outcome


def _request(session: Session, prompt: str | None, options: IndexOptions) -> PreparedRequest:
    """What every recording is asked. Raises UsageError, PromptError."""
    if not session.has_joint_embeddings:
        raise UsageError(
            f"{session.plan.path} has no text encoder, so captions have no embedding to search in; "
            "export a checkpoint that has one (base)"
        )
    # What no recording could be read with is refused here, before anything is written.
    click = np.array([0.5, -0.5], np.float32), session.config.mel.sample_rate
    list(window_batches([click], session.config, options))
    prompts = prompts_of(prompt, options, session.config.generation.prompt)
    return prepare(session, prompts, options)


def _check_collection(index: Path, folder: Path) -> None:
    """Refuse to replace an index by another folder's; one that was moved is the same."""
    try:
        known = Index.open(index, verify=False).collection
    except InputError:  # not finished, or the builder says what is wrong
        return
    if known != str(folder.resolve()) and os.path.isdir(known):  # noqa: PTH112 - never raises
        raise UsageError(
            f"{index}: is the index of {known}, and {folder} would take its place: name another "
            "index, or give --rebuild"
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
    """The recordings of a folder, and what is written about them."""

    session: Session
    folder: Path
    request: PreparedRequest
    options: IndexOptions
    listener: Listener
    failed: list[tuple[str, str]] = field(default_factory=list)
    _entries: dict[str, IndexedFile] = field(default_factory=dict)  # read and not yet captioned

    def bring_up_to_date(self, index: Path, *, rebuild: bool) -> Indexed:
        """Caption what is new."""
        names = self.names()
        files = [self._found(Path(name)) for name in names.paths]
        if not rebuild:
            _check_collection(index, self.folder)
        identity = _identity(self.session, self.request, self.options)
        collection = str(self.folder.resolve())
        with Builder(index, identity, collection=collection, rebuild=rebuild) as builder:
            unread = (self._relative(each.path) for each in names.problems)
            files = builder.with_known_below(unread, files)
            update = builder.plan(files, lambda file: _digest(self.folder / file))
            (question,) = self.request.prompts
            outcome = Indexed(update, question.prompt, question.truncated, names=names)
            self.listener.planned(outcome)
            recordings = self.recordings(update.todo)
            batches = window_batches(
                recordings, self.session.config, self.options, on_error=self._broken
            )
            for part in split_by_recording(batches, self.captions):
                builder.add(*self.block(part))
                self.listener.done(self._entries.pop(part.recording.name).file)
            builder.commit(update)
        return replace(outcome, failed=tuple(self.failed))

    def names(self) -> Names:
        """All recordings of the folder. Raises InputError, AudioError."""
        _check_folder(self.folder)
        # The slash makes a folder of whatever name no list (@...), and none standard input (-).
        return find_recordings([f"{self.folder}{os.sep}"])

    def _relative(self, path: str | Path) -> str:
        return Path(path).relative_to(self.folder).as_posix()

    def _found(self, path: Path) -> FileStat:
        file = self._relative(path)
        try:
            status = path.stat()
        except OSError:  # a broken link: whoever reads it says so
            return FileStat(file, 0, 0)
        return FileStat(file, status.st_size, status.st_mtime_ns)

    def recordings(self, files: Iterable[FileStat]) -> Iterator[Recording]:
        """Those of the files that can be read."""
        for found in files:
            try:
                entry, recording = self._read(found)
            except AudioError as error:
                self._fail(found.file, error)
            else:
                self._entries[recording.name] = entry
                yield recording

    def _fail(self, file: str, error: AudioError) -> None:
        self.failed.append((file, str(error)))
        self.listener.failed(file, error)

    def _broken(self, recording: AudioLike | Recording, error: AudioError) -> None:
        """A recording that cannot be read to its end any more."""
        assert isinstance(recording, Recording)
        self._fail(self._entries.pop(recording.name).file, error)

    def _read(self, found: FileStat) -> tuple[IndexedFile, Recording]:
        path = self.folder / found.file
        # Hashed before it is read: if it is replaced in between, the next run sees another content.
        sha256 = _digest(path)
        hop, strict = self.options.hop, self.options.strict
        recording = load_windows(Regular(path), self.session.config, hop=hop, strict=strict)
        if sha256 is None:
            raise AudioError(f"{path}: could not be read a moment ago: run the command again")
        return IndexedFile(*found, sha256), recording

    def captions(self, batch: Batch) -> "list[_Captioned]":
        """What is written of every window of a batch, and the vectors of that and of its sound."""
        (question,) = self.request.prompts
        with self.session.exclusive_decoding():
            heard = self.session.backend.encoders.encode_audio(batch.windows)
            answers = decode_windows(self.session, heard.prefix, question.prefix(), self.request)
        best = [each.beams[0] for each in answers]
        decode, stops = self.session.tokenizer.decode, self.request.stops
        captions = [cut_at_stop(decode(beam.tokens), stops).strip() for beam in best]
        vectors = unit(np.stack([each.embedding for each in embed_texts(self.session, captions)]))
        scores = [beam.score for beam in best]
        return list(map(_Captioned, captions, scores, vectors, unit(heard.embedding)))

    def block(self, part: "RecordingOutputs[_Captioned]") -> RowBlock:
        """Rows and vectors of a recording."""
        entry = self._entries[part.recording.name]
        windows = zip(part.spans, part.outputs, strict=True)
        rows = [IndexRow(entry, *span, each.caption, each.score) for span, each in windows]
        vectors = np.stack([each.vector for each in part.outputs])
        return RowBlock(rows, vectors, np.stack([each.sound for each in part.outputs]))


class _Captioned(NamedTuple):
    """A window's caption, its score, and the unit vectors ``[d]`` of caption and sound."""

    caption: str
    score: float
    vector: F32
    sound: F32


def _check_folder(folder: Path) -> None:
    """Raises InputError unless it is a folder."""
    try:
        found = S_ISDIR(folder.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a NUL in it, too
        found = False
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror or error}") from None
    if not found:
        raise InputError(f"{folder}: is no folder: name the one that holds the recordings")


def _digest(path: Path) -> str | None:
    """SHA-256 of a file's content; none if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return None
