"""Parse untrusted JSON: bounded before it is parsed, and strictly standard.

Python's parser accepts NaN, numbers beyond float64, duplicate keys and lone surrogates, and turns a
few megabytes of ``[[],[],`` into hundreds. Here the caller sets limits, and every message is one
line.
"""

import json
import math
from typing import Any, NamedTuple

from pengi_rt.system.quote import shown

MAX_DEPTH = 32
MAX_DIGITS = 40  # of an integer; 2^63 has 19


class Limits(NamedTuple):
    """How large a document may be."""

    characters: int
    values: int  # approximately; each takes some 100 bytes once it is parsed
    string: int = 10_000  # characters per string
    finite: bool = True  # False lets NaN and infinities through, for a caller that names the key


def parse(text: str | bytes, limits: Limits) -> object:
    """Parse a document.

    Raises:
        ValueError: the text is not JSON or exceeds ``limits``; the message can follow "plan.json ".
    """
    if len(text) > limits.characters:
        raise ValueError(f"has {len(text)} bytes, at most {limits.characters} are read")
    try:
        text = text.decode() if isinstance(text, bytes) else text
        _check_count(text, limits.values)
        data = json.loads(
            text,
            object_pairs_hook=unique_keys,
            parse_constant=_refused if limits.finite else float,
            parse_float=_finite if limits.finite else float,
            parse_int=_integer,
        )
    except RecursionError:
        raise ValueError(f"is not JSON: nested more than {MAX_DEPTH} deep") from None
    except ValueError as error:
        raise ValueError(f"is not JSON: {error}") from None
    _check_strings(data, limits.string)
    return data


def _check_count(text: str, limit: int) -> None:
    """Bound the number of values by counting separators, including those in strings."""
    if sum(map(text.count, ",[{")) > limit:
        raise ValueError(f"more than {limit} values, too many")


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object for :func:`json.loads`. Raises ValueError if a key occurs twice."""
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("an object has the same key twice")
    return data


def _refused(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{shown(digits)} is too large for a float64")
    return number


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _check_strings(data: object, longest: int) -> None:
    """Refuse strings that could control a terminal, fail to print or fill the screen."""
    level = [data]
    for _ in range(MAX_DEPTH):
        strings = [value for value in level if isinstance(value, str)]
        length = max(map(len, strings), default=0)
        if length > longest:
            raise ValueError(f"holds a string of {length} characters, at most {longest} are read")
        if not all(map(str.isprintable, strings)):
            raise ValueError("holds a string with control characters")
        inside: list[object] = []
        for value in level:
            if isinstance(value, dict):
                inside += [*value, *value.values()]
            elif isinstance(value, list):
                inside += value
        level = inside
    if level:
        raise ValueError(f"is not JSON that we write: nested more than {MAX_DEPTH} deep")
