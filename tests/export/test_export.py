"""Export end to end: every tensor is stored once, and no wrong weight passes the self-test."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pengi_rt.errors import ExportError
from pengi_rt.export import export
from pengi_rt.export.checkpoint_reader import load_model
from pengi_rt.export.export import export_plan
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan.reader import Plan
from pengi_rt.plan.writer import PlanWriter


def test_the_plan_holds_the_state_dict_once(tiny_plan: Path, tiny_model: Pengi) -> None:
    state = tiny_model.state_dict()
    with Plan.open(tiny_plan) as plan:
        assert set(state) <= set(plan.tensors)
        for name, tensor in state.items():
            np.testing.assert_array_equal(plan.tensor(name), tensor.numpy(), err_msg=name)
        extra = sum(plan.tensor(name).nbytes for name in plan.tensors if name not in state)
    # Only the graphs have these: the stretch matrix and the folded attention biases.
    assert extra < 0.5 * sum(tensor.nbytes for tensor in state.values())


def test_the_self_test_is_kept_in_the_plan(tiny_plan: Path) -> None:
    with Plan.open(tiny_plan) as plan:
        kept = plan.manifest.self_test
    assert kept is not None
    assert kept["passed"] is True
    stages = {(check["stage"], check["batch"]) for check in kept["checks"]}
    assert {("audio prefix", 1), ("audio prefix", 3), ("beams with other tokens", 3)} <= stages


@pytest.mark.parametrize(
    "name",
    [
        "audio_mapper.layers.0.mlp.fc1.weight",
        "decoder.h.1.attn.c_attn.weight",
        "decoder.wte.weight",
    ],
)
def test_a_perturbed_weight_fails_the_export(
    name: str, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One matrix of the plan is 1 % off; the model it is tested against is not."""
    write = export._add_weights

    def perturbed(
        writer: PlanWriter, model: Pengi, _: object, progress: export.Progress, *, graphs: bool
    ) -> None:
        copy, _ = load_model(tiny_checkpoint)
        with torch.no_grad():
            copy.get_parameter(name).mul_(1.01)
        write(writer, copy, copy.state_dict(), progress, graphs=graphs)

    monkeypatch.setattr(export, "_add_weights", perturbed)
    output = tmp_path / "pengi.plan"
    output.write_bytes(b"the plan from before")
    with pytest.raises(ExportError, match=r"failed its self-test.+ differs by"):
        export_plan(tiny_checkpoint, output, threads=1)
    assert output.read_bytes() == b"the plan from before"
    assert list(tmp_path.iterdir()) == [output]


def test_progress_is_reported_as_often_as_announced(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for backends in (export.DEFAULT_BACKENDS, ("torch",)):
        said: list[str] = []
        export_plan(
            tiny_checkpoint,
            tmp_path / "p.plan",
            backends=backends,
            threads=1,
            progress=said.append,
        )
        assert len(said) == export.count_steps(backends)


def test_weights_that_give_nan_fail_the_export(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = load_model(tiny_checkpoint)
    with torch.no_grad():
        model.decoder.ln_f.weight.fill_(torch.inf)
    monkeypatch.setattr(export, "load_model", lambda _path: (model, load_model(tiny_checkpoint)[1]))
    with pytest.raises(ExportError, match="nothing was written"):
        export_plan(tiny_checkpoint, tmp_path / "p.plan", threads=1)
    assert not list(tmp_path.iterdir())
