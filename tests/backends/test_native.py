"""The native CPU backend: against ONNX Runtime and PyTorch, on every instruction set of this CPU.

Tolerance: 1e-4 on logits of order one to ten, as in test_onnx.py. bf16 and int8 are compared
with PyTorch's model after the same rounding. int8 also rounds the rows that it multiplies, to
1 / 32 767 of their largest value: 5e-3, where the weights' rounding changes logits by 0.05.
"""

import copy
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Capture, assert_refused
from slots import admit, alone, clip, step

import pengi_rt
import pengi_rt._core as core
from pengi_rt.backends.native import NativeBackend, NativeDecoder
from pengi_rt.backends.onnx import OnnxBackend
from pengi_rt.backends.protocol import F32
from pengi_rt.backends.torch import TorchDecoder
from pengi_rt.errors import BackendError
from pengi_rt.kernels.packed_linear import instruction_sets
from pengi_rt.models.gpt2 import Conv1D
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.stored_weights import quantize
from pengi_rt.plan.reader import Plan

SETS = instruction_sets()
ATOL = {"fp32": 1e-4, "bf16": 1e-4, "int8": 5e-3}


@pytest.fixture(scope="module")
def plan(tiny_plan: Path) -> Iterator[Plan]:
    with Plan.open(tiny_plan) as opened:
        yield opened


def decoder_of(plan: Plan, threads: int = 1, **options: str) -> NativeDecoder:
    decoder = NativeBackend(plan, threads=threads, **options).decoder
    assert decoder is not None
    return decoder


def rounded(weight: torch.Tensor, precision: str, dim: int) -> torch.Tensor:
    """The weights that the native decoder multiplies with; ``dim`` shares a scale in int8."""
    if precision == "bf16":
        return weight.bfloat16().float()
    if precision == "int8":
        values, scale = quantize(weight, dim)
        return values * scale.unsqueeze(dim)
    return weight


def torch_decoder(model: Pengi, precision: str) -> TorchDecoder:
    """PyTorch's decoder with rounded matrices; token embeddings stay as they are."""
    decoder = copy.deepcopy(model.decoder).eval()
    for module in decoder.modules():
        if isinstance(module, Conv1D):
            module.weight.data = rounded(module.weight.data, precision, 0)
    head = rounded(decoder.wte.weight.data, precision, 1)
    decoder.logits = lambda hidden: hidden @ head.mT  # type: ignore[method-assign]
    return TorchDecoder(decoder)


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_logits_are_pytorchs(
    plan: Plan, tiny_model: Pengi, precision: str, instructions: str
) -> None:
    native = decoder_of(plan, precision=precision, instructions=instructions)
    reference = torch_decoder(tiny_model, precision)
    for seed, (rows, steps) in enumerate([(6, 3), (1, 2), (5, 3)]):
        one = clip(native, seed, rows, steps)
        found, expected = alone(native, one), alone(reference, one)
        for mine, theirs in zip(found, expected, strict=True):
            np.testing.assert_allclose(mine, theirs, atol=ATOL[precision])


def test_precisions_differ(plan: Plan) -> None:
    """Guards the comparison above."""
    one = clip(decoder_of(plan), 0, 6, 3)
    found = [
        np.stack(alone(decoder_of(plan, precision=precision), one)[1:])
        for precision in ("fp32", "bf16", "int8")
    ]
    assert all(np.abs(a - b).max() > 0.02 for a, b in itertools.combinations(found, 2))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_long_prefixes_and_many_rows(plan: Plan, tiny_model: Pengi, precision: str) -> None:
    """Prefixes of several panels and of several passes over the queries, in one batch."""
    native, reference = decoder_of(plan, precision=precision), torch_decoder(tiny_model, precision)
    positions = native.config.n_positions
    lengths = np.array([positions - 1, 3, positions // 2, 49])
    generator = np.random.default_rng(0)
    shape = (len(lengths), int(lengths.max()), native.config.n_embd)
    prefix = generator.normal(size=shape).astype(np.float32)
    tokens = generator.integers(0, native.config.vocab_size, (len(lengths), 7))
    for decoder in (native, reference):
        cache = decoder.new_cache(slots=4, width=7, prefix_rows=shape[1], new_tokens=1)
        first = decoder.prefill(cache, np.arange(4), prefix, lengths).copy()
        logits = decoder.step(cache, tokens, np.zeros_like(tokens)).copy()
        if decoder is native:
            mine = first, logits
    for a, b in zip(mine, (first, logits), strict=True):
        np.testing.assert_allclose(a, b, atol=ATOL[precision])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_threads_and_neighbors_change_no_bit(plan: Plan, precision: str) -> None:
    """A clip's logits are the same with any number of threads and beside any other clips."""
    decoders = [decoder_of(plan, precision=precision, threads=threads) for threads in (1, 3)]
    clips = [clip(decoders[0], seed, rows, 3) for seed, rows in enumerate([6, 2, 5, 1])]
    expected = [np.stack(alone(decoders[0], one)[1:]) for one in clips]
    for decoder in decoders:
        cache = decoder.new_cache(slots=5, width=2, prefix_rows=6, new_tokens=3)
        served = admit(decoder, cache, dict(zip([0, 2, 3, 4], clips, strict=True)))
        for _ in range(3):
            step(decoder, cache, served, np.random.default_rng(0))
        for each, alone_ in zip(served.values(), expected, strict=True):
            np.testing.assert_array_equal(np.stack(each.logits[1:]), alone_)


def test_answers_are_onnx_runtimes(tiny_plan: Path) -> None:
    wave = np.random.default_rng(3).uniform(-0.5, 0.5, 40_000).astype(np.float32), 44_100
    texts = []
    for backend in ("onnx", "native"):
        with pengi_rt.load(tiny_plan, backend=backend) as engine:
            assert engine.backend.name == backend
            texts.append(engine.generate(wave, max_new_tokens=8).windows[0].beams)
    for theirs, mine in zip(*texts, strict=True):
        assert mine.tokens == theirs.tokens
        assert mine.score == pytest.approx(theirs.score, abs=1e-4)


def test_half_stored_weights(half_plan: Path) -> None:
    """The plan's storage is one thing, the arithmetic another."""
    with Plan.open(half_plan) as plan:
        native, onnx = decoder_of(plan), OnnxBackend(plan, threads=1).decoder
        assert onnx is not None
        one = clip(native, 0, 6, 3)
        for mine, theirs in zip(alone(native, one), alone(onnx, one), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=ATOL["fp32"])


def test_nan_is_reported(plan: Plan) -> None:
    decoder = decoder_of(plan, precision="int8")
    cache = decoder.new_cache(slots=1, width=1, prefix_rows=2, new_tokens=1)
    prefix = np.full((1, 2, decoder.config.n_embd), np.nan, np.float32)
    assert np.isnan(decoder.prefill(cache, np.array([0]), prefix, np.array([2]))).all()


@pytest.mark.parametrize("instructions", SETS)
@pytest.mark.parametrize("place", ["query", "key"])
def test_nan_in_attention_is_reported(instructions: str, place: str) -> None:
    """Scores of NaN must not become ordinary weights."""
    width, vocab = 8, 16
    generator = np.random.default_rng(0)

    def pair(*shape: int) -> tuple[F32, F32]:
        weight = generator.normal(size=shape).astype(np.float32)
        return weight, np.zeros(shape[-1], np.float32)

    qkv = pair(width, 3 * width)
    qkv[1][0 if place == "query" else width] = np.nan
    model = core.Gpt2(
        width=width, heads=2, vocab=vocab, precision="fp32", instructions=instructions, threads=1
    )
    model.add_layer(
        norm_1=pair(width),
        qkv=qkv,
        projection=pair(width, width),
        norm_2=pair(width),
        up=pair(width, 4 * width),
        down=pair(4 * width, width),
    )
    model.set_head(pair(width), generator.normal(size=(vocab, width)).astype(np.float32))
    cache = model.new_cache(slots=1, width=1, prefix_rows=9, new_tokens=1)
    rows = generator.normal(size=(9, width)).astype(np.float32)
    assert np.isnan(model.prefill(cache, [0], [9], rows)).all()


CHILD = """
import os, sys
import numpy as np
import pengi_rt
from pengi_rt.errors import BackendError
engine = pengi_rt.load(sys.argv[1], backend="native", threads=3)
engine.generate((np.zeros(44100, np.float32), 44100), max_new_tokens=2)
child = os.fork()
if child == 0:
    try:
        engine.generate((np.zeros(44100, np.float32), 44100))
    except BackendError as error:
        print(error)
    del engine
    sys.stdout.flush()
    sys.exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_neither_answers_nor_hangs(tiny_plan: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", CHILD, str(tiny_plan)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "load the plan again in this process" in done.stdout
    assert done.stdout.splitlines()[-1] == "0"


def test_instruction_set_by_name(
    tiny_plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("PENGI_RT_ISA", SETS[-1])
    with pengi_rt.load(tiny_plan, backend="native"):
        pass
    monkeypatch.setenv("PENGI_RT_ISA", "mmx")
    message = "there is no instruction set 'mmx': set PENGI_RT_ISA to one of"
    with pytest.raises(BackendError, match=message):
        pengi_rt.load(tiny_plan, backend="native")
    command = ["generate", "--engine", str(tiny_plan), "--backend", "native", "x.wav"]
    assert_refused(capsys, [*command], 5, message)


@pytest.mark.parametrize(
    ("options", "backend", "precision"),
    [
        ({}, "onnx", "fp32"),
        ({"precision": "fp32"}, "onnx", "fp32"),
        ({"precision": "int8"}, "native", "int8"),
        ({"precision": "bf16", "device": "cpu"}, "native", "bf16"),
        ({"backend": "native"}, "native", "fp32"),
    ],
)
def test_auto_computes_as_asked(
    tiny_plan: Path, options: dict[str, str], backend: str, precision: str
) -> None:
    with pengi_rt.load(tiny_plan, **options) as engine:  # type: ignore[arg-type]
        assert (engine.backend.name, engine.precision) == (backend, precision)


def test_auto_stays_on_its_device(tiny_plan: Path) -> None:
    """Only a GPU computes in fp16; it is named, not chosen."""
    with pytest.raises(BackendError, match="not in fp16: use triton on cuda"):
        pengi_rt.load(tiny_plan, precision="fp16")
    with pytest.raises(BackendError, match="not in int8: use native on cpu or triton on cuda"):
        pengi_rt.load(tiny_plan, backend="onnx", precision="int8")
