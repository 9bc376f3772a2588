"""A collection without audio, and a model that captions by content: an index in milliseconds."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pengi_rt.tasks.search.builder import Builder
from pengi_rt.tasks.search.index import Index
from pengi_rt.tasks.search.index_manifest import Identity
from pengi_rt.tasks.search.rows import IndexedFile, IndexRow
from pengi_rt.tasks.search.update import FileStat, Update

DIMENSION, AUDIO_DIMENSION = 8, 4
IDENTITY = Identity(
    plan="ab" * 32,
    settings={"prompt": "generate audio caption", "beam_size": 3},
    dimension=DIMENSION,
    audio_dimension=AUDIO_DIMENSION,
)


class InterruptedRunError(Exception):
    pass


@dataclass
class Collection:
    """Files by name; each write happens one nanosecond after the last."""

    files: dict[str, tuple[bytes, int]] = field(default_factory=dict)
    clock: int = 10**18
    hashed: list[str] = field(default_factory=list)  # names whose content was requested

    def write(self, name: str, content: bytes) -> None:
        self.clock += 1
        self.files[name] = (content, self.clock)

    def found(self) -> list[FileStat]:
        return [FileStat(name, len(data), time) for name, (data, time) in self.files.items()]

    def digest(self, name: str) -> str:
        self.hashed.append(name)
        return hashlib.sha256(self.files[name][0]).hexdigest()


def some(count: int) -> Collection:
    collection = Collection()
    for number in reversed(range(count)):
        collection.write(f"{'abc'[number % 3]}/{number}.wav", b"sound " * (number + 1))
    return collection


def unit(seed: int, shape: tuple[int, int]) -> NDArray[np.float32]:
    vectors = np.random.default_rng(seed).standard_normal(shape)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    units: NDArray[np.float32] = (vectors / norms).astype(np.float32)
    return units


def caption(found: FileStat, content: bytes) -> tuple[list[IndexRow], Any, Any]:
    """Rows and vectors that depend only on the content, 1 to 3 windows."""
    digest = hashlib.sha256(content).hexdigest()
    seed = int(digest[:8], 16)
    recording = IndexedFile(*found, digest)
    rows = [
        IndexRow(recording, 7.0 * n, 7.0 * n + 7, f"{digest[:9]} \N{DOG} {n}", -0.1 * n)
        for n in range(1 + seed % 3)
    ]
    return rows, unit(seed, (len(rows), DIMENSION)), unit(seed + 1, (len(rows), AUDIO_DIMENSION))


def index(
    path: Path,
    collection: Collection,
    identity: Identity = IDENTITY,
    *,
    rebuild: bool = False,
    stop_after: int = 10**9,
) -> tuple[Update, list[str]]:
    """Bring the index up to date; returns what was planned and what was captioned.

    Raises:
        InterruptedRunError: ``stop_after`` recordings were captioned and one was left to do.
    """
    captioned: list[str] = []
    with Builder(path, identity, collection="/sounds", rebuild=rebuild) as builder:
        update = builder.plan(collection.found(), collection.digest)
        for found in update.todo:
            if len(captioned) == stop_after:
                raise InterruptedRunError
            builder.add(*caption(found, collection.files[found.file][0]))
            captioned.append(found.file)
        builder.commit(update)
    return update, captioned


def check(path: Path, collection: Collection) -> None:
    """Check that the index says of every recording what the model does."""
    found = Index.open(path, verify=True)
    position = 0
    for file in sorted(collection.found()):
        rows, captions, audio = caption(file, collection.files[file.file][0])
        part = slice(position, position + len(rows))
        assert found.rows[part] == rows
        np.testing.assert_array_equal(found.captions[part], captions)
        assert found.audio is not None
        np.testing.assert_array_equal(found.audio[part], audio)
        position += len(rows)
    assert len(found.rows) == len(found.captions) == position


def contents(path: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {
        file.relative_to(path).as_posix(): file.read_bytes()
        for file in sorted(path.rglob("*"))
        if file.is_file()
    }
