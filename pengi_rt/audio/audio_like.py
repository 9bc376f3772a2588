"""The forms in which callers may pass a recording, reduced to the few that are read."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pengi_rt.config.checked import as_float
from pengi_rt.errors import AudioError
from pengi_rt.system.quote import one_line, shown
from pengi_rt.system.regular import Regular

AudioLike = str | os.PathLike[str] | bytes | BinaryIO | tuple[Any, int] | Mapping[str, Any]
"""A recording: a path (``-`` is standard input), the bytes of a file, an open binary file,
``(samples, rate)``, or a Hugging Face dataset's dict, which holds one of these.

Samples are an array, a tensor or a list of floats, ``[frames]`` or ``[frames, channels]``, as
returned by soundfile: floats with full scale 1, or int8, int16, int32, uint8 with the full scale of
the type. Torchcodec's decoders and samples are accepted too.
"""

_LONGEST_PATH = 4096  # bytes
_KINDS = "give a path, bytes, a binary file or (samples, rate)"


def is_several(value: object) -> bool:
    """Whether ``value`` is several recordings; ``(samples, rate)`` counts as one."""
    if isinstance(value, str | list):
        return isinstance(value, list)
    if isinstance(value, tuple):
        return not _is_pair(value)
    return isinstance(value, Sequence) and not (
        isinstance(value, bytes | bytearray | memoryview) or is_samples(value)
    )


def is_one(value: object) -> bool:
    """Whether ``value`` is one recording, even if it is iterable."""
    if isinstance(value, Sequence):  # such as strings, bytes and tuples
        return not is_several(value)
    return (
        isinstance(value, os.PathLike | Mapping)
        or any(hasattr(value, name) for name in ("read", "get_all_samples"))
        or _is_decoded(value)
        or is_samples(value)
    )


def is_samples(value: object) -> bool:
    """Whether ``value`` is an array, a tensor, a table column or a buffer of numbers."""
    if isinstance(value, str | bytes | bytearray | np.generic | type):
        return False
    if isinstance(value, memoryview):
        return value.format not in ("B", "b", "c")  # those are bytes
    return any(hasattr(value, name) for name in ("__array__", "__dlpack__")) or is_buffer(value)


def is_buffer(value: Any) -> bool:
    """Whether NumPy can read its memory without a copy."""
    try:
        memoryview(value).release()
    except (TypeError, ValueError, BufferError):
        return False
    return True


def plain_recording(recording: Any, name: str | None) -> tuple[Any, str]:
    """A recording as a path (``str``, or an ``os.PathLike``), bytes, a binary file or a tuple.

    A tuple is ``(samples, rate)``, not yet checked. A Hugging Face dataset's dict is replaced with
    its content, and a torchcodec decoder with its samples.

    Returns:
        The recording, and its name for messages: ``name``, unless that is None.

    Raises:
        AudioError: the value is not a recording.
    """
    called = _name_of(recording) if name is None else name
    if isinstance(recording, Mapping):
        recording, path = _from_mapping(recording, one_line(called))
        called = path if name is None and path else called
    elif callable(getattr(recording, "get_all_samples", None)):
        recording = _from_decoder(recording, one_line(called))
    elif _is_decoded(recording):
        recording = _from_decoded(recording, one_line(called))
    if isinstance(recording, bytearray | memoryview) and not is_samples(recording):
        recording = bytes(recording)
    if isinstance(recording, os.PathLike) and not isinstance(recording, Regular):
        recording = Path(_path_text(recording))
    _check(recording, one_line(called))
    return recording, called


def _is_pair(value: tuple[Any, ...]) -> bool:
    """Whether two items are samples and a rate, in either order."""
    return len(value) == 2 and any(
        as_float(item) is not None or is_samples(item) or _is_numbers(item) for item in value
    )


def _is_numbers(item: object) -> bool:
    return isinstance(item, list) and bool(item) and as_float(item[0]) is not None


def _from_mapping(mapping: Mapping[Any, Any], name: str) -> tuple[Any, str | None]:
    """The recording in a Hugging Face dataset's dict, and its path."""
    path = mapping.get("path")
    named = path if isinstance(path, str) else None
    if mapping.get("array") is not None and mapping.get("sampling_rate") is not None:
        return (mapping["array"], mapping["sampling_rate"]), named
    if isinstance(mapping.get("bytes"), bytes | bytearray | memoryview):
        return mapping["bytes"], named
    if isinstance(path, str | os.PathLike):
        return path, _path_text(path)
    keys = ", ".join(map(shown, list(mapping)[:8]))
    raise AudioError(
        f"{name}: a dict needs the keys 'array' and 'sampling_rate', or 'bytes', or "
        f"'path'; got {keys or 'none'}"
    )


def _is_decoded(value: object) -> bool:
    """Whether ``value`` looks like torchcodec's AudioSamples."""
    return hasattr(value, "sample_rate") and is_samples(getattr(value, "data", None))


def _from_decoder(decoder: Any, name: str) -> tuple[Any, Any]:
    """``(samples, rate)`` of everything that a torchcodec AudioDecoder reads."""
    try:
        decoded = decoder.get_all_samples()
    except Exception as error:  # noqa: BLE001 - whatever another library raises
        raise AudioError(f"{name}: its decoder cannot read it: {one_line(str(error))}") from None
    return _from_decoded(decoded, name)


def _from_decoded(decoded: Any, name: str) -> tuple[Any, Any]:
    """``(samples, rate)`` of torchcodec's AudioSamples, which are ``[channels, frames]``."""
    if not _is_decoded(decoded):
        raise AudioError(f"{name}: does not decode to samples with a rate; {_KINDS}")
    data = decoded.data
    return (data.T if len(getattr(data, "shape", ())) == 2 else data), decoded.sample_rate


def _check(recording: Any, name: str) -> None:
    """Refuse a value that has none of these forms."""
    if isinstance(recording, bytes) and len(recording) < _LONGEST_PATH and _exists(recording):
        raise AudioError(f"{name}: the bytes are a path; give it as a string")
    if isinstance(recording, io.TextIOBase):
        raise AudioError(f"{name}: reads as str; open it in binary mode")
    if hasattr(recording, "read") and hasattr(recording, "samplerate"):
        raise AudioError(f"{name}: is an open sound file; give its path, or (samples, samplerate)")
    if not (isinstance(recording, str | bytes | tuple | os.PathLike) or hasattr(recording, "read")):
        raise AudioError(f"{name}: this is not a recording; {_KINDS}{_hint(recording)}")


def _exists(path: bytes) -> bool:
    return bool(path) and b"\0" not in path and os.path.lexists(path)


def _hint(value: object) -> str:
    """A hint at what the caller may have meant."""
    if getattr(getattr(value, "dtype", None), "kind", "") in ("U", "O", "T"):
        return ": for several recordings, give a list of names, not an array"
    if is_samples(value) or _is_numbers(value):
        return ": samples need their rate, as in (samples, rate)"
    if as_float(value) is not None:
        return ": a number alone is not a recording"
    if is_several(value):
        return ": these are several recordings; read them one by one"
    if isinstance(value, Iterator | set | frozenset):
        return ": make a list of them"
    return ""


def _path_text(path: Any) -> str:
    try:
        return os.fsdecode(path)
    except TypeError as error:
        raise AudioError(f"<{type(path).__name__}>: is not a path: {error}") from None


def _name_of(recording: Any) -> str:
    """The path, or the type of the value."""
    if isinstance(recording, str | os.PathLike):
        return "<stdin>" if recording == "-" else _path_text(recording)
    if isinstance(recording, bytes):
        return "<bytes>"
    if isinstance(recording, tuple):
        return "<array>"
    file_name = getattr(recording, "name", None)
    return file_name if isinstance(file_name, str) else f"<{type(recording).__name__}>"
