"""One table of all tensors of a plan: each is stored once, and the graphs point to it."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from pengi_rt.errors import ExportError
from pengi_rt.plan.manifest import WEIGHTS, scale_name

INLINE_BYTES = 1024  # smaller constants (shapes, scalars) stay inside their graph

Array = NDArray[Any]


class WeightTable:
    """The tensors of the state dict, plus those that only a graph has (folded biases, the stretch).

    An initializer that equals a tensor in the table, or its transpose, is replaced by that tensor:
    exporters rename and transpose weights, and each copy would take up space in the plan.
    """

    def __init__(self, state: Mapping[str, Array]) -> None:
        self.tensors: dict[str, Array] = dict(state)
        self._by_content = {_content(array): name for name, array in state.items()}

    def absorb(self, model: onnx.ModelProto, graph_name: str) -> None:
        """Move the initializers of ``model`` into the table; they become inputs of the graph."""
        graph = model.graph
        names: dict[str, str] = {}
        transposes: list[onnx.NodeProto] = []
        kept: list[TensorProto] = []
        for initializer in graph.initializer:
            array = numpy_helper.to_array(initializer)
            if array.nbytes < INLINE_BYTES:
                kept.append(initializer)
                continue
            name, transposed = self._claim(array, f"{graph_name}.{initializer.name}")
            if transposed:
                transposes.append(helper.make_node("Transpose", [name], [initializer.name]))
            else:
                names[initializer.name] = name
            _declare(graph, name, self.tensors[name])
        for node in nodes_of(graph):
            node.input[:] = [names.get(name, name) for name in node.input]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        prepend(graph, transposes)

    def narrow(self, dtype: np.dtype[Any]) -> None:
        """Convert to ``dtype`` every matrix that it holds exactly. Call this after all graphs.

        Nothing is rounded here: the model was rounded before its graphs were made. So the tensors
        that only a graph has (gathered position biases) are exact too, or stay as they are (the
        stretch).
        """
        for name, array in self.tensors.items():
            if array.dtype == np.float32 and array.ndim >= 2:
                with np.errstate(over="ignore"):
                    narrow = array.astype(dtype)
                if np.array_equal(narrow.astype(np.float32), array):
                    self.tensors[name] = narrow

    def _claim(self, array: Array, name: str) -> tuple[str, bool]:
        """The table's name for ``array``, and whether the table holds its transpose."""
        found = self._by_content.get(_content(array))
        if found is not None:
            return found, False
        if array.ndim == 2:
            found = self._by_content.get(_content(np.ascontiguousarray(array.T)))
            if found is not None:
                return found, True
        self.tensors[name] = array
        self._by_content[_content(array)] = name
        return name, False


def bind(model: onnx.ModelProto, offsets: Mapping[str, int], tensors: Mapping[str, Array]) -> bytes:
    """Serialize ``model`` with its weights as initializers that point into ``weights.bin``.

    A ``Cast`` widens a tensor of a smaller type (for int8, a ``DequantizeLinear``). ONNX Runtime
    does that once, when it creates the session.

    Raises:
        ExportError: a weight's shape is not the one that the graph was built for.
    """
    bound = onnx.ModelProto()
    bound.CopyFrom(model)
    wideners: list[onnx.NodeProto] = []
    inputs = [value for value in bound.graph.input if value.name not in tensors]
    for value in bound.graph.input:
        if value.name not in tensors:
            continue
        array, scale = tensors[value.name], tensors.get(scale_name(value.name))
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value for dim in kind.shape.dim)
        if shape != array.shape:
            raise ExportError(
                f"{value.name}: the graph needs {shape}, the weights are {array.shape}"
            )
        name = value.name
        if kind.elem_type != helper.np_dtype_to_tensor_dtype(array.dtype):
            name = f"{value.name}.{array.dtype.name}"
            wideners.append(_widener(value.name, name, scale))
        bound.graph.initializer.append(_external(name, array, offsets[value.name]))
        if scale is not None:
            name = scale_name(value.name)
            bound.graph.initializer.append(_external(name, scale.reshape(-1), offsets[name]))
    prepend(bound.graph, wideners)
    del bound.graph.input[:]
    bound.graph.input.extend(inputs)
    serialized: bytes = bound.SerializeToString()
    return serialized


def _widener(name: str, stored: str, scale: Array | None) -> onnx.NodeProto:
    if scale is None:
        return helper.make_node("Cast", [stored], [name], to=TensorProto.FLOAT)
    axis = scale.shape.index(scale.size)
    return helper.make_node("DequantizeLinear", [stored, scale_name(name)], [name], axis=axis)


def nodes_of(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph, including those of its branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from nodes_of(attribute.g)


def _content(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    digest = hashlib.sha256(np.ascontiguousarray(array).data).digest()
    return array.dtype.str, array.shape, digest


def _declare(graph: onnx.GraphProto, name: str, array: Array) -> None:
    if any(value.name == name for value in graph.input):
        return
    dtype = helper.np_dtype_to_tensor_dtype(array.dtype)
    graph.input.append(helper.make_tensor_value_info(name, dtype, array.shape))


def prepend(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    """Put ``nodes`` before all others: ONNX wants each node after those it depends on."""
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _external(name: str, array: Array, offset: int) -> TensorProto:
    tensor = TensorProto(
        name=name,
        data_type=helper.np_dtype_to_tensor_dtype(array.dtype),
        dims=array.shape,
        data_location=TensorProto.EXTERNAL,
    )
    place = {"location": WEIGHTS, "offset": offset, "length": array.nbytes}
    for key, value in place.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor
