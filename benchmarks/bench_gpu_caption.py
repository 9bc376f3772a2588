"""A whole caption on a GPU, from the waveform on the host to the tokens on the host, and its parts.

The prompt's prefix is cached, except in the released way and where a benchmark says otherwise.
Nothing stops early: 5 beams, 20 tokens. Whole captions are timed by the host's clock, parts on the
device. Without timing, and without a GPU, everything runs once on the tiny model, with interpreted
kernels.
"""

from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import pytest

pytest.importorskip("triton", reason="needs triton")

import torch
from compiled import Compiled
from contenders import PyTorch
from gpu import Times, captured, device_for, launched, machine, roofs

from pengi_rt.backends.protocol import F32
from pengi_rt.backends.triton.backend import TritonBackend
from pengi_rt.backends.triton.search import STEPS
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.decoding.beam import FusedSearch
from pengi_rt.models.pengi import Pengi

# PyTorch's compiler warns about code that is not ours.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]

USUAL, OTHERS = "fp16", ("int8", "fp32")
"""The main precision, and the others."""
BATCHES = (1, 64, 8)
"""Those with a bar in GPU.md come first, in case the time runs out."""
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
PROFILE_ROWS = 60

Tokens = list[list[tuple[int, ...]]]
"""The tokens of each beam of each clip."""


class Bench:
    """One model on one device, the request that all answer, and the times measured so far."""

    def __init__(self, model: Pengi, device: torch.device, *, timed: bool) -> None:
        self.model, self.device, self.timed = model, device, timed
        self.seconds: dict[str, float] = {}
        self._backends: dict[str, TritonBackend] = {}
        self._rivals: dict[str, PyTorch] = {}
        self._compiled: tuple[int, Compiled] | None = None

    @cached_property
    def options(self) -> DecodeOptions:
        beams, tokens = (5, 20) if self.timed else (2, 3)
        return DecodeOptions(
            beam_size=beams, max_new_tokens=tokens, temperature=1.0, stop_id=-1, pad_id=0
        )

    @cached_property
    def ids(self) -> torch.Tensor:
        """The ids of a prompt of four words."""
        text = self.model.config.text
        return torch.tensor([[text.bos_id, 7, 8, 9, 10, text.eos_id]])

    def waves(self, batch: int) -> F32:
        shape = (batch, self.model.config.clip_samples)
        wave = np.random.default_rng(batch).uniform(-0.3, 0.3, shape)
        return wave.astype(np.float32)

    def backend(self, precision: str) -> TritonBackend:
        if precision not in self._backends:
            made = TritonBackend(self.model, device=self.device, precision=precision)
            self._backends[precision] = made
        return self._backends[precision]

    def rival(self, precision: str) -> PyTorch:
        if precision not in self._rivals:
            made = PyTorch(self.model, device=self.device, dtype=DTYPES[precision])
            self._rivals[precision] = made
        return self._rivals[precision]

    def compiled(self, batch: int) -> Compiled:
        """PyTorch's graphs of one batch size at a time, because they keep their memory."""
        if self._compiled is None or self._compiled[0] != batch:
            self._compiled = None
            torch._dynamo.reset()
            # If nothing is timed, it is only traced as a whole, which needs no compiler.
            traced = partial(torch.compile, backend="eager", fullgraph=True, dynamic=False)
            own = None if self.timed else traced
            precision = "fp16" if self.timed else "fp32"
            made = Compiled(self.rival(precision), batch, self.options, own)
            self._compiled = (batch, made)
        return self._compiled[1]

    def fused(self, backend: TritonBackend) -> FusedSearch:
        return FusedSearch(backend.device_search, backend.config, self.options)

    def ours(self, precision: str, batch: int) -> Callable[[], Tokens]:
        backend, waves = self.backend(precision), self.waves(batch)
        text = backend.encoders.encode_text(self.ids.numpy()).prefix[0]

        def call() -> Tokens:
            found = self.fused(backend).search_audio(waves, text)
            return [[beam.tokens for beam in each.beams] for each in found]

        return call


@pytest.fixture(scope="module")
def bench(request: pytest.FixtureRequest, bench_model: Pengi) -> Bench:
    timed = bool(request.config.getoption("--benchmark-only"))
    device = device_for(timed=timed)
    return Bench(bench_model, device, timed=timed)


@pytest.fixture(autouse=True)
def exact_convolutions() -> Iterator[None]:
    """Turn off TF32 in float32 convolutions, which is cuDNN's default."""
    allowed, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
    yield
    torch.backends.cudnn.allow_tf32 = allowed


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """All batches and precisions if timed; otherwise batch 1, and int8 as the other precision."""
    timed = bool(metafunc.config.getoption("--benchmark-only"))
    if "batch" in metafunc.fixturenames:
        metafunc.parametrize("batch", BATCHES if timed else BATCHES[:1])
    if "precision" in metafunc.fixturenames:
        metafunc.parametrize("precision", OTHERS if timed else OTHERS[:1])


def run(benchmark: Any, bench: Bench, name: str, batch: int, call: Callable[[], object]) -> None:
    """Time ``call`` by the host's clock, round by round, and record the result."""
    times: list[float] = []

    def timed() -> None:
        started = perf_counter()
        call()
        times.append(perf_counter() - started)

    rounds = 1
    if bench.timed:
        call()
        started = perf_counter()
        call()
        # About two seconds each, but at least five rounds.
        rounds = min(max(round(2 / (perf_counter() - started)), 5), 100)
    benchmark.pedantic(timed, rounds=rounds)
    bench.seconds[f"{name}, batch {batch}"] = best = median(times)
    benchmark.extra_info.update(
        contender=name,
        batch=batch,
        ms=best * 1e3,
        captions_per_s=batch / best,
        beams=bench.options.beam_size,
        new_tokens=bench.options.max_new_tokens,
        **machine(),
    )
    ours = bench.seconds.get(f"ours fp16, batch {batch}")
    if ours is not None:
        benchmark.extra_info["over_ours_fp16"] = best / ours


def test_caption(benchmark: Any, bench: Bench, batch: int) -> None:
    """Ours, in float16."""
    caption(benchmark, bench, USUAL, batch)


def test_new_prompt(benchmark: Any, bench: Bench, batch: int) -> None:
    """Ours, with a prompt that is not cached and is encoded while the audio is."""
    benchmark.group = f"caption, batch {batch}"
    backend, waves = bench.backend(USUAL if bench.timed else "fp32"), bench.waves(batch)
    nothing = np.empty((0, bench.model.config.decoder.n_embd), np.float32)

    def call() -> Tokens:
        _, found = bench.fused(backend).search_new_prompt(waves, bench.ids.numpy(), nothing)
        return [[beam.tokens for beam in each.beams] for each in found]

    assert_forced(call(), batch, bench.options)
    run(benchmark, bench, "ours fp16, new prompt", batch, call)


def test_parts(benchmark: Any, bench: Bench, batch: int) -> None:
    """Audio encoder, prefill and one decode step on the device, each from its graph."""
    parts(benchmark, bench, USUAL, batch)


@pytest.mark.parametrize("kind", ["fp16", "fp32"])
def test_released(benchmark: Any, bench: Bench, kind: str) -> None:
    """(a) As released: recomputes everything for every token, one clip at a time."""
    benchmark.group = "caption, batch 1"
    rival, wave = bench.rival(kind), torch.from_numpy(bench.waves(1))
    beams, steps = bench.options.beam_size, bench.options.max_new_tokens
    if kind == "fp32":
        # Recorded, not asserted: with random weights, margins are close to float32's own noise.
        expected = [[tuple(row) for row in rival.released(wave, bench.ids, beams, steps)]]
        same = bench.ours("fp32", 1)() == expected
        assert same or bench.timed
        benchmark.extra_info["ours_fp32_has_its_tokens"] = same
    name = f"released {kind}"
    run(benchmark, bench, name, 1, lambda: rival.released(wave, bench.ids, beams, steps))


def test_hugging_face(benchmark: Any, bench: Bench, batch: int) -> None:
    """(b) Hugging Face ``generate`` with its cache, in float16."""
    benchmark.group = f"caption, batch {batch}"
    precision = "fp16" if bench.timed else "fp32"
    rival, waves = bench.rival(precision), torch.from_numpy(bench.waves(batch))
    with torch.inference_mode():
        text = rival.text_prefix(bench.ids)
    beams, steps = bench.options.beam_size, bench.options.max_new_tokens

    def call() -> torch.Tensor:
        return rival.hugging_face(waves, bench.ids, beams, steps, text)

    assert call().shape[1] == steps
    run(benchmark, bench, f"hugging face {precision}", batch, call)


def test_compiled(benchmark: Any, bench: Bench, batch: int) -> None:
    """(c) Our PyTorch decoder, compiled with ``mode="reduce-overhead"``, in float16."""
    benchmark.group = f"caption, batch {batch}"
    rival, waves = bench.compiled(batch), torch.from_numpy(bench.waves(batch))
    with torch.no_grad():
        text = rival.pytorch.text_prefix(bench.ids)
    started = perf_counter()
    for _ in range(3):  # compiled, warmed up and captured
        found = [[beam.tokens for beam in answer.beams] for answer in rival.caption(waves, text)]
    benchmark.extra_info["compiling_s"] = perf_counter() - started
    assert_forced(found, batch, bench.options)
    same = found == bench.ours(USUAL if bench.timed else "fp32", batch)()
    assert same or bench.timed
    benchmark.extra_info["ours_has_its_tokens"] = same
    run(benchmark, bench, "compiled fp16", batch, lambda: rival.caption(waves, text))
    if bench.timed:
        with torch.no_grad():
            parts_us = parts_of(rival, waves, text)
        benchmark.extra_info.update({f"{name}_us": us.median for name, us in parts_us.items()})


def test_caption_otherwise(benchmark: Any, bench: Bench, precision: str, batch: int) -> None:
    """Ours, in the other precisions."""
    caption(benchmark, bench, precision, batch)


def test_parts_otherwise(benchmark: Any, bench: Bench, precision: str, batch: int) -> None:
    parts(benchmark, bench, precision, batch)


def test_profile(
    benchmark: Any, bench: Bench, batch: int, pytestconfig: pytest.Config, tmp_path: Path
) -> None:
    """Time of a caption kernel by kernel, in a table next to the JSON."""
    precision = "fp16" if bench.timed else "fp32"
    call = bench.ours(precision, batch)
    call()
    activities = [torch.profiler.ProfilerActivity.CPU]
    if bench.device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        benchmark.pedantic(call, rounds=1)
        if bench.device.type == "cuda":
            torch.cuda.synchronize()
    rows = profile.key_averages()
    table = rows.table(
        sort_by="self_device_time_total", row_limit=PROFILE_ROWS, max_name_column_width=70
    )
    json = getattr(pytestconfig.option, "benchmark_json", None)
    folder = Path(json.name).parent if json else tmp_path
    stem = Path(json.name).stem if json else "profile"
    path = folder / f"{stem}-profile-{precision}-batch-{batch}.txt"
    path.write_text(f"{machine()}\n{table}\n", encoding="utf-8")
    benchmark.extra_info["profile"] = path.name


def caption(benchmark: Any, bench: Bench, precision: str, batch: int) -> None:
    """Ours, from end to end."""
    benchmark.group = f"caption, batch {batch}"
    call = bench.ours(precision, batch)
    assert_forced(call(), batch, bench.options)
    run(benchmark, bench, f"ours {precision}", batch, call)


@torch.inference_mode()  # in which the backend made its buffers
def parts(benchmark: Any, bench: Bench, precision: str, batch: int) -> None:
    """The graphs that a caption replays, one by one; each leaves the cache as it would be."""
    benchmark.group = f"parts, batch {batch}"
    backend = bench.backend(precision)
    bench.ours(precision, batch)()
    prefix = bench.model.config.prefix_length
    options = bench.options
    graphs = backend.warm_up(prefix, batch, options)
    run = backend.device_search._run_for(batch, prefix, options)
    position = run.decoding.history.position
    middle = max(bench.options.max_new_tokens // 2 - STEPS // 2, 0)
    more = graphs[f"{STEPS} steps"]

    def back() -> None:
        position.fill_(middle)

    def step() -> None:
        back()
        more()

    benchmark.pedantic(step, rounds=10 if bench.timed else 1)
    info = benchmark.extra_info
    for name, replayed in graphs.items():
        info |= {
            f"{name}, first run, s": replayed.first_run,
            f"{name}, capture, s": replayed.capture,
        }
    info |= {"precision": precision, "batch": batch} | machine()
    if not bench.timed:
        return
    found = {name: launched(graphs[name]) for name in ("audio", "text of 8 ids", "prefill")}
    found["step"] = Times(*(us / STEPS for us in launched(more, before=back)))
    for name, (us, p20, p80) in found.items():
        info |= {f"{name}_us": us, f"{name}_us_p20": p20, f"{name}_us_p80": p80}
    weights = decoder_bytes(backend)
    floor = weights / roofs().copy_gb_s / 1e3
    info |= {"step_weight_bytes": weights, "step_floor_us": floor}
    info["step_times_floor"] = found["step"].median / floor


def parts_of(rival: Compiled, waves: torch.Tensor, text: torch.Tensor) -> dict[str, Times]:
    """The same parts of (c), and its audio encoder eager in a graph."""
    pytorch, wave = rival.pytorch, waves.to(rival.pytorch.device)
    prefix = torch.cat([pytorch.audio_prefix(wave), text.expand(len(wave), -1, -1)], dim=1)
    position = rival.decoder.position
    return {
        "audio": launched(lambda: rival.encode(wave)),
        "audio_eager": launched(captured([lambda: pytorch.audio_prefix(wave)]).replay),
        "prefill": launched(lambda: rival.prefill(prefix)),
        "step": launched(rival.step, before=lambda: position.fill_(10)),
    }


def decoder_bytes(backend: TritonBackend) -> int:
    """Bytes of the weights that one step reads: the decoder's without the position table."""
    weights = backend.decoder.weights
    tensors = [weights.head.weight, weights.head.scale]
    for layer in weights.layers:
        for part in layer:
            tensors += [value for value in part if isinstance(value, torch.Tensor)]
    return sum(x.numel() * x.element_size() for x in tensors if x is not None)


def assert_forced(found: Tokens, batch: int, options: DecodeOptions) -> None:
    """Fail if any beam stopped early."""
    assert len(found) == batch
    assert all(len(beams) == options.beam_size for beams in found)
    assert all(len(tokens) == options.max_new_tokens for beams in found for tokens in beams)
