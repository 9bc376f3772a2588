"""Plans with every weight type, with and without graphs: the rounded model, on any backend."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from import_graph import imports, source_files
from lock_step import prefilled
from rounding import rounded

import pengi_rt
from pengi_rt.backends.protocol import F32, Backend
from pengi_rt.backends.torch import TorchBackend, model_of
from pengi_rt.config.choices import WeightsName
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.config.presets import PRESETS
from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.export.export import DEFAULT_BACKENDS, write_plan
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.tiny import make_tokenizers, random_model
from pengi_rt.plan.manifest import Source
from pengi_rt.plan.reader import Plan

RATE = 16_000
NEW: tuple[WeightsName, ...] = ("bf16", "int8")
SOURCE = Source(file="small.pth", sha256="0" * 64)
TINY = PRESETS["tiny"]
MLP = TINY["audio_mapper"] | {"kind": "mlp"}
# An export takes seconds, so use a model smaller than tiny; its text graph has the token table too.
CONFIG = PengiConfig.from_dict(
    TINY
    | {"htsat": TINY["htsat"] | {"depths": [1, 1]}, "audio_mapper": MLP}
    | {"text": {"kind": "decoder", "max_length": 12}}
)


@pytest.fixture(scope="module")
def model() -> Pengi:
    return random_model(CONFIG)


@pytest.fixture(scope="module")
def plans(model: Pengi, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Plans with graphs, keyed by weight type."""
    folder = tmp_path_factory.mktemp("stored")
    for weights in NEW:
        write(model, folder / weights, weights)
    return {weights: folder / weights for weights in NEW}


@pytest.fixture(scope="module")
def bare(model: Pengi, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Plans without graphs, keyed by weight type: all of them."""
    folder = tmp_path_factory.mktemp("bare")
    for weights in get_args(WeightsName):
        write(model, folder / weights, weights, ["triton"])
    return {weights: folder / weights for weights in get_args(WeightsName)}


def write(
    model: Pengi,
    path: Path,
    weights: WeightsName,
    backends: Sequence[str] = DEFAULT_BACKENDS,
) -> None:
    write_plan(
        model,
        make_tokenizers(CONFIG),
        SOURCE,
        path,
        weights=weights,
        backends=backends,
        threads=1,
    )


def recording(seed: int) -> tuple[F32, int]:
    generator = np.random.default_rng(seed)
    time = np.arange(2 * RATE) / RATE
    tone = np.sin(2 * np.pi * generator.uniform(200, 3000) * time)
    return (0.4 * tone + 0.1 * generator.normal(size=time.size)).astype(np.float32), RATE


def test_smaller_types_make_smaller_plans(bare: dict[str, Path], plans: dict[str, Path]) -> None:
    sizes = {}
    for weights, path in bare.items():
        with Plan.open(path) as plan:
            assert plan.manifest.weights == weights
            sizes[weights] = len(plan.weights)
    assert sizes["int8"] < sizes["fp16"] == sizes["bf16"] < sizes["fp32"]
    for weights, path in plans.items():
        assert bare[weights].stat().st_size < path.stat().st_size


@pytest.mark.parametrize("weights", get_args(WeightsName))
def test_the_plan_holds_the_rounded_model(
    weights: WeightsName, bare: dict[str, Path], plans: dict[str, Path], model: Pengi
) -> None:
    """Bit for bit, whatever precision the backend uses; fp32 plans hold the model itself."""
    expected = rounded(model, weights).state_dict()
    for path in (folder[weights] for folder in (bare, plans) if weights in folder):
        with Plan.open(path) as plan:
            assert plan.manifest.self_test is not None
            assert plan.manifest.self_test["passed"] is True
            found = model_of(plan).state_dict()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert found[name].equal(tensor), name


@pytest.mark.parametrize("weights", NEW)
def test_the_same_tokens_on_both_backends(weights: str, plans: dict[str, Path]) -> None:
    with (
        pengi_rt.load(plans[weights], threads=1) as ours,
        pengi_rt.load(plans[weights], backend="torch", threads=1) as reference,
    ):
        for seed, text in enumerate(("", "the background is")):  # embedded from the plan's table
            one, other = (
                engine.generate(recording(seed), "what?", text=text, max_new_tokens=12)
                for engine in (ours, reference)
            )
            assert [b.tokens for b in one.beams] == [b.tokens for b in other.beams]
            assert one.score == pytest.approx(other.score, abs=1e-5)


def logits(backend: Backend, prefix: F32) -> F32:
    """Logits before the first token and after each of two, whose embeddings come from the table."""
    run = prefilled(backend, prefix, new_tokens=3)
    steps = [run.step([token]).copy() for token in (5, 300)]
    return np.concatenate([run.first, *steps])


def test_rounding_error_is_bounded(bare: dict[str, Path], model: Pengi) -> None:
    """Compare logits before and after rounding (RMS, relative).

    A step of int8 is 1/127 of a channel's largest weight, which is about 3 deviations: rounding
    moves weights by 3 / 127 / sqrt(12), 0.7 % of them (RMS), bfloat16 by 0.2 %, float16 by 0.02 %.
    Through two layers with four matrices each, and the table used first and last, these errors add
    up as squares, to some three times that. The test allows ten times.
    """
    prefix = np.random.default_rng(1).normal(size=(1, 6, 64)).astype(np.float32)
    double: Any = prefix.astype(np.float64)
    exact = logits(TorchBackend(copy.deepcopy(model).double()), double)

    def error(backend: Backend) -> float:
        found = logits(backend, prefix)
        return float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))

    own = error(TorchBackend(model))
    errors = {}
    for weights, path in bare.items():
        with Plan.open(path) as plan:
            errors[weights] = error(TorchBackend.from_plan(plan))
    # `test_the_plan_holds_the_rounded_model` checks that the weights are equal. The threads used
    # per product, and its memory layout, decide the order of summation.
    assert errors["fp32"] <= 2 * own + 2 * np.finfo(np.float32).eps
    assert errors["fp32"] < errors["fp16"] < errors["bf16"] < errors["int8"]
    for weights, rounding in (("fp16", 0.0002), ("bf16", 0.002), ("int8", 0.007)):
        assert errors[weights] < 10 * rounding, errors


@pytest.mark.parametrize("weights", NEW)
def test_a_plan_without_graphs(weights: str, bare: dict[str, Path], plans: dict[str, Path]) -> None:
    with Plan.open(bare[weights]) as plan, Plan.open(plans[weights]) as whole:
        assert plan.manifest.graphs == ()
        assert plan.manifest.backends == ("torch", "triton")
        assert whole.manifest.backends == ("onnx", "torch", "native", "triton")
        assert not {"onnx", "onnxscript"} & plan.manifest.tools.keys()
        assert plan.manifest.self_test is not None
        assert plan.manifest.self_test["checks"][0]["backend"] == "torch"
        assert whole.manifest.self_test is not None
        assert whole.manifest.self_test["checks"][0]["backend"] == "onnx"
        for name in plan.tensors:
            np.testing.assert_array_equal(plan.tensor(name), whole.tensor(name), err_msg=name)
        states = [model_of(each).state_dict() for each in (plan, whole)]
    assert all(tensor.equal(states[1][name]) for name, tensor in states[0].items())


def test_untested_backends_are_reported(
    model: Pengi,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    problem = "the NVIDIA driver sees no GPU"
    monkeypatch.setattr("pengi_rt.system.machine.cuda_problem", lambda: problem)
    asked: list[list[str]] = [["torch"], ["torch", "triton"]]
    for backends in asked:
        with caplog.at_level(logging.WARNING, "pengi_rt"):
            write(model, tmp_path / "p.plan", "fp32", backends)
    assert [record.getMessage() for record in caplog.records] == [
        f"{problem}: the triton backend was not tested with this plan"
    ]


def test_onnx_is_not_needed_without_graphs() -> None:
    """No module imported along with the exporter imports it."""
    files, seen, waiting = source_files(), set[str](), ["pengi_rt.export.export"]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            if name in files:
                found = imports(files[name].read_text("utf-8"))
                waiting += [each.module for each in found if each.eager]
    assert "pengi_rt.export.self_test" in seen
    assert not {name for name in seen if name.split(".")[0] in {"onnx", "onnxscript"}}


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_broken_weights_cannot_be_stored_as_int8(
    value: float, model: Pengi, tmp_path: Path
) -> None:
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.get_parameter("decoder.h.1.mlp.c_fc.weight")[3, 3] = value
    output = tmp_path / "broken.plan"
    with pytest.raises(CheckpointError) as caught:
        write(broken, output, "int8")
    assert str(caught.value) == (
        "small.pth: cannot be stored as int8: decoder.h.1.mlp.c_fc.weight holds infinity or NaN, "
        "which int8 cannot store: the weights are broken"
    )
    assert not output.exists()


@pytest.mark.parametrize(
    ("weights", "backends", "message"),
    [
        ("int4", ("onnx",), "as fp32, fp16, bf16 or int8, not as 'int4'"),
        ("fp32", ("tensorrt",), "for onnx, torch, native or triton, not for 'tensorrt'"),
        ("fp32", ("onnx", "auto"), "for onnx, torch, native or triton, not for 'auto'"),
        ("fp32", (), "for onnx, torch, native or triton, not for 'nothing'"),
    ],
)
def test_unknown_weights_and_backends_are_refused(
    weights: WeightsName,
    backends: Sequence[str],
    message: str,
    model: Pengi,
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match=message):
        write(model, tmp_path / "p.plan", weights, backends)
    assert not list(tmp_path.iterdir())
