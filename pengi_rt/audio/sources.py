"""What callers hand in for a recording, brought to the few forms that are read."""

import io
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pengi_rt.audio.arrays import is_samples
from pengi_rt.errors import AudioError
from pengi_rt.system.quote import one_line, shown
from pengi_rt.system.scalars import as_float
from pengi_rt.system.sources import Regular

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LONGEST_PATH = 4096  # bytes
_KINDS = "give a path, bytes, a binary file or (samples, rate)"


def is_several(source: object) -> bool:
    """Whether it is a list of recordings rather than one: ``(samples, rate)`` is one."""
    if isinstance(source, tuple):
        return not _is_pair(source)
    return isinstance(source, Sequence) and not (
        isinstance(source, str | bytes | bytearray | memoryview) or is_samples(source)
    )


def is_one(source: object) -> bool:
    """Whether it is one recording, though many that are could be iterated over."""
    if isinstance(source, Sequence):  # which strings, bytes and tuples are
        return not is_several(source)
    return (
        isinstance(source, os.PathLike | Mapping)
        or any(hasattr(source, name) for name in ("read", "get_all_samples"))
        or _is_decoded(source)
        or is_samples(source)
    )


def plain_source(source: Any, name: str | None) -> tuple[Any, str]:
    """``source`` as a path (``str``, or another ``os.PathLike``), bytes, a binary file or a tuple.

    A tuple is ``(samples, rate)``, for :func:`pengi_rt.audio.arrays.array_samples` to check. One of
    Hugging Face's datasets, a dict, is what it holds; so is what torchcodec decodes.

    Returns:
        The source, and ``name`` or, if that is None, what to call it.

    Raises:
        AudioError: it is no recording.
    """
    called = _name_of(source) if name is None else name
    if isinstance(source, Mapping):
        source, path = _of_mapping(source, one_line(called))
        called = path if name is None and path else called
    elif callable(getattr(source, "get_all_samples", None)):
        source = _of_decoder(source, one_line(called))
    elif _is_decoded(source):
        source = _of_decoded(source, one_line(called))
    if isinstance(source, bytearray | memoryview) and not is_samples(source):
        source = bytes(source)
    if isinstance(source, os.PathLike) and not isinstance(source, Regular):
        source = Path(_path_text(source))
    _check(source, one_line(called))
    return source, called


def _is_pair(source: tuple[Any, ...]) -> bool:
    """Whether two things are samples and a rate, in whatever order."""
    return len(source) == 2 and any(
        as_float(item) is not None or is_samples(item) or _is_numbers(item) for item in source
    )


def _is_numbers(item: object) -> bool:
    return isinstance(item, list) and bool(item) and as_float(item[0]) is not None


def _of_mapping(source: Mapping[Any, Any], name: str) -> tuple[Any, str | None]:
    """What a dict of Hugging Face's datasets holds, and its path."""
    path = source.get("path")
    named = path if isinstance(path, str) else None
    if source.get("array") is not None and source.get("sampling_rate") is not None:
        return (source["array"], source["sampling_rate"]), named
    if isinstance(source.get("bytes"), bytes | bytearray | memoryview):
        return source["bytes"], named
    if isinstance(path, str | os.PathLike):
        return path, _path_text(path)
    keys = ", ".join(map(shown, list(source)[:8]))
    raise AudioError(
        f"{name}: a dict is a recording with the keys 'array' and 'sampling_rate', or 'bytes', or "
        f"'path'; got {keys or 'none'}"
    )


def _is_decoded(source: object) -> bool:
    """Whether it is as torchcodec's AudioSamples."""
    return hasattr(source, "sample_rate") and is_samples(getattr(source, "data", None))


def _of_decoder(decoder: Any, name: str) -> tuple[Any, Any]:
    """As :func:`_of_decoded`, of all that a torchcodec AudioDecoder reads."""
    try:
        decoded = decoder.get_all_samples()
    except Exception as error:  # noqa: BLE001 - whatever another library raises
        raise AudioError(f"{name}: its decoder cannot read it: {one_line(str(error))}") from None
    return _of_decoded(decoded, name)


def _of_decoded(decoded: Any, name: str) -> tuple[Any, Any]:
    """``(samples, rate)`` of torchcodec's AudioSamples, which are ``[channels, frames]``."""
    if not _is_decoded(decoded):
        raise AudioError(f"{name}: decodes to no samples with a rate; {_KINDS}")
    data = decoded.data
    return (data.T if len(getattr(data, "shape", ())) == 2 else data), decoded.sample_rate


def _check(source: Any, name: str) -> None:
    """Refuse what is read in none of the forms."""
    if isinstance(source, str):
        if _URL.match(source) and not os.path.lexists(source):
            raise AudioError(f"{name}: URLs are not fetched; download it and give the file")
    elif isinstance(source, bytes) and len(source) < _LONGEST_PATH and _exists(source):
        raise AudioError(f"{name}: the bytes are a path; give it as a string")
    elif isinstance(source, io.TextIOBase):
        raise AudioError(f"{name}: reads as str; open it in binary mode")
    elif hasattr(source, "read") and hasattr(source, "samplerate"):
        raise AudioError(f"{name}: is an open sound file; give its path, or (samples, samplerate)")
    elif not (isinstance(source, bytes | tuple | os.PathLike) or hasattr(source, "read")):
        raise AudioError(f"{name}: this is no recording; {_KINDS}{_hint(source)}")


def _exists(path: bytes) -> bool:
    return bool(path) and b"\0" not in path and os.path.lexists(path)


def _hint(source: object) -> str:
    """What may have been meant."""
    if getattr(getattr(source, "dtype", None), "kind", "") in ("U", "O", "T"):
        return ": an array of names is several; make a list of it"
    if is_samples(source) or _is_numbers(source):
        return ": samples need their rate beside them, in a tuple"
    if as_float(source) is not None:
        return ": a number alone is none"
    if is_several(source):
        return ": these are several; read them one by one"
    if isinstance(source, Iterator | set | frozenset):
        return ": make a list of them"
    return ""


def _path_text(path: Any) -> str:
    try:
        return os.fsdecode(path)
    except TypeError as error:
        raise AudioError(f"<{type(path).__name__}>: is no path: {error}") from None


def _name_of(source: Any) -> str:
    """The path, or what kind of thing it is."""
    if isinstance(source, str | os.PathLike):
        return "<stdin>" if source == "-" else _path_text(source)
    if isinstance(source, bytes):
        return "<bytes>"
    if isinstance(source, tuple):
        return "<array>"
    file_name = getattr(source, "name", None)
    return file_name if isinstance(file_name, str) else f"<{type(source).__name__}>"
