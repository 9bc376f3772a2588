"""Ctrl-C, which must end a run even where its KeyboardInterrupt does not get through.

The interrupted code may raise a different exception instead: during the import of torch it becomes
a RecursionError, or a ModuleNotFoundError without a name; inside argparse an AttributeError. So
each Ctrl-C is remembered. And Python discards what is raised in a ``__del__`` or the callback of a
weak reference (importlib has one per module), so there KeyboardInterrupt is raised again soon.
"""

import signal
import sys
from types import FrameType

_AGAIN = 0.01  # seconds, by which time the __del__ or the callback has ended

_came = False


def remember_interrupts() -> None:
    """Remember each Ctrl-C, and raise KeyboardInterrupt until it is not discarded.

    Does nothing if SIGINT is handled already.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        sys.unraisablehook = _raise_again
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.signal(signal.SIGINT, _remember)


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed since :func:`remember_interrupts`."""
    return _came


def _remember(number: int, frame: FrameType | None) -> None:
    global _came  # noqa: PLW0603 - a signal is the whole process's
    _came = True
    signal.default_int_handler(number, frame)


def _raise_again(discarded: "sys.UnraisableHookArgs") -> None:
    if issubclass(discarded.exc_type, KeyboardInterrupt):
        signal.setitimer(signal.ITIMER_REAL, _AGAIN)
    else:
        sys.__unraisablehook__(discarded)
