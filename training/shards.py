"""Shards: recordings and their rows in tar archives, for data beyond one folder or one disk.

``python -m pengi_rt.training.shards MANIFEST ... OUT`` packs manifests; a run reads the shards with
``data.shards = ["OUT/*.tar"]`` in place of ``data.manifests``. A shard is a plain tar in
webdataset's form, two members for each recording::

    shard-000000.tar      000000000.wav, 000000000.json, 000000001.flac, 000000001.json, ...
    shard-000000.jsonl    the index: the shard's size, then each recording's place and rows

webdataset's own reader goes through a shard from its start and shuffles in a buffer, so what it
gives next depends on what it gave before. A resumed run must draw what the killed one would have
drawn: the index says where every recording lies, and only that is read. Nothing is ever unpickled.
"""

import argparse
import io
import json
import os
import random
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

from tqdm import tqdm

from pengi_rt.errors import InputError, UsageError
from pengi_rt.system.regular import open_regular
from pengi_rt.tasks import Task, load_tasks
from pengi_rt.training.command import exit_code
from pengi_rt.training.manifest import Row, RowParser, manifest_lines
from pengi_rt.training.manifest_check import MAX_SECONDS, check_manifest

PER_SHARD = 2000  # recordings: about 1 GB at 5 s, 48 kHz, 16 bits
INDEX = ".jsonl"

# webdataset decodes members by these endings; none of ours may be one that it would unpickle.
_ENDINGS = ("wav", "flac", "ogg", "mp3")
_OTHER = "audio"

Fields = dict[str, object]


@dataclass(frozen=True, slots=True)
class Shards:
    """The rows of some shards, and where their recordings lie.

    ``rows[i].audio`` is ``SHARD/MEMBER``, the path of no file; :meth:`read` has its bytes.
    """

    rows: list[Row]
    places: Mapping[Path, tuple[int, int]]  # offset and size, bytes

    def read(self, audio: Path) -> bytes:
        """The file that was packed, as it was.

        Raises:
            InputError: the shard cannot be read, or has become shorter.
        """
        offset, size = self.places[audio]
        try:
            with open_regular(audio.parent) as file:
                file.seek(offset)
                data = file.read(size)
        except OSError as error:
            raise InputError(f"{audio.parent}: cannot be read: {error.strerror or error}") from None
        if len(data) != size:
            raise InputError(f"{audio.parent}: has become shorter; pack its manifest again")
        return data


def read_shards(patterns: Sequence[str], tasks: Mapping[str, Task]) -> Shards:
    """The rows of all shards; of the shards themselves only the sizes are looked at.

    Args:
        patterns: paths of shards, ``*``, ``?`` and ``[]`` as in the shell; each shard counts once.
        tasks: what a row's ``task`` may be.

    Raises:
        UsageError: a pattern names nothing.
        InputError: a shard has no index, another one's, or one with a bad row; FILE:LINE is said.
    """
    paths: dict[Path, None] = {}
    for pattern in patterns:
        found = sorted(glob(pattern))  # noqa: PTH207 - a pattern may begin anywhere
        if not found:
            raise UsageError(f"data.shards: {pattern} names no file; shards end in .tar")
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
    """Pack the recordings of manifests, in a random order; the shards' paths.

    The same arguments and files make the same bytes.

    Args:
        manifests: all of their rows go in, those of one recording together.
        folder: gets ``shard-000000.tar``, ...; made where missing.
        tasks: what a row's ``task`` may be.
        per_shard: recordings in a shard.
        seed: of the order.
        max_seconds: a longer recording is refused.

    Raises:
        UsageError: ``folder`` has shards already, or a number cannot be.
        InputError: a manifest or recording is refused, or something cannot be written.
    """
    _check(folder, per_shard, seed)
    clips = [clip for path in manifests for clip in _read_clips(path, tasks, max_seconds)]
    random.Random(seed).shuffle(clips)  # noqa: S311 - an order, reproducible
    starts = range(0, len(clips), per_shard)
    paths = [folder / f"shard-{number:06d}.tar" for number in range(len(starts))]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, start in zip(paths, tqdm(starts, unit="shard", disable=None), strict=True):
            _write_shard(path, start, clips[start : start + per_shard])
    except OSError as error:
        where = error.filename or folder
        raise InputError(f"cannot pack {where}: {error.strerror or error}") from None
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
        "--per-shard", type=int, default=PER_SHARD, metavar="N", help="recordings (%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of their order (%(default)s)")
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
        raise UsageError(f"{folder} already holds shards; remove them, or name another folder")


def _read_clips(
    path: Path, tasks: Mapping[str, Task], max_seconds: float
) -> list[tuple[Path, list[Fields]]]:
    """Every recording of a manifest with its rows, all of them checked."""
    for problem in check_manifest(path, tasks, max_seconds=max_seconds):
        raise InputError(f"{problem}; nothing was packed (pengi-rt data check {path})")
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
    """Write a shard, then its index; each takes its place when it is whole."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    index = path.with_suffix(INDEX)
    try:
        with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
            names = [_add(tar, f"{first + n:09d}", *clip) for n, clip in enumerate(clips)]
        with tarfile.open(part) as tar:
            places = {member.name: (member.offset_data, member.size) for member in tar}
        lines: list[Fields] = [{"bytes": part.stat().st_size, "recordings": len(clips)}]
        for name, (_, rows) in zip(names, clips, strict=True):
            lines.append({"audio": name, "place": places[name], "rows": rows})
        part.replace(path)
        part.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
        part.replace(index)
    finally:
        part.unlink(missing_ok=True)


def _add(tar: tarfile.TarFile, key: str, audio: Path, rows: list[Fields]) -> str:
    """Add a recording and its rows; the name of the recording's member."""
    ending = audio.suffix[1:].lower()
    name = f"{key}.{ending if ending in _ENDINGS else _OTHER}"
    text = json.dumps({"source": str(audio), "rows": rows})
    for member, data in ((name, audio.read_bytes()), (f"{key}.json", text.encode())):
        header = tarfile.TarInfo(member)
        header.size = len(data)
        tar.addfile(header, io.BytesIO(data))
    return name


def _read_index(path: Path, tasks: Mapping[str, Task]) -> Iterator[tuple[Row, tuple[int, int]]]:
    """Every row of a shard, and where its recording lies. Raises InputError."""
    index = path.with_suffix(INDEX)
    parser = RowParser(path, tasks, need_audio=True)
    count = expected = 0
    for number, line in manifest_lines(index):
        try:
            data = parser.decoded(line)
            if number == 1:
                expected = _check_header(path, data)
                continue
            count += 1
            place, rows = _recording(data)
            for fields in rows:
                yield parser.row(number, {**fields, "audio": data["audio"]}), place
        except (UsageError, KeyError, TypeError, ValueError) as error:
            reason = error if isinstance(error, UsageError) else "is no line of an index"
            raise InputError(f"{index}:{number}: {reason}; pack the manifest again") from None
    if count != expected:
        raise InputError(f"{index}: has {count} recordings of {expected}; pack the manifest again")


def _check_header(path: Path, data: Mapping[str, Any]) -> int:
    """How many recordings follow. Raises UsageError, or KeyError for no header."""
    expected, size = int(data["recordings"]), path.stat().st_size
    if size != data["bytes"]:
        raise UsageError(f"{path.name} has {size} bytes, this is the index of {data['bytes']}")
    return expected


def _recording(data: Mapping[str, Any]) -> tuple[tuple[int, int], list[Fields]]:
    """Place and rows of one line. Raises KeyError, TypeError or ValueError for something else."""
    offset, size = data["place"]
    return (int(offset), int(size)), list(data["rows"])


if __name__ == "__main__":
    sys.exit(main())
