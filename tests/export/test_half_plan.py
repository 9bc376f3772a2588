"""Plans whose weights are stored as float16: exact where they can be, refused where they cannot."""

import copy
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from pengi_rt.errors import CheckpointError
from pengi_rt.export.export import export_plan
from pengi_rt.models.checkpoint_writer import save_checkpoint
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.stored_weights import FRONT_END, STFT_KERNELS, to_half
from pengi_rt.plan.reader import Plan


@pytest.fixture(scope="module")
def saved(
    tiny_model: Pengi, tiny_plan: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[str]]:
    """The plan exported from the tiny model's float16 checkpoint, with the export's warnings."""
    folder = tmp_path_factory.mktemp("half")
    checkpoint, plan = folder / "half.safetensors", folder / "half.plan"
    save_checkpoint(tiny_model, checkpoint, tokenizers_of(tiny_plan), dtype=torch.float16)
    warnings: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: warnings.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("pengi_rt").addHandler(handler)
    export_plan(checkpoint, plan, weights="fp16", threads=1)
    logging.getLogger("pengi_rt").removeHandler(handler)
    return plan, warnings


def tokenizers_of(path: Path) -> Mapping[str, bytes]:
    with Plan.open(path) as plan:
        return {name: plan.tokenizer(name) for name in ("text", "decoder")}


def test_an_fp16_checkpoint_loses_nothing(saved: tuple[Path, list[str]], tiny_model: Pengi) -> None:
    path, warnings = saved
    assert not warnings
    with Plan.open(path) as plan:
        for name, tensor in to_half(tiny_model.state_dict()).items():
            if name not in STFT_KERNELS:
                found = plan.tensor(name)
                assert found.dtype == tensor.numpy().dtype, name
                np.testing.assert_array_equal(found, tensor.numpy(), err_msg=name)


def test_rounded_when_saved_or_when_exported_is_the_same(
    saved: tuple[Path, list[str]], half_plan: Path
) -> None:
    with Plan.open(saved[0]) as early, Plan.open(half_plan) as late:
        assert early.weights == late.weights
        assert early.graph("audio") == late.graph("audio")


def test_types_of_the_stored_tensors(tiny_plan: Path, half_plan: Path) -> None:
    with Plan.open(half_plan) as half, Plan.open(tiny_plan) as whole:
        assert half.manifest.weights == "fp16"
        assert half.manifest.self_test is not None
        assert half.manifest.self_test["passed"] is True
        records = half.manifest.tensors
        wide = {name for name, r in records.items() if r.dtype == "float32" and len(r.shape) > 1}
        # The mel bank, and the stretch matrix (only the graph has that).
        assert {FRONT_END + "mel_bank"} < wide
        assert len(wide) == 2
        assert all(r.dtype != "float16" for r in records.values() if len(r.shape) < 2)
        assert whole.tensors - half.tensors == set(STFT_KERNELS)
        assert half.size < 0.65 * whole.size


def test_a_model_that_float16_does_not_hold_is_refused(
    tiny_model: Pengi, tiny_plan: Path, tmp_path: Path
) -> None:
    large = copy.deepcopy(tiny_model)
    with torch.no_grad():
        large.get_parameter("decoder.h.0.mlp.c_fc.weight")[0, 0] = 7e4
    checkpoint, output = tmp_path / "large.safetensors", tmp_path / "large.plan"
    save_checkpoint(large, checkpoint, tokenizers_of(tiny_plan))
    with pytest.raises(CheckpointError) as caught:
        export_plan(checkpoint, output, weights="fp16", threads=1)
    assert str(caught.value) == (
        "large.safetensors: cannot be stored as fp16: decoder.h.0.mlp.c_fc.weight has values up "
        "to 7e+04, but float16 ends at 65504: store this model in float32"
    )
    assert not output.exists()
