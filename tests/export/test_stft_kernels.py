"""Kernels that a plan recomputes instead of storing are bit-identical to the model's."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from pengi_rt.export.stft_kernels import compute_stft_kernels
from pengi_rt.export.weight_table import WeightTable
from pengi_rt.models.mel import dft_kernels
from pengi_rt.models.stored_weights import STFT_KERNELS


def graph_and_table(n_fft: int) -> tuple[onnx.ModelProto, WeightTable]:
    """A graph that returns its inputs, the two kernels."""
    kernels = [kernel.numpy() for kernel in dft_kernels(n_fft)]
    value = helper.make_tensor_value_info
    shape = kernels[0].shape
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"out_{name}"]) for name in STFT_KERNELS],
        "g",
        [value(name, TensorProto.FLOAT, shape) for name in STFT_KERNELS],
        [value(f"out_{name}", TensorProto.FLOAT, shape) for name in STFT_KERNELS],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model, WeightTable(dict(zip(STFT_KERNELS, kernels, strict=True)))


@pytest.mark.parametrize("n_fft", [2, 256, 400, 1024, 1102])
def test_computes_the_models_kernels(n_fft: int) -> None:
    model, table = graph_and_table(n_fft)
    expected = dict(table.tensors)
    compute_stft_kernels(model, table, n_fft)
    stored = {name: table.tensors[name] for name in STFT_KERNELS if name in table.tensors}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, found in zip(STFT_KERNELS, session.run(None, stored), strict=True):
        np.testing.assert_array_equal(found, expected[name])
    if n_fft in (256, 1024):  # for powers of two the angles are exact, others may differ by one bit
        assert not stored
        onnx.checker.check_model(model, full_check=True)
        assert len(model.SerializeToString()) < 100 * n_fft


def test_other_kernels_stay_weights() -> None:
    model, table = graph_and_table(256)
    table.tensors[STFT_KERNELS[1]] = np.nextafter(table.tensors[STFT_KERNELS[1]], np.float32(2))
    compute_stft_kernels(model, table, 256)
    assert list(table.tensors) == [STFT_KERNELS[1]]
    assert [value.name for value in model.graph.input] == [STFT_KERNELS[1]]
