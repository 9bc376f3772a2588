"""One run in a folder at a time."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pengi_rt.errors import UsageError
from pengi_rt.system.quote import one_line
from pengi_rt.training.errors import TrainingError
from pengi_rt.training.run_folder import CHECKPOINT, STATES
from pengi_rt.training.state import has_states

logger = logging.getLogger(__name__)

_held: set[int] = set()
"""Descriptors of the folders that this process has locked."""


@contextmanager
def only_run(root: Path, *, resume: bool = False) -> Iterator[None]:
    """Hold the folder of a run, which is made, and removed again if nothing was put into it.

    The folder itself is locked, so that no file stays behind. Of several processes that train
    together, the first one holds it.

    Raises:
        UsageError: another run is training in it, or has trained in it and ``resume`` is not asked
            (or there was none, and it is).
        TrainingError: it cannot be made.
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
        raise UsageError(f"{where} already holds a run: --resume goes on with it, or name another")
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
    where = one_line(str(root))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        raise UsageError(
            f"{where}: another run is training in it: wait for that one, or name another output_dir"
        ) from None
    except OSError as error:  # a file system without locks
        logger.warning("%s: has no lock (%s): train one run at a time", where, error.strerror)
    with suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), root.stat()):
            return
    raise UsageError(f"{where}: was removed by another run that has just ended; try again")


def _let_go() -> None:
    """In a forked child: workers outlive a killed run by seconds, and must not hold its folder."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
