"""Every backend's decoder follows the protocol: clips come and go without affecting each other.

Tolerance: 1e-4 on logits of order one to ten, as in tests/backends/test_onnx.py: products of other
shapes add in another order. A wrong parent, position, slot or mask is off by 0.1.
"""

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fake_backend import FakeBackend, ToyModel
from slots import (
    NEW_TOKENS,
    PREFIX_ROWS,
    Clip,
    Served,
    admit,
    alone,
    clip,
    new_cache,
    step,
)
from triton_interpreter import DEVICE

from pengi_rt.backends.native import NativeBackend
from pengi_rt.backends.onnx import OnnxBackend, OnnxCache, open_plan
from pengi_rt.backends.protocol import Backend, Decoder
from pengi_rt.backends.torch import TorchBackend
from pengi_rt.backends.triton.backend import TritonBackend
from pengi_rt.config.backend import RunOptions
from pengi_rt.config.decode import DecodeOptions, SampleOptions
from pengi_rt.config.pengi import pengi_config
from pengi_rt.decoding.beam import fused_search, search
from pengi_rt.decoding.likelihood import likelihoods
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.decoding.sampling import sample
from pengi_rt.decoding.streaming import stream_tokens
from pengi_rt.errors import BackendError, UsageError
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan.reader import Plan

ATOL = 1e-4
BACKENDS = ("fake", "torch", "onnx", "native", "native-int8", "triton")


@pytest.fixture(scope="module", params=BACKENDS)
def backend(
    request: pytest.FixtureRequest, tiny_model: Pengi, tiny_plan: Path
) -> Iterator[Backend]:
    if request.param == "onnx":
        with Plan.open(tiny_plan) as plan:
            onnx = OnnxBackend(plan, threads=1)
            yield onnx
            onnx.close()
    elif request.param.startswith("native"):
        precision = "int8" if request.param == "native-int8" else "fp32"
        with Plan.open(tiny_plan) as plan:
            native = NativeBackend(plan, precision=precision, threads=2)
            yield native
            native.close()
    elif request.param == "torch":
        yield TorchBackend(tiny_model)
    elif request.param == "triton":
        yield TritonBackend(tiny_model, device=DEVICE, precision="fp32")
    else:
        yield FakeBackend(ToyModel())


@pytest.fixture(scope="module")
def decoder(backend: Backend) -> Decoder:
    return require_decoder(backend)


def serve(decoder: Decoder, clips: list[Clip], slots: int) -> tuple[list[Served], list[int]]:
    """Admit clips as slots become free; returns their logits and the position after each step."""
    generator = np.random.default_rng(0)
    cache, served, done = new_cache(decoder, slots), dict[int, Served](), list[Served]()
    queue, positions = list(clips), list[int]()
    while queue or served:
        free = [slot for slot in range(slots) if slot not in served]
        waiting = dict(zip(free, queue, strict=False))
        queue = queue[len(waiting) :]
        if waiting:
            served |= admit(decoder, cache, waiting)
        assert np.flatnonzero(cache.in_use).tolist() == sorted(served)
        step(decoder, cache, served, generator)
        positions.append(cache.now if isinstance(cache, OnnxCache) else 0)
        for slot, each in list(served.items()):
            assert cache.generated[slot] == len(each.logits) - 1
            if len(each.logits) > len(each.clip.tokens):
                done.append(served.pop(slot))
                cache.release(slot)
    return done, positions


SHAPES = ((6, 3), (1, 1), (3, 2), (5, 2), (2, 3), (6, 3), (1, 3), (4, 1), (2, 3))
"""Prefix rows and steps per clip; interpreted kernels need 1 s per step, so they use only four."""


@pytest.mark.parametrize("slots", [2, 3])
def test_clips_that_join_and_leave_get_the_results_of_a_lone_clip(
    backend: Backend, decoder: Decoder, slots: int
) -> None:
    """Clips enter late into used slots, leave early, and share the cache at different ages."""
    shapes = SHAPES[:4] if backend.name == "triton" else SHAPES
    clips = [clip(decoder, seed, *shape) for seed, shape in enumerate(shapes)]
    done, positions = serve(decoder, clips, slots)
    assert len(done) == len(clips)
    for each in done:
        for found, expected in zip(each.logits, alone(decoder, each.clip), strict=True):
            np.testing.assert_allclose(found, expected, atol=ATOL)
    if backend.name == "onnx":  # their positions ran out: histories were moved
        assert any(after <= before for before, after in pairwise(positions))


def test_a_slot_is_used_again_when_all_are_free(decoder: Decoder) -> None:
    """Decodes more clips than the positions would allow without reuse."""
    cache, generator = new_cache(decoder, 1), np.random.default_rng(1)
    for seed in range(2):
        one = clip(decoder, seed, 2 + seed, NEW_TOKENS)
        served = admit(decoder, cache, {0: one})
        for _ in one.tokens:
            step(decoder, cache, served, generator)
        cache.release(0)
        for found, expected in zip(served[0].logits, alone(decoder, one), strict=True):
            np.testing.assert_allclose(found, expected, atol=ATOL)


def test_clips_in_a_batch_differ(decoder: Decoder) -> None:
    """Guards the comparisons above: slots and ages must make a difference."""
    one, other = (alone(decoder, clip(decoder, seed, 3, 2)) for seed in (0, 1))
    for first, second in zip(one, other, strict=True):
        assert np.abs(first - second).max() > 0.1


def test_misuse_of_the_protocol_is_refused(decoder: Decoder) -> None:
    cache = new_cache(decoder, 2)
    one = clip(decoder, 0, 3, NEW_TOKENS + 1)
    served = admit(decoder, cache, {1: one})
    with pytest.raises((AssertionError, BackendError), match="in use"):
        admit(decoder, cache, {1: one})
    with pytest.raises((AssertionError, BackendError)):
        admit(decoder, cache, {0: clip(decoder, 0, PREFIX_ROWS + 1, 1)})
    generator = np.random.default_rng(0)
    for _ in range(NEW_TOKENS):
        step(decoder, cache, served, generator)
    with pytest.raises((AssertionError, BackendError), match="no room"):
        step(decoder, cache, served, generator)


class Contrastive:
    """A backend for a plan without a decoder."""

    name = "contrastive"
    precision = "fp32"
    decoder = device_search = None

    def __init__(self, backend: Backend) -> None:
        self.config, self.encoders = backend.config, backend.encoders

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def test_without_a_decoder_nothing_is_generated(backend: Backend) -> None:
    bare = Contrastive(backend)
    beams = DecodeOptions(beam_size=1, max_new_tokens=2, temperature=1.0, stop_id=1, pad_id=0)
    draw = SampleOptions(
        samples=1,
        max_new_tokens=2,
        temperature=1.0,
        top_k=None,
        top_p=None,
        seed=0,
        stop_id=1,
        pad_id=0,
    )
    prefix = np.zeros((2, pengi_config(backend.config).decoder.n_embd), np.float32)
    assert fused_search(bare, beams) is None
    for decode in (
        lambda: search(bare, [prefix], beams),
        lambda: sample(bare, [prefix], draw),
        lambda: stream_tokens(bare, prefix, beams),
        lambda: likelihoods(bare, [prefix], [(1,)], end=None),
    ):
        with pytest.raises(UsageError, match="this plan has no decoder"):
            decode()


def test_a_plan_without_a_decoder_graph_needs_no_decoder_tensors(tiny_plan: Path) -> None:
    wave = np.random.default_rng(0).uniform(-1, 1, (1, 32_000)).astype(np.float32)
    with Plan.open(tiny_plan) as plan:
        expected = OnnxBackend(plan, threads=1).encoders.encode_audio(wave)
        kept = {
            name: record
            for name, record in plan.manifest.tensors.items()
            if not name.startswith("decoder.")
        }
        plan.manifest = replace(plan.manifest, tensors=kept, graphs=("audio", "text"))
        bare = open_plan(plan, RunOptions("cpu", "fp32", 1))
        assert bare.decoder is None
        np.testing.assert_array_equal(bare.encoders.encode_audio(wave).prefix, expected.prefix)
        bare.close()


def test_decoding_loads_no_encoder(tiny_plan: Path) -> None:
    with Plan.open(tiny_plan) as plan:
        backend = OnnxBackend(plan, threads=1)
        assert backend.decoder is not None
        alone(backend.decoder, clip(backend.decoder, 0, 3, 1))
        made = [name for name, graph in backend.graphs.items() if "session" in graph.__dict__]
        assert made == ["decoder"]
        backend.close()
