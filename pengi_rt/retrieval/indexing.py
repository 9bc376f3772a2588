"""A folder of recordings to an index: each is captioned, and caption and sound are embedded.

Source: paper, section 5.4. The caption's embedding is the model's own text encoder's, the sound's
is what the audio mapping network reads.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pengi_rt.audio import Recording, load_windows
from pengi_rt.backends.protocol import F32
from pengi_rt.config import ModelConfig
from pengi_rt.decoding.beam import search
from pengi_rt.decoding.hypotheses import Hypotheses
from pengi_rt.decoding.options import DecodeOptions
from pengi_rt.embed import embed_texts, heard, unit
from pengi_rt.errors import AudioError, InputError, UsageError
from pengi_rt.generate import Request, before_stop, prompts_of, request, stopping
from pengi_rt.inputs import find_recordings
from pengi_rt.options import Options
from pengi_rt.reading import Group, read_groups
from pengi_rt.retrieval.builder import Builder
from pengi_rt.retrieval.index import Index
from pengi_rt.retrieval.manifest import Identity
from pengi_rt.retrieval.rows import Recording as Entry
from pengi_rt.retrieval.rows import Row
from pengi_rt.retrieval.update import Found, Update
from pengi_rt.session import Session, prefixes


@dataclass(frozen=True, slots=True)
class Indexed:
    """What an index was brought up to date with."""

    update: Update
    failed: tuple[tuple[str, str], ...]
    """Recordings that could not be read, and why; they are tried again next time."""


@dataclass
class _Progress:
    """What is told while recordings are indexed."""

    on_plan: Callable[[Update], None]
    on_done: Callable[[str], None]
    on_error: Callable[[AudioError], None]
    failed: list[tuple[str, str]] = field(default_factory=list)

    def fail(self, file: str, error: AudioError) -> None:
        self.failed.append((file, str(error)))
        self.on_error(error)


def index_folder(
    session: Session,
    folder: Path,
    index: Path,
    options: Options,
    *,
    rebuild: bool = False,
    on_plan: Callable[[Update], None] = lambda _: None,
    on_done: Callable[[str], None] = lambda _: None,
    on_error: Callable[[AudioError], None] = lambda _: None,
) -> Indexed:
    """Make the index of ``folder``, or bring it up to date: only what is new is captioned.

    A run that is interrupted is gone on with by the next.

    Args:
        session: the plan, which has a text encoder.
        folder: looked through at any depth for recordings.
        index: the index's own folder; made if it is not there.
        options: what is asked, and how it is searched; every recording is read window by window.
        rebuild: use nothing of the index that is there.
        on_plan: called with what is to be done.
        on_done: called with the name of each recording that is.
        on_error: called with why a recording cannot be read.

    Raises:
        UsageError: an option cannot be; the plan has no text encoder; the index is of another plan
            or other options, or another process writes it.
        InputError: the index is damaged, or cannot be written.
        AudioError: the folder has no recordings.
    """
    asked = _request(session, options)
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder: name the one that holds the recordings")
    files = _found(folder)
    progress = _Progress(on_plan, on_done, on_error)
    identity = _identity(session, asked, options)
    if not rebuild:
        _check_collection(index, folder)
    with Builder(index, identity, collection=str(folder.resolve()), rebuild=rebuild) as builder:
        update = builder.plan(files, lambda file: _digest_if_readable(folder / file))
        progress.on_plan(update)
        named = {str(folder / found.file): found for found in update.todo}
        recordings = _readable(folder, update.todo, session.config, options, progress)
        for group in read_groups(recordings, session.config, options):
            for rows, captions, sounds in _blocks(session, group, asked, named, folder):
                builder.add(rows, captions, sounds)
                progress.on_done(rows[0].file)
        builder.commit(update)
    return Indexed(update, tuple(progress.failed))


def _check_collection(index: Path, folder: Path) -> None:
    """Refuse to replace an index by another folder's; one that was moved is the same."""
    if not Path(index).is_dir() or not any(Path(index).iterdir()):
        return
    try:
        known = Path(Index.open(index).collection)
    except InputError:  # not finished, or the builder says what is wrong
        return
    if known != folder.resolve() and known.is_dir():
        raise UsageError(
            f"{index}: is of {known}, and {folder} would take its place: name another index, or "
            "give --rebuild"
        )


def _request(session: Session, options: Options) -> Request:
    """What every recording is asked. Raises UsageError."""
    if not session.joint_embeddings:
        raise UsageError(
            f"{session.plan.path} has no text encoder, so captions have no embedding to search in; "
            "export a checkpoint that has one (base)"
        )
    if options["samples"] is not None:
        raise UsageError("an index holds what a search finds, not drawn answers: leave samples")
    if options["long_audio"] != "windows":
        raise UsageError("an index holds all of a recording: leave long_audio")
    prompts = prompts_of(None, options, session.config.generation.prompt)
    return request(session, prompts, options)


def _identity(session: Session, asked: Request, options: Options) -> Identity:
    decode = asked.decode
    assert isinstance(decode, DecodeOptions)
    return Identity(
        plan=session.plan.fingerprint,
        settings={
            "prompt": asked.questions[0].prompt,
            "text": options["text"],
            "beam_size": decode.beam_size,
            "max_new_tokens": decode.max_new_tokens,
            "temperature": decode.divisor,
            "stop_id": decode.stop_id,
            "stop_strings": list(asked.stops),
            "hop": session.config.clip_seconds if options["hop"] is None else options["hop"],
        },
        dimension=session.config.d_proj,
        audio_dimension=session.config.d_proj,
    )


def _found(folder: Path) -> list[Found]:
    """The recordings of a folder, with names relative to it."""
    found = []
    for name in find_recordings([str(folder)]):
        status = Path(name).stat()
        file = Path(name).relative_to(folder).as_posix()
        found.append(Found(file, status.st_size, status.st_mtime_ns))
    return found


def _readable(
    folder: Path, files: Iterable[Found], config: ModelConfig, options: Options, progress: _Progress
) -> Iterator[Recording]:
    """The recordings that can be read."""
    for found in files:
        try:
            yield load_windows(folder / found.file, config, hop=options["hop"])
        except AudioError as error:
            progress.fail(found.file, error)


def _blocks(
    session: Session, group: Group, asked: Request, named: Mapping[str, Found], folder: Path
) -> Iterator[tuple[list[Row], F32, F32]]:
    """Rows, captions and sounds of every recording of a group."""
    sounds, audio = heard(session, group, asked.batch_size)
    answers = _answers(session, audio, asked)
    captions = [before_stop(session.tokenizer.decode(each.beams[0].tokens), asked.stops).strip()
                for each in answers]  # fmt: skip
    vectors = unit(np.stack([each.embedding for each in embed_texts(session, captions)]))
    first = 0
    for recording in (read.recording for read in group):
        own = slice(first, first := first + len(recording))
        file = named[recording.name]
        entry = Entry(*file, _digest(folder / file.file))
        spans = zip(recording.starts, recording.ends, captions[own], answers[own], strict=True)
        rows = [Row(entry, start, end, caption, each.beams[0].score)
                for start, end, caption, each in spans]  # fmt: skip
        yield rows, vectors[own], unit(sounds[own])


def _answers(session: Session, audio: F32, asked: Request) -> list[Hypotheses]:
    """What is written behind each window's audio rows ``[n, a, n_embd]``."""
    assert isinstance(asked.decode, DecodeOptions)
    found: list[Hypotheses] = []
    ended = stopping(session.tokenizer, asked.stops)
    for start in range(0, len(audio), asked.batch_size):
        rows = prefixes(audio[start : start + asked.batch_size], asked.questions[0].rows)
        with session.decoding():
            found += search(session.backend, rows, asked.decode, ended=ended)
    return found


def _digest(path: Path) -> str:
    """SHA-256 of a file's content.

    Raises:
        InputError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None


def _digest_if_readable(path: Path) -> str | None:
    try:
        return _digest(path)
    except InputError:
        return None
