"""A model family and a backend are one file and one registration each (tests/support/toy_*.py)."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import toy_family
from command_line import Argument, Capture, assert_refused, run
from toy_backend import BACKEND, ToyBackend
from toy_plan import edit_manifest, one_line

import pengi_rt
from pengi_rt.config.backend import register_backend, unregister_backend
from pengi_rt.config.family import (
    TASKS,
    FamilySpec,
    family_of,
    register_family,
    unregister_family,
)
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.engine import Engine
from pengi_rt.errors import BackendError, PlanError, UsageError
from pengi_rt.plan.reader import Plan

STARTS = (0, 4000, 6000)  # of the windows, in samples
RATE = toy_family.ToyConfig().sample_rate
REFUSAL = "holds no text encoder and no decoder, so it cannot {}: it can embed"


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register_family(toy_family.FAMILY)
    register_backend(BACKEND)
    yield
    unregister_backend(BACKEND.name)
    unregister_family(toy_family.FAMILY.name)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    return toy_family.write_plan(tmp_path / "toy.plan")


@pytest.fixture
def noise(tmp_path: Path) -> Path:
    """A recording of two and a half windows."""
    samples = np.random.default_rng(1).uniform(-0.5, 0.5, 10_000)
    path = tmp_path / "noise.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    return path


def expected(noise: Path) -> "np.ndarray[tuple[int, int], np.dtype[np.float32]]":
    samples, _ = soundfile.read(noise, dtype="float32")
    config = toy_family.ToyConfig()
    windows = np.stack([samples[start : start + config.clip_samples] for start in STARTS])
    return toy_family.embedded(windows, toy_family.projection(config))


def test_inspect(plan: Path, capsys: Capture) -> None:
    code, out, err = run(capsys, "inspect", plan, "--verify")
    assert (code, err) == (0, "")
    lines = {line[:10].rstrip(): line[10:].strip() for line in out.splitlines() if line}
    assert "little toy" in out.splitlines()[0]
    assert lines["model"] == "a toy of width 6"
    assert lines["tasks"] == "embed"
    assert lines["graphs"] == "audio"
    assert "defaults" not in lines
    code, out, _ = run(capsys, "inspect", plan, "--format", "json")
    assert json.loads(out)["config"]["family"] == "toy"


def test_doctor(capsys: Capture) -> None:
    code, out, _ = run(capsys, "doctor")
    assert code == 0
    assert "toy            runs here" in out.splitlines()


def test_help(capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        run(capsys, "embed", "--help")
    shown = "".join(capsys.readouterr().out.split())
    assert "{auto,onnx,torch,native,triton,toy}" in shown
    assert "{auto,cpu,cuda,abacus}" in shown


@pytest.mark.parametrize(
    ("options", "backend"),
    [
        ({}, "onnx"),
        ({"backend": "toy"}, "toy"),
        ({"device": "abacus"}, "toy"),
        ({"backend": "toy", "precision": "fp32"}, "toy"),
    ],
)
def test_embed(options: dict[str, str], backend: str, plan: Path, noise: Path) -> None:
    with pengi_rt.load(plan, **options) as engine:  # type: ignore[arg-type]
        assert engine.backend.name == backend
        assert engine.plan.tasks == ("embed",)
        (found,) = engine.embed_audio([noise])
    assert found.starts == tuple(start / RATE for start in STARTS)
    np.testing.assert_allclose(found.embedding, expected(noise), atol=1e-5)
    assert found.prefix.shape == (3, 0, 0)


def test_run_options_reach_the_backend(plan: Path) -> None:
    with pengi_rt.load(plan, backend="toy") as engine:
        assert isinstance(engine.backend, ToyBackend)
        assert engine.backend.options == ("abacus", "fp32", None)
        assert engine.precision == "fp32"


@pytest.mark.parametrize("backend", ["onnx", "toy"])
def test_embed_on_the_command_line(
    backend: str, plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out.npy"
    code, _, err = run(capsys, "embed", "--engine", plan, "--backend", backend, noise, "-o", out)
    assert (code, err) == (0, "")
    np.testing.assert_allclose(np.load(out), expected(noise), atol=1e-5)


def test_a_safetensors_file_holds_embeddings_alone(
    plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out.safetensors"
    assert run(capsys, "embed", "--engine", plan, noise, "-o", out)[0] == 0
    content = out.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert [name for name in header if name != "__metadata__"] == ["audio.embedding"]


CALLS: dict[str, Callable[[Engine], object]] = {
    "generate": lambda engine: engine.generate("a.wav"),
    "stream": lambda engine: list(engine.stream("a.wav")),
    "describe": lambda engine: engine.describe("a.wav"),
    "classify by text-matching": lambda engine: engine.classify("a.wav", ["a", "b"]),
    "classify by log-likelihood": lambda engine: engine.classify(
        "a.wav", ["a", "b"], method="log-likelihood"
    ),
    "explain": lambda engine: list(engine.explain(["a.wav"])),
    "index": lambda engine: engine.index(".", "index"),
    "search": lambda engine: engine.search("index", "rain"),
    "embed texts": lambda engine: engine.embed_text(["a"]),
}


@pytest.mark.parametrize("task", CALLS)
def test_what_it_cannot_do(task: str, plan: Path) -> None:
    with pengi_rt.load(plan) as engine, pytest.raises(UsageError) as caught:
        CALLS[task](engine)
    lacking = REFUSAL.replace(" and no decoder", "") if task == "embed texts" else REFUSAL
    assert str(caught.value) == f"{plan} {lacking.format(task)}"
    assert one_line(str(caught.value))


COMMANDS: dict[str, tuple[Argument, ...]] = {
    "generate": ("generate",),
    "describe": ("describe",),
    "classify by text-matching": ("classify", "--labels", "a,b"),
    "explain": ("explain",),
}


@pytest.mark.parametrize("task", COMMANDS)
def test_what_it_cannot_do_on_the_command_line(
    task: str, plan: Path, noise: Path, capsys: Capture
) -> None:
    verb, *options = COMMANDS[task]
    command: list[Argument] = [verb, "--engine", plan, noise, *options]
    assert_refused(capsys, command, 2, f"{plan} {REFUSAL.format(task)}")


def test_it_cannot_embed_texts_or_prefixes(
    plan: Path, noise: Path, tmp_path: Path, capsys: Capture
) -> None:
    command: list[Argument] = ["embed", "--engine", plan, noise, "-o", tmp_path / "out.npy"]
    assert_refused(capsys, [*command, "--texts", "a"], 2, "so it cannot embed texts: it can embed")
    assert_refused(capsys, [*command, "--what", "prefix"], 2, "holds no decoder")


def test_it_cannot_be_indexed(plan: Path, noise: Path, capsys: Capture) -> None:
    folder = noise.parent
    command: list[Argument] = ["index", folder, "-o", folder / "index", "--engine", plan]
    assert_refused(capsys, command, 2, REFUSAL.format("index"))


def test_a_plan_without_graphs(tmp_path: Path) -> None:
    path = toy_family.write_plan(tmp_path / "bare.plan", graphs=False)
    with pengi_rt.load(path, backend="toy") as engine:
        assert engine.plan.tasks == ("embed",)
    with pytest.raises(BackendError, match="holds weights for toy and no graphs for onnx"):
        pengi_rt.load(path)


def test_other_backends_refuse_it(plan: Path) -> None:
    with pytest.raises(BackendError, match="the torch backend has no network for the toy family"):
        pengi_rt.load(plan, backend="torch")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"backend": "toy", "device": "cpu"},
            "runs on abacus, not on cpu: use onnx or torch or native",
        ),
        ({"backend": "onnx", "device": "abacus"}, "runs on cpu, not on abacus: use toy"),
        (
            {"backend": "toy", "precision": "int8"},
            "computes in fp32, not in int8: use native on cpu or triton",
        ),
        ({"backend": "toy", "threads": 2}, "threads are for backends on the CPU"),
        ({"backend": "tensorrt"}, "is not in this version of pengi-rt; it has auto, onnx, torch, "),
        (
            {"backend": "x"},
            "there is no backend 'x'; choose from auto, onnx, torch, native, triton, toy",
        ),
        ({"device": "x"}, "there is no device 'x'; choose from auto, cpu, cuda, abacus"),
    ],
)
def test_refusals(options: dict[str, object], message: str, plan: Path) -> None:
    with pytest.raises(BackendError) as caught:
        pengi_rt.load(plan, **options)  # type: ignore[arg-type]
    assert message in str(caught.value)
    assert one_line(str(caught.value))


def test_a_family_that_nobody_registered(plan: Path, capsys: Capture) -> None:
    edit_manifest(plan, lambda data: data["config"].update(family="other"))
    message = "the model is of the family 'other'; this version of pengi-rt knows pengi, toy"
    assert_refused(capsys, ["inspect", plan], 5, message)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        ({"width": 65}, "config.width must be in [1, 64], got 65"),
        ({"decoder": {}}, "config has unknown keys 'decoder'"),
        ({"width": 5}, "but joint_embedding float32 [?, 5]"),
    ],
)
def test_its_config_is_checked(edit: dict[str, object], message: str, plan: Path) -> None:
    edit_manifest(plan, lambda data: data["config"].update(edit))
    with pytest.raises(PlanError) as caught:
        pengi_rt.load(plan)
    assert message in str(caught.value)


def test_an_entry_of_another_family(plan: Path) -> None:
    edit_manifest(plan, lambda data: data["config"].update(family="pengi"))
    with pytest.raises(PlanError, match="config has unknown keys"):
        Plan.open(plan)


def test_tasks_follow_from_the_parts() -> None:
    """A family may have tasks and parts of its own, such as a head that is a graph."""
    spec = FamilySpec(
        name="two",
        config="",
        graphs=dict.fromkeys(("audio", "text", "decoder", "head"), ""),
        optional=frozenset({"decoder", "head"}),
        tasks={**TASKS, "classify": ("audio", "text", "head")},
    )
    config = toy_family.ToyConfig()
    assert spec.parts_of(config, spec.graphs) == {"audio", "text", "decoder", "head"}
    whole = spec.tasks_of((*spec.graphs, "prompt"))
    assert whole == (*TASKS, "classify")
    contrastive = spec.tasks_of(("audio", "text", "head"))
    assert contrastive == ("embed", "embed texts", "classify")
    assert spec.refusal("generate", ("audio", "prompt", "text", "head")) == (
        "holds no decoder, so it cannot generate: it can embed, embed texts, classify; "
        "export a checkpoint that has one"
    )
    assert spec.refusal("classify", ("audio", "text", "decoder")).startswith("holds no head, so")


def test_tasks_follow_from_the_config() -> None:
    """Without a text encoder, texts have no embedding, and nothing can be searched."""
    able = (
        *("generate", "stream", "describe", "classify by log-likelihood", "explain", "embed"),
        "embed prefixes",
    )
    for kind, expected in (("clip", tuple(TASKS)), ("token_embedding", able), ("decoder", able)):
        sequence = "transformer_seq" if kind == "token_embedding" else "transformer"
        config = PengiConfig.from_dict({"text": {"kind": kind}, "text_mapper": {"kind": sequence}})
        spec = family_of(config)
        assert spec.tasks_of(spec.parts_of(config, spec.graphs)) == expected
    assert spec.refusal("index", spec.parts_of(config, spec.graphs)) == (
        f"holds no text encoder, so it cannot index: it can {', '.join(able)}; "
        "export a checkpoint that has one"
    )
