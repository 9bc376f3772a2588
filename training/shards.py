"""Shards: recordings and their rows in tar archives, for data too large for a folder or a disk.

``python -m pengi_rt.training.shards MANIFEST ... OUT`` packs manifests; a run reads the shards with
``data.shards = ["OUT/*.tar"]`` in place of ``data.manifests``. A shard is a plain tar in
webdataset's form, with two members per recording::

    shard-000000.tar      000000000.wav, 000000000.json, 000000001.flac, 000000001.json, ...
    shard-000000.jsonl    the index: the shard's size, then each recording's place and rows

webdataset's own reader goes through a shard from the start and shuffles in a buffer, so what it
returns depends on what it returned before. But a resumed run must draw the same examples as if it
had not been interrupted. So the index records where each recording is, and only that is read.
Nothing is ever unpickled.
"""

import argparse
import io
import json
import random
import sys
import tarfile
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path

from tqdm import tqdm

from pengi_rt.errors import InputError, UsageError
from pengi_rt.system.files import Draft, replacing
from pengi_rt.system.quote import one_line, shown
from pengi_rt.system.regular import open_regular
from pengi_rt.text.prompts import Task, load_tasks
from pengi_rt.training.command import exit_code
from pengi_rt.training.manifest import Row, RowParser, manifest_lines
from pengi_rt.training.manifest_check import MAX_SECONDS, check_manifest

PER_SHARD = 2000  # recordings: about 1 GB at 5 s, 48 kHz, 16 bits
INDEX = ".jsonl"

# webdataset decodes members by suffix; never use one that it would unpickle.
_ENDINGS = ("wav", "flac", "ogg", "mp3")
_OTHER = "audio"

Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class Shards:
    """The rows of some shards, and where their recordings are.

    ``rows[i].audio`` is ``SHARD/MEMBER``, which is not a real path; :meth:`read` returns its bytes.
    """

    rows: list[Row]
    places: Mapping[Path, tuple[int, int]]  # offset and size, bytes

    def read(self, audio: Path) -> bytes:
        """The bytes of a packed recording, unchanged.

        Raises:
            InputError: the shard cannot be read, or has become shorter.
        """
        offset, size = self.places[audio]
        shard = one_line(str(audio.parent))
        try:
            with open_regular(audio.parent) as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise InputError(f"{shard}: cannot be read: {error.strerror or error}") from None
        if len(data) != size:
            raise InputError(f"{shard}: has become shorter; pack its manifest again")
        return data


def read_shards(patterns: Sequence[str], tasks: Mapping[str, Task]) -> Shards:
    """Read the rows of all shards from their indexes; of the shards only the size is checked.

    Args:
        patterns: paths of shards, with ``*``, ``?`` and ``[]`` as in the shell. Duplicates count
            once.
        tasks: the known tasks.

    Raises:
        UsageError: a pattern matches nothing.
        InputError: a shard's index is missing, belongs to another shard, or has a bad row (named as
            FILE:LINE).
    """
    paths: dict[Path, None] = {}
    for pattern in patterns:
        names = sorted(glob(pattern))  # noqa: PTH207 - Path.glob takes no absolute pattern
        found = [name for name in names if Path(name).name]
        if not found:
            raise UsageError(f"data.shards: {one_line(pattern)} names no file; shards end in .tar")
        paths |= dict.fromkeys(map(Path, found))
    shards = Shards([], places := {})
    for path in paths:
        for row, place in _read_index(path, tasks):
            shards.rows.append(row)
            assert row.audio is not None
            places[row.audio] = place
    return shards


def write_shards(
    manifests: Sequence[Path],
    folder: Path,
    tasks: Mapping[str, Task],
    *,
    per_shard: int = PER_SHARD,
    seed: int = 0,
    max_seconds: float = MAX_SECONDS,
) -> list[Path]:
    """Pack the recordings of manifests in a random order; returns the shards' paths.

    The same arguments and files give the same bytes.

    Args:
        manifests: all of their rows are packed, grouped by recording.
        folder: receives ``shard-000000.tar``, ...; created if missing.
        tasks: the known tasks.
        per_shard: recordings per shard.
        seed: determines the order.
        max_seconds: longer recordings are refused.

    Raises:
        UsageError: ``folder`` already has shards, or a number is invalid.
        InputError: a manifest or recording is refused, or something cannot be written.
    """
    _check(folder, per_shard, seed)
    clips = [clip for path in manifests for clip in _read_clips(path, tasks, max_seconds)]
    random.Random(seed).shuffle(clips)  # noqa: S311 - a reproducible order
    starts = range(0, len(clips), per_shard)
    paths = [folder / f"shard-{number:06d}.tar" for number in range(len(starts))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, start in zip(paths, tqdm(starts, unit="shard", disable=None), strict=True):
            _write_shard(path, start, clips[start : start + per_shard])
    except OSError as error:
        where = error.filename or folder
        reason = error.strerror or str(error)
        raise InputError(f"cannot pack {one_line(str(where))}: {reason}") from None
    return paths


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns its exit code."""
    options = _parser().parse_args(argv)

    def work() -> None:
        paths = write_shards(
            options.manifests,
            options.folder,
            load_tasks(*options.tasks),
            per_shard=options.per_shard,
            seed=options.seed,
            max_seconds=options.max_seconds,
        )
        print(f'{len(paths)} shards: data.shards = ["{options.folder}/shard-*.tar"]')

    return exit_code(work)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pengi_rt.training.shards",
        description="Pack the recordings and rows of manifests into webdataset shards.",
    )
    parser.add_argument("manifests", type=Path, nargs="+", metavar="MANIFEST")
    parser.add_argument("folder", type=Path, metavar="OUT", help="where the shards go")
    parser.add_argument(
        "--per-shard",
        type=int,
        default=PER_SHARD,
        metavar="N",
        help="recordings per shard (%(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of their order (%(default)s)")
    parser.add_argument(
        "--max-seconds", type=float, default=MAX_SECONDS, help="refuse longer ones (%(default)g)"
    )
    parser.add_argument("--tasks", type=Path, action="append", default=[], metavar="FILE")
    return parser


def _check(folder: Path, per_shard: int, seed: int) -> None:
    for name, value, least in (("--per-shard", per_shard, 1), ("--seed", seed, 0)):
        if value < least:
            raise UsageError(f"{name} must be at least {least}, got {value}")
    if any(folder.glob("shard-*")):
        where = one_line(str(folder))
        raise UsageError(f"{where} already holds shards; remove them, or name another folder")


def _read_clips(
    path: Path, tasks: Mapping[str, Task], max_seconds: float
) -> list[tuple[Path, list[Fields]]]:
    """Every recording of a manifest with its rows, after checking all of them."""
    for problem in check_manifest(path, tasks, max_seconds=max_seconds):
        raise InputError(
            f"{problem}; nothing was packed (pengi-rt data check {one_line(str(path))})"
        )
    parser = RowParser(path.parent, tasks, need_audio=True)
    clips: dict[Path, list[Fields]] = {}
    for _, line in manifest_lines(path):
        fields = parser.decoded(line)
        audio = parser.audio(fields)
        assert audio is not None
        del fields["audio"]
        clips.setdefault(audio, []).append(fields)
    return list(clips.items())


def _write_shard(path: Path, first: int, clips: Sequence[tuple[Path, list[Fields]]]) -> None:
    """Write a shard, then its index; each is put in place when it is complete."""
    draft = Draft(path)
    try:
        with tarfile.open(fileobj=draft.file, mode="w", format=tarfile.USTAR_FORMAT) as tar:
            names = [_add(tar, f"{first + n:09d}", *clip) for n, clip in enumerate(clips)]
        draft.file.flush()
        with tarfile.open(draft.path) as tar:
            places = {member.name: (member.offset_data, member.size) for member in tar}
        lines: list[Fields] = [{"bytes": draft.path.stat().st_size, "recordings": len(clips)}]
        draft.commit()
    finally:
        draft.discard()
    for name, (_, rows) in zip(names, clips, strict=True):
        lines.append({"audio": name, "place": places[name], "rows": rows})
    with replacing(path.with_suffix(INDEX)) as index:
        index.writelines(f"{json.dumps(line)}\n".encode() for line in lines)


def _add(tar: tarfile.TarFile, key: str, audio: Path, rows: list[Fields]) -> str:
    """Add a recording and its rows; returns the name of the recording's member."""
    ending = audio.suffix[1:].lower()
    name = f"{key}.{ending if ending in _ENDINGS else _OTHER}"
    text = json.dumps({"source": str(audio), "rows": rows})
    for member, data in ((name, audio.read_bytes()), (f"{key}.json", text.encode())):
        header = tarfile.TarInfo(member)
        header.size = len(data)
        tar.addfile(header, io.BytesIO(data))
    return name


def _read_index(path: Path, tasks: Mapping[str, Task]) -> Iterator[tuple[Row, tuple[int, int]]]:
    """Yield each row of a shard, and where its recording is. Raises InputError."""
    index = path.with_suffix(INDEX)
    where = one_line(str(index))
    parser = RowParser(path, tasks, need_audio=True)
    size = -1
    members: set[str] = set()
    expected = 0
    for number, line in manifest_lines(index):
        try:
            data = parser.decoded(line)
            if number == 1:
                size = _size(path)
                expected = _check_header(path, size, data)
                continue
            name, place, rows = _recording(data, size, members)
            members.add(name)
            for fields in rows:
                yield parser.row(number, {**fields, "audio": name}), place
        except UsageError as error:
            raise InputError(f"{where}:{number}: {error}; pack the manifest again") from None
    if len(members) != expected:
        raise InputError(
            f"{where}: has {len(members)} recordings of {expected}; pack the manifest again"
        )


def _size(shard: Path) -> int:
    """The size of a shard in bytes; it must be a regular file. Raises InputError."""
    try:
        with open_regular(shard) as file:
            return file.seek(0, io.SEEK_END)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{one_line(str(shard))}: cannot be read: {reason}") from None


def _check_header(path: Path, size: int, data: Mapping[str, object]) -> int:
    """Check the first line of an index; returns how many recordings follow. Raises UsageError."""
    expected = data.get("recordings")
    if not _are_counts(data.get("bytes"), expected):
        raise UsageError("is not a line of an index")
    if size != data["bytes"]:
        name = one_line(path.name)
        raise UsageError(f"{name} has {size} bytes, this is the index of {shown(data['bytes'])}")
    assert isinstance(expected, int)
    return expected


def _recording(
    data: Mapping[str, object], size: int, before: Container[str]
) -> tuple[str, tuple[int, int], list[Fields]]:
    """Name, place and rows of one line, for a shard of ``size`` bytes. Raises UsageError.

    A name with a slash is refused, since it would lead to a file outside the shard.
    """
    name, place, rows = (data.get(key) for key in ("audio", "place", "rows"))
    if not isinstance(name, str) or not isinstance(rows, list) or not isinstance(place, list):
        raise UsageError("is not a line of an index")
    if not rows or not all(isinstance(fields, dict) for fields in rows):
        raise UsageError("is not a line of an index")
    if name in ("", ".", "..") or "/" in name or name in before:
        raise UsageError(f"'audio' must be the name of a member, each once, got {shown(name)}")
    if len(place) != 2 or not _are_counts(*place) or sum(place) > size:
        raise UsageError(f"'place' must be offset and size inside the shard, got {shown(place)}")
    return name, (place[0], place[1]), rows


def _are_counts(*values: object) -> bool:
    return all(type(value) is int and value >= 0 for value in values)


if __name__ == "__main__":
    sys.exit(main())
