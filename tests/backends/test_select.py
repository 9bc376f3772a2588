"""Which plans run here: float32 and float16 weights, and no others."""

from pathlib import Path

import pytest
import toy_plan

import pengi_rt
from pengi_rt.errors import BackendError


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_weights_that_this_version_does_not_run(precision: str, tmp_path: Path) -> None:
    path = toy_plan.write(tmp_path / "toy.plan")
    toy_plan.edit_manifest(path, lambda data: data.update(precision=precision))
    with pytest.raises(BackendError) as caught:
        pengi_rt.load(path)
    assert toy_plan.one_line(str(caught.value))
    assert f"stored as {precision}, this version of pengi-rt runs fp32 and fp16" in str(
        caught.value
    )


def test_an_fp16_plan_that_holds_float32_tables(half_plan: Path, tmp_path: Path) -> None:
    """Nothing is converted to fit what the plan says it is."""
    path = tmp_path / "lying.plan"
    path.write_bytes(half_plan.read_bytes())
    toy_plan.edit_manifest(path, lambda data: data.update(precision="fp32"))
    with pytest.raises(pengi_rt.PengiError, match=r"wte\.weight of an fp32 plan is float16"):
        pengi_rt.load(path)
