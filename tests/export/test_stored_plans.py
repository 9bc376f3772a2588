"""Plans of every precision, with graphs and without: the rounded model's, on every backend."""

import copy
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from import_graph import imports, source_files

import pengi_rt
from pengi_rt.backends.onnx import OnnxBackend
from pengi_rt.backends.protocol import F32, Backend
from pengi_rt.backends.select import PrecisionName
from pengi_rt.backends.torch import TorchBackend, model_of
from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.export.export import BackendName, export_plan, write_plan
from pengi_rt.models.at_rest import rounded
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan import Plan
from pengi_rt.plan_format import Source

RATE = 16_000
NEW: tuple[PrecisionName, ...] = ("bf16", "int8")


@pytest.fixture(scope="module")
def plans(
    tiny_plan: Path,
    half_plan: Path,
    tiny_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """The tiny model's plan by precision."""
    folder = tmp_path_factory.mktemp("stored")
    for precision in NEW:
        export_plan(tiny_checkpoint, folder / precision, precision=precision, threads=1)
    return {"fp32": tiny_plan, "fp16": half_plan} | {kind: folder / kind for kind in NEW}


@pytest.fixture(scope="module")
def bare(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model's int8 plan without graphs."""
    path = tmp_path_factory.mktemp("bare") / "bare.plan"
    export_plan(tiny_checkpoint, path, precision="int8", backends=("triton",), threads=1)
    return path


def recording(seed: int) -> tuple[F32, int]:
    generator = np.random.default_rng(seed)
    time = np.arange(2 * RATE) / RATE
    tone = np.sin(2 * np.pi * generator.uniform(200, 3000) * time)
    return (0.4 * tone + 0.1 * generator.normal(size=time.size)).astype(np.float32), RATE


def test_smaller_types_make_smaller_plans(plans: dict[str, Path], bare: Path) -> None:
    sizes = {}
    for precision, path in plans.items():
        with Plan.open(path) as plan:
            assert plan.manifest.precision == precision
            assert plan.manifest.backends
            sizes[precision] = len(plan.weights)
    assert sizes["int8"] < sizes["fp16"] == sizes["bf16"] < sizes["fp32"]
    assert bare.stat().st_size < plans["int8"].stat().st_size < plans["fp16"].stat().st_size


@pytest.mark.parametrize("precision", NEW)
def test_the_plan_holds_the_rounded_model(
    precision: str, plans: dict[str, Path], tiny_model: Pengi
) -> None:
    """Bit for bit, whatever the backend computes with."""
    with Plan.open(plans[precision]) as plan:
        assert plan.manifest.self_test is not None
        assert plan.manifest.self_test["passed"] is True
        found = model_of(plan).state_dict()
    for name, tensor in rounded(tiny_model, precision).state_dict().items():
        assert found[name].dtype == tensor.dtype
        assert found[name].equal(tensor), name


@pytest.mark.parametrize("precision", NEW)
def test_the_same_tokens_on_both_backends(precision: str, plans: dict[str, Path]) -> None:
    with (
        pengi_rt.load(plans[precision], threads=1) as ours,
        pengi_rt.load(plans[precision], backend="torch", threads=1) as reference,
    ):
        for seed, text in enumerate(("", "the background is")):  # embedded from the plan's table
            one, other = (
                engine.generate(recording(seed), "what?", text=text, max_new_tokens=12)
                for engine in (ours, reference)
            )
            assert [b.tokens for b in one.beams] == [b.tokens for b in other.beams]
            assert one.score == pytest.approx(other.score, abs=1e-5)


def logits(backend: Backend, prefix: F32) -> F32:
    """Before the first token and behind two, which come from the table."""
    cache, first = backend.prefill(prefix, np.array([len(prefix[0])]), width=1, max_new_tokens=3)
    nothing = np.zeros(1, np.int64)
    steps = [backend.step(cache, np.array([token]), nothing).copy() for token in (5, 300)]
    return np.concatenate([first, *steps])


def test_what_rounding_costs(plans: dict[str, Path], tiny_model: Pengi) -> None:
    """Logits (RMS, relative) before and after.

    A step of int8 is 1/127 of a channel's largest weight, which is about 3 deviations: rounding
    moves weights by 3 / 127 / sqrt(12), 0.7 % of them (RMS), bfloat16 by 0.2 %, float16 by 0.02 %.
    Through the two layers, with four matrices each, and the table that comes first and last, such
    errors add up as squares do, to some three times that. Allowed are ten times.
    """
    prefix = np.random.default_rng(1).normal(size=(1, 6, 64)).astype(np.float32)
    exact = logits(TorchBackend(tiny_model), prefix)
    errors = {}
    for precision in ("fp16", *NEW):
        with Plan.open(plans[precision]) as plan:
            backend = OnnxBackend(plan, threads=1)
            found = logits(backend, prefix)
            backend.close()
        errors[precision] = float(np.sqrt(np.mean((found - exact) ** 2) / np.mean(exact**2)))
    assert errors["fp16"] < errors["bf16"] < errors["int8"]
    for precision, rounding in (("fp16", 0.0002), ("bf16", 0.002), ("int8", 0.007)):
        assert errors[precision] < 10 * rounding, errors


def test_a_plan_without_graphs(bare: Path, plans: dict[str, Path]) -> None:
    with Plan.open(bare) as plan, Plan.open(plans["int8"]) as whole:
        assert plan.manifest.graphs == ()
        assert plan.manifest.backends == ("torch", "triton")
        assert whole.manifest.backends == ("onnx", "torch", "triton")
        assert not {"onnx", "onnxscript"} & plan.manifest.tools.keys()
        assert plan.manifest.self_test is not None
        assert plan.manifest.self_test["checks"][0]["backend"] == "torch"
        assert whole.manifest.self_test is not None
        assert whole.manifest.self_test["checks"][0]["backend"] == "onnx"
        for name in plan.tensors:
            np.testing.assert_array_equal(plan.tensor(name), whole.tensor(name), err_msg=name)
        states = [model_of(each).state_dict() for each in (plan, whole)]
    assert all(tensor.equal(states[1][name]) for name, tensor in states[0].items())


def test_what_was_not_tested_is_said(
    tiny_checkpoint: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for backends in (("torch",), ("torch", "triton")):
        with caplog.at_level(logging.WARNING, "pengi_rt"):
            export_plan(tiny_checkpoint, tmp_path / "p.plan", backends=backends, threads=1)
    assert [record.getMessage() for record in caplog.records] == [
        "no CUDA GPU here: the triton backend itself was not tested with this plan"
    ]


def test_onnx_is_not_needed_without_graphs() -> None:
    """No module that is imported with the exporter imports it."""
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
def test_broken_weights_are_no_int8_plan(
    value: float, tiny_model: Pengi, tiny_plan: Path, tmp_path: Path
) -> None:
    broken = copy.deepcopy(tiny_model)
    with torch.no_grad():
        broken.get_parameter("decoder.h.1.mlp.c_fc.weight")[3, 3] = value
    with Plan.open(tiny_plan) as plan:
        tokenizers = {name: plan.tokenizer(name) for name in ("text", "decoder")}
    output, source = tmp_path / "broken.plan", Source(file="broken.pth", sha256="0" * 64)
    with pytest.raises(CheckpointError) as caught:
        write_plan(broken, tokenizers, source, output, precision="int8", threads=1)
    assert str(caught.value) == (
        "broken.pth: cannot be stored as int8: decoder.h.1.mlp.c_fc.weight holds infinity or NaN, "
        "which int8 does not: it is broken"
    )
    assert not output.exists()


@pytest.mark.parametrize(
    ("precision", "backends", "message"),
    [
        ("int4", ("onnx",), "as fp32, fp16, bf16 or int8, not as 'int4'"),
        ("fp32", ("tensorrt",), "for onnx, torch or triton, not for 'tensorrt'"),
        ("fp32", ("onnx", "auto"), "for onnx, torch or triton, not for 'auto'"),
        ("fp32", (), "for onnx, torch or triton, not for 'nothing'"),
    ],
)
def test_there_are_no_others(
    precision: PrecisionName,
    backends: Sequence[BackendName],
    message: str,
    tiny_checkpoint: Path,
    tmp_path: Path,
) -> None:
    with pytest.raises(UsageError, match=message):
        export_plan(tiny_checkpoint, tmp_path / "p", precision=precision, backends=backends)
    assert not list(tmp_path.iterdir())
