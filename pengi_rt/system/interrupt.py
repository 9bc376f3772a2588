"""Remember Ctrl-C: the interrupted code may raise a different exception instead.

During the import of torch it becomes a RecursionError, or a ModuleNotFoundError without a name;
inside argparse an AttributeError.
"""

import signal
from types import FrameType

_came = False


def remember_interrupts() -> None:
    """Remember each Ctrl-C before it raises KeyboardInterrupt, unless SIGINT is handled already."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _remember)


def was_interrupted() -> bool:
    """Whether Ctrl-C was pressed since :func:`remember_interrupts`."""
    return _came


def _remember(number: int, frame: FrameType | None) -> None:
    global _came  # noqa: PLW0603 - a signal is the whole process's
    _came = True
    signal.default_int_handler(number, frame)
