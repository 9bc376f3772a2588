"""Make objects that own threads harmless in a forked child.

A child has none of its parent's threads. Destroying an ONNX Runtime session there joins threads
that do not exist: the child hangs or crashes, at the latest when it exits.
"""

import ctypes
import os
from threading import Lock, get_ident
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """An object that is told about a fork."""

    def after_fork(self) -> None:
        """Refuse all further use, without touching locks that the parent's threads may hold."""


_registered: WeakSet[Forkable] = WeakSet()
_lock = Lock()
# By forking thread, filled before the fork: a child drops the local variables of the other threads
# before any of our code runs in it.
_held: dict[int, list[Forkable]] = {}


def register(thing: Forkable) -> None:
    """Call ``thing.after_fork`` in forked children, and never destroy ``thing`` there."""
    with _lock:
        _registered.add(thing)


def _before() -> None:
    with _lock:
        _held[get_ident()] = list(_registered)


def _in_parent() -> None:
    _held.pop(get_ident(), None)


def _in_child() -> None:
    global _lock  # noqa: PLW0603 - another thread of the parent may have held the old one
    _lock = Lock()
    for thing in _held.pop(get_ident(), ()):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))  # so it is never destroyed
        thing.after_fork()


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
