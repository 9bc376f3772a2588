"""Find every problem in a manifest, including its audio files."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple

from pengi_rt.audio.container import check_container
from pengi_rt.audio.containers.common import check_shape
from pengi_rt.audio.decode import open_decoder, read_blocks
from pengi_rt.errors import AudioError, UsageError
from pengi_rt.system.quote import one_line, shown
from pengi_rt.system.regular import open_regular
from pengi_rt.text.prompts import Task
from pengi_rt.training.manifest import ManifestError, Row, RowParser, manifest_lines, read_tags

MAX_SECONDS = 60.0

_LFS = b"version https://git-lfs"
_ROUNDING = 0.05  # seconds that a tag may end after its recording, since labels are rounded


class ManifestProblem(NamedTuple):
    """A problem. ``line`` is 0 if it concerns the whole manifest."""

    path: Path
    line: int
    message: str
    kind: Literal["row", "audio", "duplicate", "manifest"]

    def __str__(self) -> str:
        where = one_line(str(self.path))
        return f"{where}:{f'{self.line}:' if self.line else ''} {self.message}"


def check_manifest(
    path: Path,
    tasks: Mapping[str, Task],
    *,
    max_seconds: float = MAX_SECONDS,
    need_audio: bool = True,
) -> Iterator[ManifestProblem]:
    """Yield every problem in a manifest, in line order; see :class:`ManifestCheck`."""
    return ManifestCheck(path, tasks, max_seconds, need_audio=need_audio).problems()


@dataclass(slots=True)
class ManifestCheck:
    """A check in progress, with its counts so far.

    Each distinct audio file is opened once, and only its header is read, not its samples.

    Attributes:
        path: the manifest.
        tasks: the known tasks.
        max_seconds: longer recordings are a problem.
        need_audio: whether rows without ``audio`` are a problem.
        rows: rows seen, including bad ones.
        per_task: good rows of each task.
        clips: length of each readable recording, in seconds.
    """

    path: Path
    tasks: Mapping[str, Task]
    max_seconds: float = MAX_SECONDS
    need_audio: bool = True
    rows: int = 0
    per_task: Counter[str] = field(default_factory=Counter)
    clips: dict[Path, float] = field(default_factory=dict)
    _refused: dict[Path, str] = field(default_factory=dict)
    _seen: dict[int, int] = field(default_factory=dict)  # hash of a row -> its line

    def problems(self) -> Iterator[ManifestProblem]:
        """Yield all problems, in line order."""
        parser = RowParser(self.path.parent, self.tasks, need_audio=self.need_audio)
        try:
            for number, line in manifest_lines(self.path):
                self.rows += 1
                yield from self._line(parser, number, line)
        except ManifestError as error:
            message = str(error).removeprefix(f"{one_line(str(self.path))}: ")
            yield ManifestProblem(self.path, 0, message, "manifest")
            return
        if not self.rows:
            message = "the manifest has no rows; write one JSON object per line"
            yield ManifestProblem(self.path, 0, message, "manifest")

    def _line(self, parser: RowParser, number: int, line: bytes) -> Iterator[ManifestProblem]:
        try:
            data = parser.decoded(line)
        except UsageError as error:
            yield ManifestProblem(self.path, number, str(error), "row")
            return
        faults = parser.faults(data)
        for message in faults:
            yield ManifestProblem(self.path, number, message, "row")
        for message in self._audio_faults(parser, data):
            yield ManifestProblem(self.path, number, message, "audio")
        if not faults:
            row = parser.row(number, data)
            self.per_task[row.task] += 1
            if first := self._first_equal(row):
                message = f"the same row as line {first}; remove one of them"
                yield ManifestProblem(self.path, number, message, "duplicate")

    def _audio_faults(self, parser: RowParser, data: Mapping[str, object]) -> Iterator[str]:
        try:
            audio = parser.audio(data)
        except UsageError:  # reported with the row's own faults
            return
        if audio is None:
            return
        if audio not in self.clips and audio not in self._refused:
            self._inspect(audio)
        if audio in self._refused:
            yield self._refused[audio]
            return
        seconds = self.clips[audio]
        if seconds > self.max_seconds:
            yield (
                f"audio {one_line(str(audio))}: is {seconds:.1f} s long, at most "
                f"{self.max_seconds:g} s are allowed; cut it, or raise --max-seconds"
            )
        yield from _late_tags(data, seconds)

    def _inspect(self, audio: Path) -> None:
        try:
            self.clips[audio] = audio_seconds(audio)
        except AudioError as error:
            self._refused[audio] = str(error)

    def _first_equal(self, row: Row) -> int | None:
        """The line of an earlier equal row, if there is one."""
        key = hash((row.audio, row.task, row.prompt, row.target, row.tags, row.transcript))
        first = self._seen.setdefault(key, row.line)
        return first if first != row.line else None


def audio_seconds(path: Path) -> float:
    """The length of a recording in seconds, from its header.

    Raises:
        AudioError: there is no file, or it is empty, a Git LFS pointer, not audio that we read, or
            beyond a limit.
    """
    name = f"audio {one_line(str(path))}"
    try:
        with open_regular(path) as file:
            if not os.fstat(file.fileno()).st_size:
                raise AudioError(f"{name}: the file is empty; fetch it again")
            if file.read(len(_LFS)) == _LFS:
                raise AudioError(f"{name}: is a Git LFS pointer, not audio; run: git lfs pull")
            return _seconds(file, name)
    except FileNotFoundError:
        raise AudioError(
            f"{name}: there is no such file; relative paths start at the manifest's folder"
        ) from None
    except IsADirectoryError:
        raise AudioError(f"{name}: is a folder; name a recording") from None
    except OSError as error:
        raise AudioError(f"{name}: cannot be read: {error.strerror or error}") from None


def _seconds(file: BinaryIO, name: str) -> float:
    """The length by the header, or by decoding where the header is not exact."""
    container = check_container(file, name)
    with closing(open_decoder(file, container, name)) as sound:
        if sound.frames is None or container.demuxer:
            frames = sum(block.shape[1] for block in read_blocks(sound, name))
        else:
            frames = sound.frames
        check_shape(name, sound.rate, sound.channels, frames)
        return float(frames / sound.rate)


def _late_tags(data: Mapping[str, object], seconds: float) -> Iterator[str]:
    try:
        tags = read_tags(data)
    except UsageError:
        return
    for name, _, end in tags:
        if end is not None and end > seconds + _ROUNDING:
            yield f"the tag {shown(name)} ends at {end:g} s, the recording at {seconds:.2f} s"
