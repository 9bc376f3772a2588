"""A memory of so many things that were made, the ones used longest ago forgotten first."""

from collections import OrderedDict
from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def remembered(known: OrderedDict[K, V], key: K, make: Callable[[K], V], size: int) -> V:
    """The value of ``key`` in ``known``, made if it is not there; at most ``size`` are kept."""
    if key not in known:
        known[key] = make(key)
        if len(known) > size:
            known.popitem(last=False)
    known.move_to_end(key)
    return known[key]
