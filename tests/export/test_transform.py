"""Kernels that a plan computes and does not store: bit for bit the model's, or not at all."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from pengi_rt.export.transform import compute_transform
from pengi_rt.export.weights import WeightTable
from pengi_rt.models.half import TRANSFORM
from pengi_rt.models.mel import dft_kernels


def graph_and_table(n_fft: int) -> tuple[onnx.ModelProto, WeightTable]:
    """A graph that gives the two kernels back, which are its inputs."""
    kernels = [kernel.numpy() for kernel in dft_kernels(n_fft)]
    value = helper.make_tensor_value_info
    shape = kernels[0].shape
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [f"out_{name}"]) for name in TRANSFORM],
        "g",
        [value(name, TensorProto.FLOAT, shape) for name in TRANSFORM],
        [value(f"out_{name}", TensorProto.FLOAT, shape) for name in TRANSFORM],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model, WeightTable(dict(zip(TRANSFORM, kernels, strict=True)))


@pytest.mark.parametrize("n_fft", [2, 256, 400, 1024, 1102])
def test_computes_the_models_kernels(n_fft: int) -> None:
    model, table = graph_and_table(n_fft)
    expected = dict(table.tensors)
    compute_transform(model, table, n_fft)
    stored = {name: table.tensors[name] for name in TRANSFORM if name in table.tensors}
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for name, found in zip(TRANSFORM, session.run(None, stored), strict=True):
        np.testing.assert_array_equal(found, expected[name])
    if n_fft in (256, 1024):  # of a power of two the angles are exact, others may differ by a bit
        assert not stored
        onnx.checker.check_model(model, full_check=True)
        assert len(model.SerializeToString()) < 100 * n_fft


def test_other_kernels_stay_weights() -> None:
    model, table = graph_and_table(256)
    table.tensors[TRANSFORM[1]] = np.nextafter(table.tensors[TRANSFORM[1]], np.float32(2))
    compute_transform(model, table, 256)
    assert list(table.tensors) == [TRANSFORM[1]]
    assert [value.name for value in model.graph.input] == [TRANSFORM[1]]
