"""The process's memory."""

import ctypes
import os


def return_freed_memory() -> None:
    """Return the heap's free pages to the system, if the C library can (glibc).

    ONNX Runtime's constant folding leaves 260 MB of them for ``base``: with this call, 1461 MB are
    resident after the first answer instead of 1717 (1291 of them weights). Without it, closing an
    engine leaves 1046 MB instead of 110.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)
