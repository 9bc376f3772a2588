"""What a plan's ONNX graphs may do, checked before ONNX Runtime sees them.

That is a virtual machine with loops, files and hundreds of operators. A graph may hold only what
our exporters write (``export/encoder_graphs.py``, ``export/decoder_graph.py``), takes and gives
what the config says, and points into the plan's weights alone. (ONNX: onnx/onnx.proto.)
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from pengi_rt.config.model import ModelConfig
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
from pengi_rt.system.quote import one_line, shown

ENCODER_OPERATORS = frozenset([
    "Add", "ArgMax", "BatchNormalization", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear",
    "Div", "Equal", "Expand", "Gather", "GatherElements", "Gelu", "Gemm", "Identity",
    "LayerNormalization", "LessOrEqual", "Log", "MatMul", "Mod", "Mul", "Pad", "Range",
    "ReduceL2", "ReduceMean", "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Softmax",
    "Squeeze", "Tanh", "Transpose", "Unsqueeze", "Where",
])  # fmt: skip
DECODER_OPERATORS = frozenset([
    "Add", "Cast", "DequantizeLinear", "GatherND", "Gelu", "Gemm", "If", "LayerNormalization",
    "MatMul", "Split",
])  # fmt: skip
ATTENTION = ("DecoderMaskedMultiHeadAttention", "MultiHeadAttention")
BRANCH_OPERATORS = {
    "then_branch": frozenset(ATTENTION[:1]),
    "else_branch": frozenset({"Constant", "Reshape", "Transpose", *ATTENTION[1:]}),
}
"""Of each layer's ``If``: a step, and a prefill."""
ONLY = {"GatherND": {"batch_dims": 1}, "Split": {"axis": -1, "num_outputs": 3}}
"""Integer attributes that have one value: GatherND reads outside its input by another."""

_NODES_PER_LAYER = 128  # the deepest of base's has 70
_BYTES_PER_NODE = 1024  # 250 are usual
_OTHER_NODES = 512
_BYTES_PER_SAMPLE = 64  # of the transform: its tables, in float64 and int64

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
    """What a graph takes or gives; None stands for a size that is open."""

    name: str
    dtype: int
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {TYPES.get(self.dtype, self.dtype)} [{sizes}]"


def check_graph(data: bytes, kind: str, config: ModelConfig, weights: int) -> None:
    """Check the graph ``kind`` of a plan whose ``weights.bin`` has so many bytes.

    Raises:
        ValueError: it is refused; the message fits behind "its audio graph ".
    """
    nodes = _NODES_PER_LAYER * _layers(config) + _OTHER_NODES
    longest = nodes * _BYTES_PER_NODE + _BYTES_PER_SAMPLE * config.mel.n_fft
    with _refusals():
        if len(data) > longest:
            raise ValueError(f"has {len(data)} bytes, the config explains {longest}")
        graph = only(read(data, _MODEL), "graph", {})
        _check_weights(list(_tensors(graph)), weights, nodes)
        inputs, outputs = ([_value(value) for value in graph.get(side, [])] for side in
                           ("input", "output"))  # fmt: skip
    _check_contract(kind, config, inputs, outputs)
    with _refusals():
        _check_nodes(graph, kind, config, nodes)
        check_traps(graph)


@contextmanager
def _refusals() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"does not run: it {error}") from None


def _layers(config: ModelConfig) -> int:
    mappers = config.audio_mapper.num_layers + config.text_mapper.num_layers
    return sum(config.htsat.depths) + mappers + config.text.num_layers + config.decoder.n_layer


def _check_nodes(graph: Message, kind: str, config: ModelConfig, limit: int) -> None:
    nodes = graph.get("node", [])
    if len(nodes) > limit:
        raise ValueError(f"has {len(nodes)} nodes, the config explains {limit}")
    known = DECODER_OPERATORS if kind == "decoder" else ENCODER_OPERATORS
    taken = {only(value, "name", "") for value in graph.get("input", [])}
    layer = 0
    for node in nodes:
        _check_operator(node, known, taken)
        if node["op_type"] == ["If"]:
            _check_choice(node, layer, config, taken)
            layer += 1


def _check_operator(node: Message, known: Iterable[str], taken: set[str]) -> None:
    name, domain = only(node, "op_type", ""), only(node, "domain", "")
    if name not in known or domain != ("com.microsoft" if name in ATTENTION else ""):
        raise ValueError(f"holds the operator {shown(name)}, which no export writes")
    if not taken.isdisjoint(node.get("output", [])):
        raise ValueError(f"computes what it is given, in a {name}")
    if name in ONLY and _integers(node) != ONLY[name]:
        raise ValueError(f"holds a {name} with other attributes than ours")


def _check_choice(node: Message, layer: int, config: ModelConfig, taken: set[str]) -> None:
    """A layer's attention. Its operators trust some inputs: these must be the caller's own."""
    branches = _pairs(node.get("attribute", []), "name", "g")
    if node.get("input") != ["is_step"] or branches.keys() != BRANCH_OPERATORS.keys():
        raise ValueError("chooses by something else than is_step")
    for name, branch in branches.items():
        nodes = (branch or {}).get("node", [])
        if not nodes or len(nodes) > 8 or branch.keys() & {"input", "initializer"}:
            raise ValueError("has a branch that no export writes")
        for inner in nodes:
            _check_operator(inner, BRANCH_OPERATORS[name], taken)
            if inner["op_type"][0] in ATTENTION:
                _check_attention(inner, layer, config)


def _check_attention(node: Message, layer: int, config: ModelConfig) -> None:
    buffers = [f"key_{layer}", f"value_{layer}"]
    more = ["mask", "", *buffers, "past_length", "beam_width", "ancestry"]
    wanted = {"num_heads": config.decoder.n_head, "past_present_share_buffer": 1}
    if node["op_type"] == ["MultiHeadAttention"]:
        more, wanted = [], {"num_heads": config.decoder.n_head, "unidirectional": 1}
    inputs = node.get("input", [])
    if len(inputs) != 3 + len(more) or inputs[3:] != more or _integers(node) != wanted:
        raise ValueError(f"has an attention in layer {layer} that no export writes")


def _integers(node: Message) -> dict[Any, Any]:
    return _pairs(node.get("attribute", []), "name", "i")


def _pairs(messages: list[Message], key: str, value: str) -> dict[Any, Any]:
    """What the messages say, each something else: readers differ in which of two counts."""
    pairs = {only(message, key): only(message, value) for message in messages}
    if len(pairs) != len(messages):
        raise ValueError(f"says the same {key} twice")
    return pairs


def _tensors(graph: Message) -> Iterator[Message]:
    """All tensors of a graph, those of its branches included."""
    yield from graph.get("initializer", [])
    for node in graph.get("node", []):
        for part in node.get("attribute", []):
            yield from part.get("t", [])
            for branch in part.get("g", []):
                yield from _tensors(branch)


def _check_weights(tensors: list[Message], weights: int, most: int) -> None:
    """Check that ``tensors`` hold what they say, or point to it inside the weights."""
    if len(tensors) > 2 * most:
        raise ValueError(f"has {len(tensors)} tensors, the config explains {2 * most}")
    used = sum(_checked_bytes(tensor, weights) for tensor in tensors)
    if used > 2 * weights + (1 << 26):
        raise ValueError(f"takes {used} bytes out of {weights} of {WEIGHTS}")


def _checked_bytes(tensor: Message, weights: int) -> int:
    """The bytes of a tensor that has exactly the data that its shape and type need."""
    dims, item = tensor.get("dims", []), ITEM_SIZES.get(only(tensor, "data_type", 0))
    name = shown(only(tensor, "name", ""))
    if item is None or len(dims) > 8 or any(not 0 <= size < 1 << 40 for size in dims):
        raise ValueError(f"has a tensor {name} of a type or shape that no export writes")
    count = math.prod(dims)
    if only(tensor, "data_location", 0) == _EXTERNAL:
        _check_place(tensor, name, count * item, weights)
        return count * item
    raw = only(tensor, "raw_data", b"")
    values = sum(len(tensor.get(f"{kind}_data", ())) for kind in ("float", "int32", "int64",
                                                                  "double"))  # fmt: skip
    if len(raw) + item * values != count * item or "external_data" in tensor:
        raise ValueError(f"has a tensor {name} with other data than its shape needs")
    return count * item


def _check_place(tensor: Message, name: str, size: int, weights: int) -> None:
    place = _pairs(tensor.get("external_data", []), "key", "value")
    file = place.pop("location", None)
    if file != WEIGHTS:
        raise ValueError(f"reads {shown(file)}, a file of its own")
    numbers = [str(place.pop(key, "")) for key in ("offset", "length")]
    if place or not all(text.isascii() and text.isdecimal() and len(text) < 20 for text in numbers):
        raise ValueError(f"has a tensor {name} that stands nowhere")
    offset, length = map(int, numbers)
    if length != size or offset % ALIGNMENT or offset + length > weights:
        raise ValueError(f"has a tensor {name} that is none of {WEIGHTS}")


def _value(message: Message) -> Value:
    kind = only(only(message, "type", {}), "tensor", {})
    dims = only(kind, "shape", {}).get("dim", [])
    return Value(
        only(message, "name", ""),
        only(kind, "elem_type", 0),
        tuple(only(dim, "value") if "value" in dim else None for dim in dims),
    )


def _check_contract(
    kind: str, config: ModelConfig, inputs: list[Value], outputs: list[Value]
) -> None:
    takes, gives = contract(kind, config)
    if sorted(inputs, key=_name) == sorted(takes, key=_name) and outputs == gives:
        return
    found, wanted = {*inputs, *outputs}, {*takes, *gives}
    first = [
        f"{word} {one_line(min(map(str, values)))}"
        for word, values in (("not", found - wanted), ("but", wanted - found))
        if values
    ]
    raise ValueError(
        f"takes {_listed(inputs)} and gives {_listed(outputs)}, which is not what such a graph "
        f"does: {' '.join(first) or 'not in this order'}"
    )


def _name(value: Value) -> str:
    return value.name


def _listed(values: list[Value]) -> str:
    return one_line(", ".join(value.name for value in values) or "nothing", 100)


def contract(kind: str, config: ModelConfig) -> tuple[list[Value], list[Value]]:
    """What the graph ``kind`` takes and gives."""
    if kind == "decoder":
        return list(_decoder_inputs(config)), list(_decoder_outputs(config))
    width = config.decoder.n_embd
    if kind == "audio":
        takes = Value("wave", FLOAT32, (None, config.clip_samples))
        vectors: tuple[int | None, ...] = (None, config.d_proj)
        rows: int | None = config.audio_mapper.prefix_length
    else:
        text = config.text
        length = text.max_length if text.kind == "token_embedding" else None
        takes = Value("ids", INT64, (None, length))
        vectors = (None, config.d_proj) if text.kind == "clip" else (None, length, width)
        rows = None if text.kind == "decoder" else config.text_mapper.prefix_length
    gives = [Value("joint_embedding", FLOAT32, vectors), Value("prefix", FLOAT32,
                                                               (None, rows, width))]  # fmt: skip
    return [takes], gives


def _decoder_inputs(config: ModelConfig) -> Iterator[Value]:
    decoder = config.decoder
    yield Value("embeddings", FLOAT32, (None, None, decoder.n_embd))
    yield Value("last", INT64, (None, 1))
    yield Value("is_step", BOOL, ())
    yield Value("past_length", INT32, (1,))
    yield Value("beam_width", INT32, (1,))
    yield Value("ancestry", INT32, (None, None, None))
    yield Value("mask", INT32, (None, None))
    yield from _buffers(config, "")


def _decoder_outputs(config: ModelConfig) -> Iterator[Value]:
    yield Value("logits", FLOAT32, (None, config.decoder.vocab_size))
    yield from _buffers(config, "new_")


def _buffers(config: ModelConfig, before: str) -> Iterator[Value]:
    decoder = config.decoder
    shape = (None, decoder.n_head, None, decoder.head_dim)
    for layer in range(decoder.n_layer):
        for kind in ("key", "value"):
            yield Value(f"{before}{kind}_{layer}", FLOAT32, shape)
