"""Trace a request: which of our files and rooms it enters, and how deep.

    python benchmarks/support/hot_path.py

Counts the second ``Engine.generate`` about a recording (the first one makes sessions and encodes
the prompt) and one ``pengi-rt generate`` from its start, both over the built-in demo model. Only
calls of functions of ours count: what a module runs while it is imported does not.
"""

import contextlib
import io
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import numpy as np

import pengi_rt

PACKAGE = Path(pengi_rt.__file__).parent
ROOTS = {str(PACKAGE): ""} | {
    str((PACKAGE / room).resolve()): f"{room}/" for room in ("kernels", "export", "training")
}


@dataclass
class Walk:
    """The files of ours that a call entered.

    Attributes:
        stays: the files in order; each change from one file to another adds one.
        depth: the largest number of our frames on the stack at once.
    """

    stays: list[str] = field(default_factory=list)
    depth: int = 0

    @property
    def files(self) -> list[str]:
        """Each file once, in the order of first entry."""
        return list(dict.fromkeys(self.stays))

    @property
    def rooms(self) -> list[str]:
        """The rooms, in order."""
        rooms = [name.rpartition("/")[0] or name for name in self.stays]
        return [room for i, room in enumerate(rooms) if not i or room != rooms[i - 1]]


def file_of(frame: FrameType) -> str | None:
    """A frame's file within the package, for code of ours; None for other code."""
    name = frame.f_code.co_filename
    for root, prefix in ROOTS.items():
        if name.startswith(root + "/"):
            return prefix + name[len(root) + 1 :]
    return None


@contextlib.contextmanager
def watched() -> Iterator[Walk]:
    """Record the calls of the block, on this thread."""
    walk = Walk()

    def see(frame: FrameType, event: str, _: object) -> None:
        if event != "call" or not (name := file_of(frame)):
            return
        ours = [each for each in _stack(frame) if file_of(each)]
        if any(each.f_code.co_name == "<module>" for each in ours):
            return  # a module is being imported
        if not walk.stays or walk.stays[-1] != name:
            walk.stays.append(name)
        walk.depth = max(walk.depth, len(ours))

    sys.setprofile(see)
    try:
        yield walk
    finally:
        sys.setprofile(None)


def _stack(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def second_generate(wav: str) -> Walk:
    """The walk of the second ``Engine.generate`` about ``wav``."""
    with pengi_rt.load() as engine:
        engine.generate(wav)
        with watched() as walk:
            engine.generate(wav)
    return walk


def command(wav: str) -> Walk:
    """The walk of ``pengi-rt generate``."""
    from pengi_rt.cli.main import main

    with contextlib.redirect_stdout(io.StringIO()), watched() as walk:
        main(["-q", "generate", wav])
    return walk


def recording(folder: Path) -> str:
    """A recording to ask about."""
    import soundfile

    path = folder / "one.wav"
    samples = np.sin(np.arange(44100) / 20).astype(np.float32)
    soundfile.write(path, samples, 44100)
    return str(path)


def main() -> None:
    """Print both walks."""
    with tempfile.TemporaryDirectory() as folder:
        wav = recording(Path(folder))
        walks: dict[str, Callable[[str], Walk]] = {
            "second Engine.generate": second_generate,
            "pengi-rt generate": command,
        }
        for name, walk_of in walks.items():
            walk = walk_of(wav)
            print(f"{name}: {len(walk.files)} files, {walk.depth} frames deep,", end=" ")
            print(f"{len(walk.rooms)} stays in {len(set(walk.rooms))} rooms")
            print("   ", "\n    ".join(walk.files))


if __name__ == "__main__":
    main()
