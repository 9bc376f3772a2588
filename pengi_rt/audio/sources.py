"""What callers hand in for a recording, brought to the few forms that are read."""

import os
from typing import Any


def plain_source(source: Any, name: str | None) -> tuple[Any, str]:
    """``source`` as a path (``str`` or ``os.PathLike``), bytes, a binary file or a tuple.

    A tuple is ``(samples, rate)``, for :func:`pengi_rt.audio.arrays.array_samples` to check.

    Returns:
        The source, and ``name`` or, if that is None, what to call it.

    Raises:
        AudioError: it is no recording.
    """
    return source, _name_of(source) if name is None else name


def _name_of(source: Any) -> str:
    """The path, or what kind of thing it is."""
    if isinstance(source, str | os.PathLike):
        return "<stdin>" if source == "-" else os.fsdecode(source)
    if isinstance(source, bytes):
        return "<bytes>"
    if isinstance(source, tuple):
        return "<array>"
    file_name = getattr(source, "name", None)
    return file_name if isinstance(file_name, str) else f"<{type(source).__name__}>"
