"""A folder of recordings to an index: each is captioned, and caption and sound are embedded.

Source: paper, section 5.4. The caption's embedding is the model's own text encoder's, the sound's
is what the audio mapping network reads.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from pengi_rt.audio.find import Found as Names
from pengi_rt.audio.find import find_recordings
from pengi_rt.audio.recording import Recording, load_windows
from pengi_rt.backends.protocol import F32
from pengi_rt.decoding.hypotheses import Hypotheses
from pengi_rt.decoding.options import DecodeOptions
from pengi_rt.embed import embed_texts, unit
from pengi_rt.errors import AudioError, InputError, UsageError
from pengi_rt.file_hash import file_sha256
from pengi_rt.generate import Request, prompts_of, request, tidy, written
from pengi_rt.options import Options
from pengi_rt.reading import Group, parted, read_groups, waves
from pengi_rt.retrieval.approximate import complete_approximate, load_faiss
from pengi_rt.retrieval.builder import Builder
from pengi_rt.retrieval.index import Index
from pengi_rt.retrieval.manifest import Identity
from pengi_rt.retrieval.rows import Block, Row
from pengi_rt.retrieval.rows import Recording as Entry
from pengi_rt.retrieval.update import Found, Update
from pengi_rt.session import Session
from pengi_rt.system.sources import Regular


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
    """Is told how the work goes on."""

    def planned(self, planned: Indexed, /) -> None:
        """What is going to be done, should nothing fail."""

    def done(self, file: str, /) -> None:
        """That recording is captioned."""

    def failed(self, file: str, error: AudioError, /) -> None:
        """That recording cannot be read."""


class _Deaf:
    """A listener that does not care."""

    def planned(self, _planned: Indexed, /) -> None: ...

    def done(self, _file: str, /) -> None: ...

    def failed(self, _file: str, _error: AudioError, /) -> None: ...


_DEAF = _Deaf()


def index_folder(
    session: Session,
    folder: str | os.PathLike[str],
    index: str | os.PathLike[str],
    prompt: str | None,
    options: Options,
    *,
    rebuild: bool = False,
    approximate: bool = False,
    listener: Listener = _DEAF,
) -> Indexed:
    """Make the index of ``folder``, or bring it up to date: only what is new is captioned.

    A run that is interrupted is gone on with by the next. What it writes of a recording is the same
    in every run, up to rounding: a batch of one is computed in another order than others.

    Args:
        session: the plan, which has a text encoder.
        folder: looked through at any depth for recordings.
        index: the index's own folder; made if it is not there.
        prompt: what is asked; by default the plan's own.
        options: how it is searched; every recording is read window by window.
        rebuild: use nothing of the index that is there.
        approximate: write what approximate search needs as well.
        listener: is told how the work goes on.

    Raises:
        UsageError: an option cannot be; the index is of another plan, other options or another
            folder, or another process writes it.
        InputError: the folder, its recordings (of which there must be some) or the prompt cannot be
            read; the index is damaged, or cannot be written.
        BackendError: ``approximate`` without faiss.
    """
    if approximate:
        load_faiss()
    run = _Run(session, Path(folder), _request(session, prompt, options), options, listener)
    outcome = run.bring_up_to_date(Path(index), rebuild=rebuild)
    if approximate and outcome.recordings:
        complete_approximate(Index.open(Path(index)))
    return outcome


def _request(session: Session, prompt: str | None, options: Options) -> Request:
    """What every recording is asked. Raises UsageError, PromptError."""
    if not session.joint_embeddings:
        raise UsageError(
            f"{session.plan.path} has no text encoder, so captions have no embedding to search in; "
            "export a checkpoint that has one (base)"
        )
    if options["samples"] is not None:
        raise UsageError("an index holds what a search finds, not drawn answers: leave samples")
    if options["long_audio"] != "windows":
        raise UsageError("an index holds all of a recording: leave long_audio")
    # What no recording could be read with is refused here, before anything is written.
    click = np.ones(1, np.float32), session.config.mel.sample_rate
    list(read_groups([click], session.config, options))
    prompts = prompts_of(prompt, options, session.config.generation.prompt)
    return request(session, prompts, options)


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


def _identity(session: Session, asked: Request, options: Options) -> Identity:
    decode, config = asked.decode, session.config
    assert isinstance(decode, DecodeOptions)
    return Identity(
        plan=session.plan.fingerprint,
        settings={
            "prompt": asked.questions[0].prompt,
            "text": options["text"],
            "beam_size": decode.beam_size,
            "max_new_tokens": decode.max_new_tokens,
            "temperature": float(decode.divisor),
            "stop_id": decode.stop_id,
            "stop_strings": list(asked.stops),
            "hop": float(config.clip_seconds if options["hop"] is None else options["hop"]),
        },
        dimension=config.d_proj,
        audio_dimension=config.d_proj,
    )


@dataclass(frozen=True)
class _Run:
    """The recordings of a folder, and what is written about them."""

    session: Session
    folder: Path
    asked: Request
    options: Options
    listener: Listener
    failed: list[tuple[str, str]] = field(default_factory=list)
    _entries: dict[str, Entry] = field(default_factory=dict)  # read and not yet captioned

    def bring_up_to_date(self, index: Path, *, rebuild: bool) -> Indexed:
        """Caption what is new."""
        names = self.names()
        files = [self._found(Path(name)) for name in names.paths]
        if not rebuild:
            _check_collection(index, self.folder)
        identity = _identity(self.session, self.asked, self.options)
        collection = str(self.folder.resolve())
        with Builder(index, identity, collection=collection, rebuild=rebuild) as builder:
            unread = (self._relative(each.path) for each in names.problems)
            files = builder.with_known_below(unread, files)
            update = builder.plan(files, lambda file: _digest(self.folder / file))
            (question,) = self.asked.questions
            outcome = Indexed(update, question.prompt, question.truncated, names=names)
            self.listener.planned(outcome)
            recordings = self.recordings(update.todo)
            for group in read_groups(recordings, self.session.config, self.options):
                for block in self.blocks(group):
                    builder.add(*block)
                    self.listener.done(block.rows[0].file)
            builder.commit(update)
        return replace(outcome, failed=tuple(self.failed))

    def names(self) -> Names:
        """All recordings of the folder. Raises InputError, AudioError."""
        if not self.folder.is_dir():
            raise InputError(f"{self.folder}: is no folder: name the one that holds the recordings")
        # The slash makes a folder of whatever name no list (@...), and none standard input (-).
        return find_recordings([f"{self.folder}{os.sep}"])

    def _relative(self, path: str | Path) -> str:
        return Path(path).relative_to(self.folder).as_posix()

    def _found(self, path: Path) -> Found:
        file = self._relative(path)
        try:
            status = path.stat()
        except OSError:  # a broken link: whoever reads it says so
            return Found(file, 0, 0)
        return Found(file, status.st_size, status.st_mtime_ns)

    def recordings(self, files: Iterable[Found]) -> Iterator[Recording]:
        """Those of the files that can be read."""
        for found in files:
            try:
                entry, recording = self._read(found)
            except AudioError as error:
                self.failed.append((found.file, str(error)))
                self.listener.failed(found.file, error)
            else:
                self._entries[recording.name] = entry
                yield recording

    def _read(self, found: Found) -> tuple[Entry, Recording]:
        path = self.folder / found.file
        # Hashed before it is read: if it is replaced in between, the next run sees another content.
        sha256 = _digest(path)
        recording = load_windows(Regular(path), self.session.config, hop=self.options["hop"])
        if sha256 is None:
            raise AudioError(f"{path}: could not be read a moment ago: run the command again")
        return Entry(*found, sha256), recording

    def blocks(self, group: Group) -> list[Block]:
        """Rows and vectors of every recording of a group."""
        answers, sounds = self._hear(group)
        decode, stops = self.session.tokenizer.decode, self.asked.stops
        captions = [tidy(decode(each.beams[0].tokens), stops) for each in answers]
        scores = [each.beams[0].score for each in answers]
        vectors = unit(np.stack([each.embedding for each in embed_texts(self.session, captions)]))
        blocks = []
        for recording, own in parted(group):
            entry = self._entries.pop(recording.name)
            windows = zip(recording.starts, recording.ends, captions[own], scores[own], strict=True)
            rows = [Row(entry, *window) for window in windows]
            blocks.append(Block(rows, vectors[own], sounds[own]))
        return blocks

    def _hear(self, group: Group) -> tuple[list[Hypotheses], F32]:
        """What is written of each window of a group, and the sounds' unit vectors ``[n, d]``."""
        (question,) = self.asked.questions
        answers: list[Hypotheses] = []
        sounds = []
        for wave in waves(group, self.asked.batch_size):
            with self.session.decoding():
                heard = self.session.backend.encode_audio(wave)
                answers += written(self.session, heard.prefix, question.rows, self.asked)
            sounds.append(heard.embedding)
        return answers, unit(np.concatenate(sounds))


def _digest(path: Path) -> str | None:
    """SHA-256 of a file's content; none if it cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return None
