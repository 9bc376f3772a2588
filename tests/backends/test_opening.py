"""Which plans run on which backend: never on a different one than requested."""

from pathlib import Path

import pytest
import torch
import toy_plan

import pengi_rt
from pengi_rt.errors import BackendError
from pengi_rt.kernels.tuning import adopt, adopted
from pengi_rt.kernels.tuning_file import Measured, file_for, write


@pytest.mark.parametrize("backend", ["auto", "onnx"])
def test_a_plan_without_graphs_needs_another_backend(backend: str, tmp_path: Path) -> None:
    path = toy_plan.write(tmp_path / "bare.plan", graphs=False)
    with pytest.raises(BackendError) as caught:
        pengi_rt.load(path, backend=backend)
    assert toy_plan.one_line(str(caught.value))
    assert str(caught.value) == (
        f"{path}: holds weights for torch and triton and no graphs for onnx: use one of those "
        "backends, or export the checkpoint with --backend onnx"
    )


def test_a_plan_that_claims_graphs_is_refused(tmp_path: Path) -> None:
    path = toy_plan.write(tmp_path / "lying.plan", graphs=False)
    toy_plan.edit_manifest(path, lambda data: data.update(backends=["onnx", "torch"]))
    with pytest.raises(pengi_rt.PengiError, match=r"graphs/audio\.onnx is missing, which every pl"):
        pengi_rt.load(path, backend="torch")


def test_an_fp16_plan_with_float32_tables(half_plan: Path, tmp_path: Path) -> None:
    """Nothing is converted to match what the plan claims to be."""
    path = tmp_path / "lying.plan"
    path.write_bytes(half_plan.read_bytes())
    toy_plan.edit_manifest(path, lambda data: data.update(weights="fp32"))
    with pytest.raises(
        pengi_rt.PengiError, match=r"wte\.weight is float16 in a plan stored as fp32"
    ):
        pengi_rt.load(path)


def test_measured_tiles_are_taken_or_refused(
    tiny_plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like on a GPU, with the interpreter in its place."""
    here = torch.device("cpu")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "triton"))
    monkeypatch.setattr("pengi_rt.backends.triton.device.require_cuda", lambda: here)
    path = file_for(tmp_path / "pengi-rt" / "tuning", "interpreter")
    write(path, "interpreter", {"kernel B=1": Measured((32,), 1.0, 2.0)})
    try:
        with pengi_rt.load(tiny_plan, backend="triton", device="cuda", precision="fp32"):
            assert adopted(here) == path
        path.write_text("[]")
        with pytest.raises(BackendError, match="delete it or run pengi-rt warmup --tune") as caught:
            pengi_rt.load(tiny_plan, backend="triton", device="cuda", precision="fp32")
        assert toy_plan.one_line(str(caught.value))
        assert str(path) in str(caught.value)
    finally:
        adopt(here, tmp_path / "nowhere")
