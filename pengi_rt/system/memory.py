"""The process's memory."""

import ctypes
import os


def return_freed_memory() -> None:
    """Give the heap's free pages back to the system, where the C library can (glibc).

    Folding constants while a session is made leaves 260 MB of them behind for ``base``: measured
    1461 MB resident after the first answer instead of 1717, of which 1291 are weights. A closed
    engine leaves 1046 MB instead of 110.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
