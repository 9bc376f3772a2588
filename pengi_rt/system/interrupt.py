"""Ctrl-C, remembered: what it breaks off may raise anything, and forget why.

While torch is imported it comes out as a RecursionError, or as a ModuleNotFoundError without a
module; inside argparse as an AttributeError.
"""

import signal
from types import FrameType

_came = False


def remember_interrupts() -> None:
    """Note each Ctrl-C before it raises KeyboardInterrupt, unless it is ignored or handled."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _remember)


def was_interrupted() -> bool:
    """Whether there was one since :func:`remember_interrupts`."""
    return _came


def _remember(number: int, frame: FrameType | None) -> None:
    global _came  # noqa: PLW0603 - a signal is the whole process's
    _came = True
    signal.default_int_handler(number, frame)
