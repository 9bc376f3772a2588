"""What a plan's ONNX graphs may do, checked before ONNX Runtime sees them.

ONNX Runtime is a virtual machine with loops, files and hundreds of operators. A graph may hold only
what our exporters write (``export/encoder_graphs.py``, ``export/decoder_graph.py``), must have the
inputs and outputs that the config implies, and may refer only to the plan's weights. (ONNX:
onnx/onnx.proto.)
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pengi_rt.config.family import FamilyConfig, family_of
from pengi_rt.plan.graph_traps import check_traps
from pengi_rt.plan.manifest import ALIGNMENT, WEIGHTS
from pengi_rt.plan.protobuf import (
    BYTES,
    DOUBLES,
    FLOAT,
    FLOATS,
    INT,
    INTS,
    TEXT,
    Message,
    Table,
    only,
    read,
)
from pengi_rt.system.lazy import lazily
from pengi_rt.system.quote import one_line, shown

ATTENTION = ("DecoderMaskedMultiHeadAttention", "MultiHeadAttention")
BRANCH_OPERATORS = {
    "then_branch": frozenset(ATTENTION[:1]),
    "else_branch": frozenset({"Constant", "Reshape", "Transpose", *ATTENTION[1:]}),
}
"""The branches of each layer's ``If``: a step, and a prefill."""
ONLY = {"GatherND": {"batch_dims": 1}, "Split": {"axis": -1, "num_outputs": 3}}
"""Integer attributes with a single allowed value: with others, GatherND reads out of bounds."""

_NODES_PER_LAYER = 128  # the deepest of base's has 70
_BYTES_PER_NODE = 1024  # 250 are usual
_OTHER_NODES = 512
_BYTES_PER_SAMPLE = 64  # of the STFT window: its tables are in float64 and int64

FLOAT32, INT32, INT64, BOOL = 1, 6, 7, 9
ITEM_SIZES = {FLOAT32: 4, 2: 1, 3: 1, INT32: 4, INT64: 8, BOOL: 1, 10: 2, 11: 8, 16: 2}
TYPES = {FLOAT32: "float32", INT32: "int32", INT64: "int64", BOOL: "bool"}
_EXTERNAL = 1

_DIM: Table = {1: ("value", INT), 2: ("parameter", TEXT)}
_TENSOR_TYPE: Table = {1: ("elem_type", INT), 2: ("shape", {1: ("dim", _DIM)})}
_VALUE: Table = {1: ("name", TEXT), 2: ("type", {1: ("tensor", _TENSOR_TYPE)})}
_TENSOR: Table = {
    1: ("dims", INTS), 2: ("data_type", INT), 4: ("float_data", FLOATS), 5: ("int32_data", INTS),
    7: ("int64_data", INTS), 8: ("name", TEXT), 9: ("raw_data", BYTES),
    10: ("double_data", DOUBLES),
    13: ("external_data", {1: ("key", TEXT), 2: ("value", TEXT)}), 14: ("data_location", INT),
}  # fmt: skip
_ATTRIBUTE: Table = {
    1: ("name", TEXT), 2: ("f", FLOAT), 3: ("i", INT), 4: ("s", BYTES), 5: ("t", _TENSOR),
    7: ("floats", FLOATS), 8: ("ints", INTS), 20: ("type", INT),
}  # fmt: skip


def _graph_table(attribute: Table) -> Table:
    node: Table = {
        1: ("input", TEXT), 2: ("output", TEXT), 3: ("name", TEXT), 4: ("op_type", TEXT),
        5: ("attribute", attribute), 6: ("doc_string", TEXT), 7: ("domain", TEXT),
    }  # fmt: skip
    return {
        1: ("node", node), 2: ("name", TEXT), 5: ("initializer", _TENSOR), 10: ("doc_string", TEXT),
        11: ("input", _VALUE), 12: ("output", _VALUE),
    }  # fmt: skip


_BRANCH = _graph_table(_ATTRIBUTE)  # without branches of its own
_MODEL: Table = {
    1: ("ir_version", INT), 2: ("producer_name", TEXT), 3: ("producer_version", TEXT),
    7: ("graph", _graph_table({**_ATTRIBUTE, 6: ("g", _BRANCH)})),
    8: ("opset_import", {1: ("domain", TEXT), 2: ("version", INT)}),
}  # fmt: skip


class Value(NamedTuple):
    """An input or output of a graph; None in ``shape`` means any size."""

    name: str
    dtype: int
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {TYPES.get(self.dtype, self.dtype)} [{sizes}]"


class GraphRules(NamedTuple):
    """What a graph may hold, given the config of its model."""

    takes: list[Value]
    """Inputs, in any order."""
    gives: list[Value]
    """Outputs, in this order."""
    operators: frozenset[str]
    layers: int
    """Layers of the whole model, which bound the number of nodes."""
    table_samples: int = 0
    """Samples of the STFT window, whose tables the graph holds."""
    heads: int = 0
    """Attention heads of the decoder, whose ``If`` chooses between two attention operators."""

    @property
    def nodes(self) -> int:
        """The maximum number of nodes."""
        return _NODES_PER_LAYER * self.layers + _OTHER_NODES


def check_graph(data: bytes, kind: str, config: FamilyConfig, weights: int) -> None:
    """Check the graph ``kind`` of a plan whose ``weights.bin`` has ``weights`` bytes.

    Raises:
        ValueError: the graph is refused; the message continues "its audio graph ".
    """
    rules = graph_rules(kind, config)
    longest = rules.nodes * _BYTES_PER_NODE + _BYTES_PER_SAMPLE * rules.table_samples
    with _refusals():
        if len(data) > longest:
            raise ValueError(f"has {len(data)} bytes, but the config allows {longest}")
        graph = only(read(data, _MODEL), "graph", {})
        _check_weights(list(_tensors(graph)), weights, rules.nodes)
        inputs, outputs = (
            [_value(value) for value in graph.get(side, [])] for side in ("input", "output")
        )
    _check_contract(rules, inputs, outputs)
    with _refusals():
        _check_nodes(graph, rules)
        check_traps(graph)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"does not run: it {error}") from None


def _check_nodes(graph: Message, rules: GraphRules) -> None:
    nodes = graph.get("node", [])
    if len(nodes) > rules.nodes:
        raise ValueError(f"has {len(nodes)} nodes, but the config allows {rules.nodes}")
    taken = {only(value, "name", "") for value in graph.get("input", [])}
    layer = 0
    for node in nodes:
        _check_operator(node, rules.operators, taken)
        if node["op_type"] == ["If"]:
            _check_choice(node, layer, rules.heads, taken)
            layer += 1


def _check_operator(node: Message, known: Iterable[str], taken: set[str]) -> None:
    name, domain = only(node, "op_type", ""), only(node, "domain", "")
    if name not in known or domain != ("com.microsoft" if name in ATTENTION else ""):
        raise ValueError(f"holds the operator {shown(name)}, which no export writes")
    if not taken.isdisjoint(node.get("output", [])):
        raise ValueError(f"computes what it is given, in a {name}")
    if name in ONLY and _integers(node) != ONLY[name]:
        raise ValueError(f"holds a {name} with attributes that no export writes")


def _check_choice(node: Message, layer: int, heads: int, taken: set[str]) -> None:
    """Check a layer's attention. Its operators trust some inputs, which must be the caller's."""
    branches = _pairs(node.get("attribute", []), "name", "g")
    if node.get("input") != ["is_step"] or branches.keys() != BRANCH_OPERATORS.keys():
        raise ValueError("branches on something other than is_step")
    for name, branch in branches.items():
        nodes = (branch or {}).get("node", [])
        if not nodes or len(nodes) > 8 or branch.keys() & {"input", "initializer"}:
            raise ValueError("has a branch that no export writes")
        for inner in nodes:
            _check_operator(inner, BRANCH_OPERATORS[name], taken)
            if inner["op_type"][0] in ATTENTION:
                _check_attention(inner, layer, heads)


def _check_attention(node: Message, layer: int, heads: int) -> None:
    buffers = [f"key_{layer}", f"value_{layer}"]
    more = ["mask", "", *buffers, "past_length", "beam_width", "ancestry"]
    wanted = {"num_heads": heads, "past_present_share_buffer": 1}
    if node["op_type"] == ["MultiHeadAttention"]:
        more, wanted = [], {"num_heads": heads, "unidirectional": 1}
    inputs = node.get("input", [])
    if len(inputs) != 3 + len(more) or inputs[3:] != more or _integers(node) != wanted:
        raise ValueError(f"has an attention in layer {layer} that no export writes")


def _integers(node: Message) -> dict[Any, Any]:
    return _pairs(node.get("attribute", []), "name", "i")


def _pairs(messages: list[Message], key: str, value: str) -> dict[Any, Any]:
    """The messages as a dict. Duplicates are refused: readers differ in which of two counts."""
    pairs = {only(message, key): only(message, value) for message in messages}
    if len(pairs) != len(messages):
        raise ValueError(f"has the same {key} twice")
    return pairs


def _tensors(graph: Message) -> Iterator[Message]:
    """All tensors of a graph, including those of its branches."""
    yield from graph.get("initializer", [])
    for node in graph.get("node", []):
        for part in node.get("attribute", []):
            yield from part.get("t", [])
            for branch in part.get("g", []):
                yield from _tensors(branch)


def _check_weights(tensors: list[Message], weights: int, most: int) -> None:
    """Check that ``tensors`` hold the data that they declare, or point to it inside the weights."""
    if len(tensors) > 2 * most:
        raise ValueError(f"has {len(tensors)} tensors, but the config allows {2 * most}")
    used = sum(_checked_bytes(tensor, weights) for tensor in tensors)
    if used > 2 * weights + (1 << 26):
        raise ValueError(f"uses {used} bytes, but {WEIGHTS} has {weights}")


def _checked_bytes(tensor: Message, weights: int) -> int:
    """The size of a tensor in bytes, after checking that its data fit its shape and type."""
    dims, item = tensor.get("dims", []), ITEM_SIZES.get(only(tensor, "data_type", 0))
    name = shown(only(tensor, "name", ""))
    if item is None or len(dims) > 8 or any(not 0 <= size < 1 << 40 for size in dims):
        raise ValueError(f"has a tensor {name} of a type or shape that no export writes")
    count = math.prod(dims)
    if only(tensor, "data_location", 0) == _EXTERNAL:
        _check_place(tensor, name, count * item, weights)
        return count * item
    raw = only(tensor, "raw_data", b"")
    kinds = ("float", "int32", "int64", "double")
    values = sum(len(tensor.get(f"{kind}_data", ())) for kind in kinds)
    if len(raw) + item * values != count * item or "external_data" in tensor:
        raise ValueError(f"has a tensor {name} whose data do not fit its shape")
    return count * item


def _check_place(tensor: Message, name: str, size: int, weights: int) -> None:
    place = _pairs(tensor.get("external_data", []), "key", "value")
    file = place.pop("location", None)
    if file != WEIGHTS:
        raise ValueError(f"reads the file {shown(file)}, not {WEIGHTS}")
    numbers = [str(place.pop(key, "")) for key in ("offset", "length")]
    if place or not all(text.isascii() and text.isdecimal() and len(text) < 20 for text in numbers):
        raise ValueError(f"has a tensor {name} with an invalid location")
    offset, length = map(int, numbers)
    if length != size or offset % ALIGNMENT or offset + length > weights:
        raise ValueError(f"has a tensor {name} that is not one in {WEIGHTS}")


def _value(message: Message) -> Value:
    kind = only(only(message, "type", {}), "tensor", {})
    dims = only(kind, "shape", {}).get("dim", [])
    return Value(
        only(message, "name", ""),
        only(kind, "elem_type", 0),
        tuple(only(dim, "value") if "value" in dim else None for dim in dims),
    )


def _check_contract(rules: GraphRules, inputs: list[Value], outputs: list[Value]) -> None:
    takes, gives = rules.takes, rules.gives
    if sorted(inputs, key=_name) == sorted(takes, key=_name) and outputs == gives:
        return
    found, wanted = {*inputs, *outputs}, {*takes, *gives}
    first = [
        f"{word} {one_line(min(map(str, values)))}"
        for word, values in (("not", found - wanted), ("but", wanted - found))
        if values
    ]
    raise ValueError(
        f"takes {_listed(inputs)} and gives {_listed(outputs)}, unlike an exported graph: "
        f"{' '.join(first) or 'not in this order'}"
    )


def _name(value: Value) -> str:
    return value.name


def _listed(values: list[Value]) -> str:
    return one_line(", ".join(value.name for value in values) or "nothing", 100)


def contract(kind: str, config: FamilyConfig) -> tuple[list[Value], list[Value]]:
    """The inputs and outputs of the graph ``kind`` of a model with this config."""
    rules = graph_rules(kind, config)
    return rules.takes, rules.gives


def graph_rules(kind: str, config: FamilyConfig) -> GraphRules:
    """What the graph ``kind`` of a model with this config may hold."""
    rules: GraphRules = lazily(family_of(config).graphs[kind])(config)
    return rules
