"""Find allowed operators that would crash or hang the whole process, before they run.

ONNX Runtime 1.32 divides the smallest integer by -1, which raises SIGFPE, and never returns from a
convolution whose kernel is computed and has no elements.
"""

from typing import Any

from pengi_rt.plan.protobuf import Message, only

_FLOAT32, _INT64, _BOOL = 1, 7, 9
_FIXED_TYPES = {
    "ArgMax": _INT64,
    "Shape": _INT64,
    "Equal": _BOOL,
    "LessOrEqual": _BOOL,
}
_TYPED_BY = {"DequantizeLinear": 1, "Where": 1}
"""The index of the input that has the output's type, if it is not the first input."""


def check_traps(graph: Message) -> None:
    """Refuse divisions of values not known to be float32, and kernels of unknown size.

    Raises:
        ValueError: there is one, or a name has two values; the message continues "it ".
    """
    types = {only(value, "name"): _elem_type(value) for value in graph.get("input", [])}
    types |= {
        only(tensor, "name"): only(tensor, "data_type") for tensor in graph.get("initializer", [])
    }
    for node in graph.get("node", []):
        name = node["op_type"][0]
        made = _output_type(node, name, types)
        if name == "Div" and made != _FLOAT32:
            raise ValueError("holds a Div of numbers that are not float32, which no export writes")
        if name == "Conv" and min(_attribute(node, "kernel_shape").get("ints", [0]), default=0) < 1:
            raise ValueError("holds a Conv without the size of its kernel")
        for output in filter(None, node.get("output", [])):
            if output in types:
                raise ValueError("computes the same value twice")
            types[output] = made


def _output_type(node: Message, name: str, types: dict[str, Any]) -> Any:
    """The element type of a node's outputs; None if unknown."""
    if name == "Cast":
        return only(_attribute(node, "to"), "i")
    typed = node.get("input", [])[_TYPED_BY.get(name, 0) :]
    return _FIXED_TYPES.get(name, types.get(typed[0]) if typed else None)


def _attribute(node: Message, name: str) -> Message:
    """The attribute of that name, or an empty one."""
    found = [part for part in node.get("attribute", []) if part.get("name") == [name]]
    if len(found) > 1:
        raise ValueError(f"has the same {name} twice")
    return found[0] if found else {}


def _elem_type(value: Message) -> Any:
    return only(only(only(value, "type", {}), "tensor", {}), "elem_type")
