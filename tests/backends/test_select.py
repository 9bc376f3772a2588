"""Which plans run on which backend: never another one than was asked for."""

from pathlib import Path

import pytest
import toy_plan

import pengi_rt
from pengi_rt.backends.select import BackendName
from pengi_rt.errors import BackendError


@pytest.mark.parametrize("backend", ["auto", "onnx"])
def test_a_plan_without_graphs_needs_another_backend(backend: BackendName, tmp_path: Path) -> None:
    path = toy_plan.write(tmp_path / "bare.plan", graphs=False)
    with pytest.raises(BackendError) as caught:
        pengi_rt.load(path, backend=backend)
    assert toy_plan.one_line(str(caught.value))
    assert str(caught.value) == (
        f"{path}: holds weights for torch and triton and no graphs for onnx: ask for one of those "
        "backends, or export the checkpoint with --backend onnx"
    )


def test_a_plan_that_claims_graphs_is_refused(tmp_path: Path) -> None:
    path = toy_plan.write(tmp_path / "lying.plan", graphs=False)
    toy_plan.edit_manifest(path, lambda data: data.update(backends=["onnx", "torch"]))
    with pytest.raises(pengi_rt.PengiError, match=r"graphs/audio\.onnx is missing, which every pl"):
        pengi_rt.load(path, backend="torch")


def test_an_fp16_plan_that_holds_float32_tables(half_plan: Path, tmp_path: Path) -> None:
    """Nothing is converted to fit what the plan says it is."""
    path = tmp_path / "lying.plan"
    path.write_bytes(half_plan.read_bytes())
    toy_plan.edit_manifest(path, lambda data: data.update(precision="fp32"))
    with pytest.raises(
        pengi_rt.PengiError, match=r"wte\.weight is float16 in a plan stored as fp32"
    ):
        pengi_rt.load(path)
