"""A lock that threads get in the order in which they requested it."""

from collections import deque
from threading import Lock, get_ident
from types import TracebackType
from typing import NamedTuple


class _Waiter(NamedTuple):
    thread: int
    gate: Lock  # held until it is this thread's turn


class FairLock:
    """A :class:`threading.RLock` that is fair.

    A free RLock goes to whichever thread runs first: a thread that frees it between two batches
    takes it again before a waiting thread has woken up. A fair lock is handed to the thread that
    has waited longest.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiters: deque[_Waiter] = deque()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        me = get_ident()
        with self._lock:
            if self._owner in (None, me):
                self._owner = me
                self._depth += 1
                return
            waiter = _Waiter(me, Lock())
            waiter.gate.acquire()
            self._waiters.append(waiter)
        try:
            waiter.gate.acquire()
        except BaseException:  # Ctrl-C while waiting: nobody may hand us the lock any more
            with self._lock:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)
                else:
                    self._hand_over()
            raise

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._depth -= 1
            if not self._depth:
                self._hand_over()

    def _hand_over(self) -> None:
        """Give the lock to the thread that has waited longest; the caller holds ``_lock``."""
        self._owner, self._depth = None, 0
        if self._waiters:
            waiter = self._waiters.popleft()
            self._owner, self._depth = waiter.thread, 1
            waiter.gate.release()
