"""Graphs do only what our exporters write: no loops, no files, no other shapes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_plan
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from pengi_rt.config.pengi import PengiConfig, pengi_config
from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.plan.graph import check_graph, contract
from pengi_rt.plan.manifest import WEIGHTS, graph_entry
from pengi_rt.plan.reader import Plan

GRAPHS = ("audio", "text", "decoder")

Edit = Callable[[ModelProto], object]


@pytest.fixture(scope="module")
def demo() -> dict[str, bytes]:
    return toy_plan.contents(builtin_plan())


@pytest.fixture(scope="module")
def config() -> PengiConfig:
    return PengiConfig.preset("demo")


def refusal(kind: str, data: bytes, demo: dict[str, bytes], config: PengiConfig) -> str:
    with pytest.raises(ValueError, match=r"^(does not run: it|takes) ") as caught:
        check_graph(data, kind, config, len(demo[WEIGHTS]))
    assert toy_plan.one_line(str(caught.value))
    return str(caught.value)


@pytest.mark.parametrize("which", ["tiny_plan", "half_plan"])
def test_every_exported_graph_passes(which: str, request: pytest.FixtureRequest) -> None:
    for path in (request.getfixturevalue(which), builtin_plan()):
        with Plan.open(path) as plan:
            for kind in GRAPHS:
                check_graph(plan.graph(kind), kind, plan.config, len(plan.weights))


def add(operator: str, domain: str = "", **attributes: Any) -> Edit:
    node = helper.make_node(operator, [], ["new"], domain=domain, **attributes)
    return lambda model: model.graph.node.append(node)


def loop(model: ModelProto) -> None:
    """2^62 empty iterations, which Ctrl-C cannot interrupt."""
    keep = helper.make_tensor_value_info("keep", TensorProto.BOOL, [])
    count = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    again = helper.make_tensor_value_info("again", TensorProto.BOOL, [])
    same = helper.make_node("Identity", ["keep"], ["again"])
    body = helper.make_graph([same], "body", [count, keep], [again])
    model.graph.initializer.append(numpy_helper.from_array(np.array(2**62), "n"))
    model.graph.node.append(helper.make_node("Loop", ["n", ""], [], body=body))


def choice(model: ModelProto) -> NodeProto:
    nodes: list[NodeProto] = [node for node in model.graph.node if node.op_type == "If"]
    return nodes[0]


def step(model: ModelProto) -> NodeProto:
    """The attention node in the first layer's step."""
    (branch,) = [part.g for part in choice(model).attribute if part.name == "then_branch"]
    node: NodeProto = branch.node[0]
    return node


def other_history(model: ModelProto) -> None:
    """The graph computes the buffers' positions, which the attention operator never checks."""
    step(model).input[9] = "mask"


def own_history(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Cast", ["mask"], ["ancestry"], to=TensorProto.INT32))


def add_tensor(**values: Any) -> Edit:
    def edit(model: ModelProto) -> None:
        tensor = TensorProto(name="t", data_type=1, dims=[4], data_location=TensorProto.EXTERNAL)
        place = {"location": WEIGHTS, "offset": "0", "length": "16"} | values
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        model.graph.initializer.append(tensor)

    return edit


def huge(model: ModelProto) -> None:
    model.graph.initializer.append(TensorProto(name="t", data_type=1, dims=[1 << 39]))


def same_weights_again(model: ModelProto) -> None:
    first = next(t for t in model.graph.initializer if t.external_data and len(t.dims) == 2)
    model.graph.initializer.extend([first] * 2000)


def many_nodes(model: ModelProto) -> None:
    model.graph.node.extend([helper.make_node("Relu", ["wave"], ["x"])] * 9000)


def long_name(model: ModelProto) -> None:
    model.graph.node[0].name = "x" * 9_000_000


def batch_dims(model: ModelProto) -> None:
    """ONNX Runtime 1.32 reads out of bounds because of it."""
    node = next(node for node in model.graph.node if node.op_type == "GatherND")
    node.attribute[0].i = -2


def twice(model: ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "GatherND")
    node.attribute.append(helper.make_attribute("batch_dims", -2))


def divided(*numbers: Any) -> Edit:
    """Divide the smallest integer by -1, which kills the process (SIGFPE): ``numbers`` are both."""

    def edit(model: ModelProto) -> None:
        for name, value in zip("ab", numbers, strict=True):
            model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
        nodes = [
            helper.make_node("Identity", ["b"], ["by"]),
            helper.make_node("Div", ["a", "by"], ["quotient"]),
        ]
        model.graph.node.extend(nodes)

    return edit


def of_any_type(model: ModelProto) -> None:
    """Move a Div before the node that defines what it divides."""
    div = next(node for node in model.graph.node if node.op_type == "Div")
    model.graph.node.remove(div)
    model.graph.node.insert(0, div)


def without_kernel_shape(model: ModelProto) -> None:
    """The graph computes the kernel, which may be empty: then ONNX Runtime never returns."""
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    conv.attribute.remove(next(part for part in conv.attribute if part.name == "kernel_shape"))


def empty_kernel(model: ModelProto) -> None:
    conv = next(node for node in model.graph.node if node.op_type == "Conv")
    next(part for part in conv.attribute if part.name == "kernel_shape").ints[0] = 0


def defined_again(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Identity", ["wave"], model.graph.node[0].output[:1]))


@pytest.mark.parametrize(
    ("kind", "edit", "says"),
    [
        ("audio", divided(-(2**63), -1), "a Div of numbers that are not float32"),
        (
            "text",
            divided(np.int32(-(2**31)), np.int32(-1)),
            "a Div of numbers that are not float32",
        ),
        ("audio", of_any_type, "a Div of numbers that are not float32"),
        ("audio", without_kernel_shape, "a Conv without the size"),
        ("audio", empty_kernel, "a Conv without the size"),
        ("audio", defined_again, "computes the same value twice"),
        ("audio", loop, "the operator 'Loop'"),
        ("decoder", loop, "the operator 'Loop'"),
        ("audio", add("If"), "the operator 'If'"),
        ("audio", add("RandomNormal", shape=[1]), "the operator 'RandomNormal'"),
        ("text", add("ConstantOfShape"), "the operator 'ConstantOfShape'"),
        ("text", add("\x1b[2J" * 100), "the operator "),
        ("text", add("Add", "com.stranger"), "the operator 'Add'"),
        ("text", add("Attention", "com.microsoft"), "the operator 'Attention'"),
        ("decoder", add("Expand"), "the operator 'Expand'"),
        ("audio", lambda model: model.functions.add(name="f"), "the field 25"),
        ("audio", lambda model: model.graph.sparse_initializer.add(), "the field 15"),
        ("audio", lambda model: model.graph.node[0].attribute.add(ref_attr_name="x"), "field 21"),
        ("decoder", other_history, "an attention in layer 0"),
        ("decoder", lambda model: step(model).attribute.pop(), "an attention in layer 0"),
        ("decoder", own_history, "computes what it is given, in a Cast"),
        ("decoder", lambda model: choice(model).attribute.pop(), "something other than is_step"),
        ("decoder", batch_dims, "a GatherND with attributes that no export writes"),
        ("decoder", twice, "has the same name twice"),
        (
            "audio",
            add_tensor(location="/etc/passwd"),
            "reads the file '/etc/passwd', not weights.bin",
        ),
        ("audio", add_tensor(offset=str(1 << 40)), "that is not one in weights.bin"),
        ("audio", add_tensor(offset="1"), "that is not one in weights.bin"),
        ("audio", add_tensor(length="12"), "that is not one in weights.bin"),
        ("audio", add_tensor(offset="-4096"), "with an invalid location"),
        ("audio", add_tensor(offset="9" * 5000), "with an invalid location"),
        ("audio", add_tensor(checksum="x"), "with an invalid location"),
        ("audio", huge, "whose data do not fit its shape"),
        ("decoder", same_weights_again, "bytes, but weights.bin has"),
        ("audio", many_nodes, "nodes, but the config allows"),
        ("audio", long_name, "bytes, but the config allows"),
    ],
)
def test_graphs_that_no_export_writes(
    kind: str, edit: Edit, says: str, demo: dict[str, bytes], config: PengiConfig
) -> None:
    model = ModelProto.FromString(demo[graph_entry(kind)])
    edit(model)
    message = refusal(kind, model.SerializeToString(), demo, config)
    assert message.startswith("does not run: it ")
    assert says in message


@pytest.mark.parametrize("kind", GRAPHS)
def test_names_are_utf8(kind: str, demo: dict[str, bytes], config: PengiConfig) -> None:
    """ONNX Runtime prints undecodable parts of an operator on stdout, among the answers."""
    data = demo[graph_entry(kind)].replace(b"MatMul", b"Mat\xff\xfel")
    assert r"a name that is not UTF-8: b'" in refusal(kind, data, demo, config)


def test_not_a_graph(demo: dict[str, bytes], config: PengiConfig) -> None:
    assert "takes nothing and gives nothing" in refusal("audio", b"", demo, config)
    for data in (b"\x3a\x00" * 2, b"\x08", b"not a graph", b"\x3a\xff\xff\xff\xff\xff"):
        refusal("audio", data, demo, config)


def value_of(model: ModelProto, name: str) -> Any:
    values = [*model.graph.input, *model.graph.output]
    return next(value for value in values if value.name == name)


def of_type(name: str, dtype: int) -> Edit:
    return lambda model: setattr(value_of(model, name).type.tensor_type, "elem_type", dtype)


def of_size(name: str, axis: int, size: int) -> Edit:
    return lambda model: setattr(
        value_of(model, name).type.tensor_type.shape.dim[axis], "dim_value", size
    )


def of_more_axes(name: str) -> Edit:
    return lambda model: value_of(model, name).type.tensor_type.shape.dim.add(dim_value=1)


@pytest.mark.parametrize(
    ("kind", "edit"),
    [
        ("audio", of_size("wave", 1, 8)),
        ("audio", of_size("wave", 0, 1)),
        ("audio", of_more_axes("prefix")),
        ("audio", of_size("prefix", 1, 9)),
        ("audio", of_size("prefix", 2, 8)),
        ("audio", of_size("joint_embedding", 1, 8)),
        ("audio", of_type("prefix", TensorProto.DOUBLE)),
        ("audio", lambda model: model.graph.output.reverse()),
        ("audio", lambda model: model.graph.output.pop()),
        ("text", of_type("ids", TensorProto.INT32)),
        ("text", of_more_axes("ids")),
        ("text", lambda model: setattr(value_of(model, "ids"), "name", "tokens")),
        ("decoder", of_size("logits", 1, 8)),
        ("decoder", of_size("new_key_0", 1, 3)),
        ("decoder", of_size("value_1", 3, 3)),
        ("decoder", of_type("ancestry", TensorProto.INT64)),
        ("decoder", lambda model: model.graph.input.add(name="more")),
    ],
)
def test_other_inputs_and_outputs(
    kind: str, edit: Edit, demo: dict[str, bytes], config: PengiConfig
) -> None:
    model = ModelProto.FromString(demo[graph_entry(kind)])
    edit(model)
    message = refusal(kind, model.SerializeToString(), demo, config)
    assert message.startswith("takes ")
    assert "unlike an exported graph" in message


def test_the_contract_follows_the_text_side() -> None:
    shapes = {
        name: [value.shape for value in contract("text", PengiConfig.preset(name))[1]]
        for name in ("base", "base_no_text_enc")
    }
    assert shapes == {
        "base": [(None, 1024), (None, 40, 768)],
        "base_no_text_enc": [(None, 40, 768), (None, 40, 768)],
    }


def test_a_plan_of_another_size_is_refused(demo: dict[str, bytes], tiny_plan: Path) -> None:
    """One plan's graphs in another plan, whose config does not match them."""
    with Plan.open(tiny_plan) as plan:
        for kind in GRAPHS:
            refusal(kind, demo[graph_entry(kind)], demo, pengi_config(plan.config))
