"""A whole caption, and one decode step, against today's alternatives and the memory's limit.

All contenders run in one process, taking turns round by round, with two threads, and must produce
the same number of tokens: nothing stops early. Before anything is timed, the released way's tokens
are checked to equal ours (Hugging Face has a different beam rule).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bandwidth import read_bandwidth
from caption import BEAMS, STEPS, THREADS, Setup, machine, prepared_step, seconds, step_tensors
from contenders import PyTorch

import pengi_rt
from pengi_rt.models.pengi import Pengi

ROUNDS = 7
RIVALS = ("released", "hugging_face")


@pytest.fixture(scope="module")
def setup(bench_model: Pengi, bench_plan: Path) -> Iterator[Setup]:
    torch.set_num_threads(THREADS)
    torch.set_flush_denormal(True)
    wave = np.random.default_rng(0).uniform(-0.3, 0.3, bench_model.config.clip_samples)
    with pengi_rt.load(bench_plan, threads=THREADS) as engine:
        yield Setup(engine, PyTorch(bench_model), wave.astype(np.float32))


@pytest.mark.benchmark(group="caption")
def test_caption(benchmark: Any, setup: Setup) -> None:
    """(c) pengi-rt against (a) the released way and (b) Hugging Face's ``generate``."""
    reference = setup.released()
    assert setup.ours() == reference
    assert all(len(row) == STEPS for row in reference)
    assert setup.hugging_face().shape[1] == STEPS
    others: dict[str, list[float]] = {"released": [], "hugging_face": [], "ours_new_prompt": []}

    def others_first() -> None:
        others["released"].append(seconds(setup.released))
        others["hugging_face"].append(seconds(setup.hugging_face))
        others["ours_new_prompt"].append(seconds(lambda: setup.ours(known_prompt=False)))

    ours: list[float] = []

    def timed() -> None:
        ours.append(seconds(setup.ours))

    benchmark.pedantic(timed, setup=others_first, rounds=ROUNDS if benchmark.enabled else 1)
    best = {name: min(times) for name, times in others.items()} | {"ours": min(ours)}
    benchmark.extra_info.update(
        {f"{name}_s": best[name] for name in best}
        | {f"{name}_over_ours": best[name] / best["ours"] for name in RIVALS}
        | {f"{name}_over_ours_new_prompt": best[name] / best["ours_new_prompt"] for name in RIVALS}
        | {"beams": BEAMS, "new_tokens": STEPS, "threads": THREADS, **machine()}
    )


@pytest.mark.benchmark(group="decode step")
def test_decode_step(benchmark: Any, setup: Setup) -> None:
    """One step of five beams, against the time that memory takes to deliver its weights."""
    backend = setup.engine.backend
    weights = sum(tensor.nbytes for tensor in step_tensors(setup.engine))
    step = prepared_step(backend)
    megabytes = 512 if benchmark.enabled else 8
    before = read_bandwidth(THREADS, megabytes)
    benchmark.pedantic(step, rounds=60 if benchmark.enabled else 1, warmup_rounds=2)
    bandwidth = max(before, read_bandwidth(THREADS, megabytes))
    floor = weights / bandwidth
    benchmark.extra_info.update(
        {"weight_bytes": weights, "read_GB_per_s": bandwidth / 1e9, "floor_s": floor, **machine()}
    )
    if benchmark.enabled:
        benchmark.extra_info["times_floor"] = benchmark.stats.stats.min / floor
