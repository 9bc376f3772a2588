"""The CPU's decoders in all their precisions: a step, a prefill, a whole caption.

All contenders run in one process, taking turns round by round, with two threads. A step is also
compared with the time that memory takes to deliver its weights once, measured in the same run.
"""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bandwidth import read_bandwidth
from caption import BEAMS, STEPS, THREADS, Setup, machine, prepared_step, seconds, step_tensors
from contenders import PyTorch

import pengi_rt
from pengi_rt.config.family import generative
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.engine import Engine
from pengi_rt.kernels.packed_linear import instruction_sets
from pengi_rt.models.pengi import Pengi

ROUNDS = 7
STEPS_EACH = 5  # steps of a contender before the next one's turn

CONTENDERS = {
    "onnx": ("onnx", "fp32", 4),
    "native_fp32": ("native", "fp32", 4),
    "native_bf16": ("native", "bf16", 2),
    "native_int8": ("native", "int8", 1),
}
"""Backend, precision, and bytes of a weight."""


@pytest.fixture(scope="module")
def engines(bench_plan: Path) -> Iterator[dict[str, Engine]]:
    torch.set_num_threads(THREADS)
    torch.set_flush_denormal(True)
    opened = {
        name: pengi_rt.load(bench_plan, backend=backend, precision=precision, threads=THREADS)
        for name, (backend, precision, _) in CONTENDERS.items()
    }
    yield opened
    for engine in opened.values():
        engine.close()


def take_turns(
    benchmark: Any, calls: dict[str, Callable[[], object]], rounds: int, each: int = 1
) -> dict[str, list[float]]:
    """Seconds of every call; the benchmark itself times a whole round."""
    times: dict[str, list[float]] = {name: [] for name in calls}

    def all_in_turn() -> None:
        for name, call in calls.items():
            times[name] += [seconds(call) for _ in range(each)]

    for call in calls.values():
        call()
    benchmark.pedantic(all_in_turn, rounds=rounds if benchmark.enabled else 1)
    return times


def report(benchmark: Any, times: dict[str, list[float]], **facts: object) -> None:
    """Best and median of every contender, and the best ones' ratios to ONNX Runtime's."""
    best = {name: min(each) for name, each in times.items()}
    benchmark.extra_info.update(
        {f"{name}_s": best[name] for name in best}
        | {f"{name}_median_s": float(np.median(each)) for name, each in times.items()}
        | {f"{name}_over_onnx": best[name] / best["onnx"] for name in best}
        | {"threads": THREADS, "instructions": instruction_sets()[0], **machine(), **facts}
    )


@pytest.mark.parametrize("clips", [1, 8])
@pytest.mark.benchmark(group="cpu decode step")
def test_step(benchmark: Any, engines: dict[str, Engine], clips: int) -> None:
    """One step of every clip's five beams."""
    weights = sum(math.prod(tensor.shape) for tensor in step_tensors(engines["onnx"]))
    megabytes = 512 if benchmark.enabled else 8
    bandwidth = read_bandwidth(THREADS, megabytes)
    calls = {name: prepared_step(engine.backend, clips) for name, engine in engines.items()}
    times = take_turns(benchmark, calls, ROUNDS, STEPS_EACH)
    bandwidth = max(bandwidth, read_bandwidth(THREADS, megabytes))
    floors = {
        f"{name}_over_memory": min(times[name]) * bandwidth / (weights * size)
        for name, (_, _, size) in CONTENDERS.items()
    }
    facts = {"clips": clips, "beams": BEAMS, "read_GB_per_s": bandwidth / 1e9}
    report(benchmark, times, **facts, **floors)


@pytest.mark.parametrize("clips", [1, 8])
@pytest.mark.benchmark(group="cpu prefill")
def test_prefill(benchmark: Any, engines: dict[str, Engine], clips: int) -> None:
    """The prefixes of every clip, in a cache of their own."""
    calls = {name: prefill_of(engine, clips) for name, engine in engines.items()}
    report(benchmark, take_turns(benchmark, calls, ROUNDS), clips=clips)


@pytest.mark.benchmark(group="cpu caption")
def test_caption(benchmark: Any, engines: dict[str, Engine], bench_model: Pengi) -> None:
    """From waveform and known prompt to five beams of 20 tokens; and the two ways in PyTorch."""
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, bench_model.config.clip_samples)
    wave, pytorch = samples.astype(np.float32), PyTorch(bench_model)
    setups = {name: Setup(engine, pytorch, wave) for name, engine in engines.items()}
    assert setups["native_fp32"].ours() == setups["onnx"].ours() == setups["onnx"].released()
    calls: dict[str, Callable[[], object]] = {
        "released": setups["onnx"].released,
        "hugging_face": setups["onnx"].hugging_face,
        **{name: setup.ours for name, setup in setups.items()},
    }
    times = take_turns(benchmark, calls, ROUNDS)
    ratios = {
        f"{rival}_over_{name}": min(times[rival]) / min(times[name])
        for rival in ("released", "hugging_face")
        for name in CONTENDERS
    }
    report(benchmark, times, beams=BEAMS, new_tokens=STEPS, **ratios)


def prefill_of(engine: Engine, clips: int) -> Callable[[], object]:
    """A prefill of the longest prefixes."""
    config, decoder = generative(engine.config), require_decoder(engine.backend)
    rows = config.prefix_length
    shape = (clips, rows, config.decoder.n_embd)
    prefix = np.random.default_rng(0).normal(scale=0.1, size=shape).astype(np.float32)
    cache = decoder.new_cache(slots=clips, width=BEAMS, prefix_rows=rows, new_tokens=1)

    def prefill() -> None:
        decoder.prefill(cache, np.arange(clips), prefix, np.full(clips, rows))
        for slot in range(clips):
            cache.release(slot)

    return prefill
