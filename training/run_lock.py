"""Only one training run in a folder at a time."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pengi_rt.errors import UsageError
from pengi_rt.system.files import lock
from pengi_rt.system.quote import one_line
from pengi_rt.training.errors import TrainingError
from pengi_rt.training.run_folder import CHECKPOINT, STATES
from pengi_rt.training.state import has_states

_held: set[int] = set()
"""Descriptors of the folders that this process has locked."""


@contextmanager
def only_run(root: Path, *, resume: bool = False) -> Iterator[None]:
    """Lock the folder of a run; it is created, and removed again if it stays empty.

    The folder itself is locked, so no lock file remains. Of several processes that train together,
    only the first one locks it.

    Raises:
        UsageError: another run is training in it; or it holds a run and ``resume`` is False; or it
            holds none and ``resume`` is True.
        TrainingError: it cannot be created.
    """
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    made = [folder for folder in (root, *root.parents) if not os.path.lexists(folder)]
    try:
        descriptor = _opened(root)
        _held.add(descriptor)
        try:
            _lock(descriptor, root)
            _refuse_occupied(root, resume=resume)
            yield
        finally:
            _held.discard(descriptor)
            os.close(descriptor)
    finally:
        with suppress(OSError, ValueError):  # until one is not empty
            for folder in made:
                folder.rmdir()


def _refuse_occupied(root: Path, *, resume: bool) -> None:
    where, states = one_line(str(root)), root / STATES
    if not resume and (has_states(states) or os.path.exists(root / CHECKPOINT)):  # noqa: PTH110
        raise UsageError(f"{where} already holds a run: --resume continues it, or name another")
    if resume and not os.path.isdir(states):  # noqa: PTH112 - False for names that cannot be
        raise UsageError(f"{where} holds no state to resume from; start without --resume")


def _opened(root: Path) -> int:
    try:
        root.mkdir(parents=True, exist_ok=True)
        return os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # a NUL in its name
        why = getattr(error, "strerror", None) or str(error)
        raise TrainingError(f"{one_line(str(root))}: cannot be written: {why}") from None


def _lock(descriptor: int, root: Path) -> None:
    try:
        lock(descriptor, Path(os.path.realpath(root)))
    except BlockingIOError as error:
        if error.errno == errno.ESTALE:
            why = "was removed by another run that has just ended; try again"
        else:
            why = "another run is training in it: wait for that one, or name another output_dir"
        raise UsageError(f"{one_line(str(root))}: {why}") from None


def _let_go() -> None:
    """In a forked child: workers outlive a killed run by seconds, and must not hold its folder."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
