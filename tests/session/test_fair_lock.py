"""One thread holds the lock at a time, and threads get it in the order they requested it."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from pengi_rt.session.fair_lock import FairLock


def until(condition: object) -> None:
    """Wait for another thread to reach a state."""
    assert callable(condition)
    limit = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


def test_one_thread_at_a_time() -> None:
    lock, inside, most = FairLock(), [], []

    def work(_: int) -> None:
        for _ in range(50):
            with lock, lock:  # the lock is reentrant
                inside.append(1)
                most.append(len(inside))
                time.sleep(0)
                inside.pop()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    assert len(most) == 300
    assert max(most) == 1


def test_threads_get_it_in_the_order_of_asking() -> None:
    """A thread that releases it and requests it again at once comes after those that wait."""
    lock, order = FairLock(), []

    def wait(name: int) -> None:
        with lock:
            order.append(name)

    with ThreadPoolExecutor(3) as pool:
        with lock:
            for name in range(3):
                pool.submit(wait, name)
                until(lambda name=name: len(lock._waiters) == name + 1)
        with lock:
            order.append(3)
    assert order == [0, 1, 2, 3]


def test_an_error_inside_releases_it() -> None:
    lock = FairLock()
    with pytest.raises(ZeroDivisionError), lock, lock:
        raise ZeroDivisionError
    with ThreadPoolExecutor(1) as pool:
        pool.submit(lock.__enter__).result(30)


@pytest.mark.parametrize("handed", [False, True])
def test_a_thread_that_stops_waiting_is_skipped(
    handed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while waiting: before our turn, and just as it comes."""
    lock = FairLock()
    real = threading.Lock

    class Interrupted:
        def __init__(self) -> None:
            self.lock, self.asked = real(), 0

        def acquire(self) -> None:
            self.asked += 1
            self.lock.acquire(blocking=handed or self.asked == 1)
            if self.asked == 2:
                raise KeyboardInterrupt

        def release(self) -> None:
            self.lock.release()

    monkeypatch.setattr("pengi_rt.session.fair_lock.Lock", Interrupted)

    def wait() -> None:
        with pytest.raises(KeyboardInterrupt), lock:
            raise AssertionError("never its turn")

    with ThreadPoolExecutor(1) as pool:
        with lock:
            waiting = pool.submit(wait)
            if handed:
                until(lambda: lock._waiters)
            else:
                waiting.result(30)
        waiting.result(30)
        assert not lock._waiters
        with lock:
            pass
        pool.submit(lock.__enter__).result(30)
