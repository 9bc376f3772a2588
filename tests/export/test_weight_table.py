"""The weight table: one copy of every tensor, however exporters rename or transpose it."""

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from pengi_rt.errors import ExportError
from pengi_rt.export.weight_table import WeightTable, bind

RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(40, 24)).astype(np.float32)
EXTRA = RANDOM.normal(size=(40, 40)).astype(np.float32)


def graph_of(*initializers: tuple[str, np.ndarray]) -> onnx.ModelProto:
    """A graph computing y = x @ first @ second @ ..."""
    nodes, x = [], "x"
    for name, _ in initializers:
        nodes.append(helper.make_node("MatMul", [x, name], [f"{name}_out"]))
        x = f"{name}_out"
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "g",
        [value("x", TensorProto.FLOAT, ["n", initializers[0][1].shape[0]])],
        [value(x, TensorProto.FLOAT, ["n", initializers[-1][1].shape[1]])],
        initializer=[numpy_helper.from_array(array, name) for name, array in initializers],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model: onnx.ModelProto, table: WeightTable, x: np.ndarray) -> np.ndarray:
    offsets, blob = {}, b""
    for name, array in table.tensors.items():
        offsets[name] = len(blob)
        blob += np.ascontiguousarray(array).tobytes()
    options = ort.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    options.add_external_initializers_from_files_in_memory(["weights.bin"], [blob], [len(blob)])
    session = ort.InferenceSession(
        bind(model, offsets, table.tensors), options, providers=["CPUExecutionProvider"]
    )
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


def test_renamed_and_transposed_weights_are_the_table_s_own() -> None:
    model = graph_of(
        ("val_1", WEIGHT),
        ("val_2", np.ascontiguousarray(WEIGHT.T)),
        ("val_3", EXTRA),
        ("val_4", EXTRA),
    )
    table = WeightTable({"linear.weight": WEIGHT})
    table.absorb(model, "audio")
    assert list(table.tensors) == ["linear.weight", "audio.val_3"]
    assert not model.graph.initializer
    x = RANDOM.normal(size=(3, 40)).astype(np.float32)
    expected = x @ WEIGHT @ WEIGHT.T @ EXTRA @ EXTRA
    np.testing.assert_allclose(run(model, table, x), expected, rtol=2e-5, atol=1e-2)


def test_small_constants_stay_in_the_graph() -> None:
    model = graph_of(("small", np.eye(4, dtype=np.float32)))
    table = WeightTable({})
    table.absorb(model, "audio")
    assert not table.tensors
    assert [value.name for value in model.graph.initializer] == ["small"]


def test_only_exact_matrices_become_float16() -> None:
    exact = WEIGHT.astype(np.float16).astype(np.float32)
    model = graph_of(("val_1", exact), ("val_2", exact.T.copy()), ("val_3", EXTRA))
    table = WeightTable(
        {
            "linear.weight": exact,
            "bias": np.ones(9, np.float32),
            "big": np.full((2, 2), 1e6, np.float32),
        }
    )
    table.absorb(model, "audio")
    table.narrow(np.dtype(np.float16))
    types = {name: array.dtype.name for name, array in table.tensors.items()}
    assert types == {
        "linear.weight": "float16",
        "bias": "float32",
        "big": "float32",
        "audio.val_3": "float32",
    }
    x = RANDOM.normal(size=(3, 40)).astype(np.float32)
    expected = x @ exact @ exact.T @ EXTRA
    np.testing.assert_allclose(run(model, table, x), expected, rtol=2e-5, atol=1e-3)


def test_every_type_is_widened_in_the_graph() -> None:
    """Small integers times powers of two are exact in every type and in any summation order."""
    first, second, third = (RANDOM.integers(-1, 2, (40, 40)).astype(np.float32) for _ in range(3))
    rows, columns = np.full((40, 1), 0.5, np.float32), np.full((1, 40), 2, np.float32)
    rows[3], columns[0, 5] = 4, 0.25
    wide = {"first": first, "second": second * rows, "third": third * columns}
    turned = np.ascontiguousarray(wide["third"].T)
    model = graph_of(("a", first), ("b", wide["second"]), ("c", wide["third"]), ("d", turned))
    table = WeightTable(wide)
    table.absorb(model, "g")
    table.narrow(np.dtype(ml_dtypes.bfloat16))
    assert {name: array.dtype.name for name, array in table.tensors.items()} == dict.fromkeys(
        wide, "bfloat16"
    )
    table.tensors |= {
        "second": second.astype(np.int8),
        "second.scale": rows,
        "third": third.astype(np.int8),
        "third.scale": columns,
    }
    x = RANDOM.integers(-1, 2, (3, 40)).astype(np.float32)
    expected = x @ first @ wide["second"] @ wide["third"] @ turned
    assert np.abs(expected).max() < 2**20  # multiples of 1/8: 24 bits suffice
    np.testing.assert_array_equal(run(model, table, x), expected)


def test_a_weight_of_another_shape_is_refused() -> None:
    model = graph_of(("val_1", WEIGHT))
    table = WeightTable({"w": WEIGHT})
    table.absorb(model, "audio")
    table.tensors["w"] = WEIGHT[:3]
    with pytest.raises(ExportError, match=r"needs \(40, 24\), the weights are \(3, 24\)"):
        bind(model, {"w": 0}, table.tensors)
