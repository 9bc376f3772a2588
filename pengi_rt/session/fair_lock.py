"""A lock that threads get in the order in which they asked for it."""

from collections import deque
from threading import Lock, get_ident
from types import TracebackType
from typing import NamedTuple


class _Waiting(NamedTuple):
    thread: int
    gate: Lock  # held until it is this thread's turn


class Turns:
    """As :class:`threading.RLock`, but fair.

    An RLock goes to whoever runs when it is free: a thread that frees it between two batches takes
    it again before one that waits has woken up. Here it is handed to the one that waits longest.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._waiting: deque[_Waiting] = deque()
        self._owner: int | None = None
        self._depth = 0

    def __enter__(self) -> None:
        me = get_ident()
        with self._lock:
            if self._owner in (None, me):
                self._owner = me
                self._depth += 1
                return
            turn = _Waiting(me, Lock())
            turn.gate.acquire()
            self._waiting.append(turn)
        try:
            turn.gate.acquire()
        except BaseException:  # Ctrl-C while waiting: nobody may hand it to us any more
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._pass_on()
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
                self._pass_on()

    def _pass_on(self) -> None:
        """To the one that waits longest; the caller holds :attr:`_lock`."""
        self._owner, self._depth = None, 0
        if self._waiting:
            turn = self._waiting.popleft()
            self._owner, self._depth = turn.thread, 1
            turn.gate.release()
