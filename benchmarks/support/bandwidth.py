"""How fast this machine reads memory, which limits a decode step."""

import threading
from time import perf_counter

import numpy as np


def read_bandwidth(threads: int, megabytes: int = 512, rounds: int = 7) -> float:
    """Bytes per second that ``threads`` threads read together, in the best of ``rounds``."""
    data = np.ones(megabytes * 1_000_000 // 4, np.float32)
    parts = np.array_split(data, threads)
    best = float("inf")
    for _ in range(rounds):
        workers = [threading.Thread(target=part.sum) for part in parts]
        started = perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        best = min(best, perf_counter() - started)
    return data.nbytes / best
