"""Inconsistencies in a plan are refused by their place, before anything reads it."""

import json
from typing import Any

import pytest
import toy_plan

from pengi_rt.config.choices import WEIGHTS_NAMES
from pengi_rt.errors import PlanError
from pengi_rt.plan.consistency import check_complete, check_layout
from pengi_rt.plan.manifest import MANIFEST, Manifest, TensorRecord


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = toy_plan.write(tmp_path_factory.mktemp("plan") / "toy.plan")
    parsed: dict[str, Any] = json.loads(toy_plan.contents(path)[MANIFEST])
    return parsed


def record(offset: int, *shape: int) -> TensorRecord:
    return TensorRecord(offset=offset, shape=shape, dtype="float32", sha256="0" * 64)


def test_valid_layouts() -> None:
    check_layout([], 0)
    check_layout([record(4096, 5), record(0, 3, 4), record(0, 12)], 4096 + 20)


@pytest.mark.parametrize(
    ("tensors", "size"),
    [
        ([record(0, 4)], 15),
        ([record(0, 4)], 17),
        ([record(4096, 4)], 4096 + 16),  # a hole at the start
        ([record(0, 4), record(8192, 4)], 8192 + 16),  # a hole in between
        ([record(0, 2048), record(4096, 4)], 8192),  # one overlaps another
        ([record(0, 4), record(16, 4)], 32),  # not aligned
        ([record(0, 4), record(0, 5)], 20),
        ([record(0, 1 << 62, 1 << 62)], 16),
        ([], 1),
    ],
)
def test_invalid_layouts(tensors: list[TensorRecord], size: int) -> None:
    with pytest.raises(PlanError, match=r"weights\.bin"):
        check_layout(tensors, size)


def incompleteness(data: dict[str, Any]) -> str:
    manifest = Manifest.from_json(json.dumps(data))
    with pytest.raises(PlanError) as caught:
        check_complete(manifest)
    assert toy_plan.one_line(str(caught.value))
    return str(caught.value)


def test_complete_plan(data: dict[str, Any]) -> None:
    check_complete(Manifest.from_json(json.dumps(data)))


@pytest.mark.parametrize("name", toy_plan.ENTRIES)
def test_graphs_and_tokenizers_are_needed(data: dict[str, Any], name: str) -> None:
    without = data | {"entries": {k: v for k, v in data["entries"].items() if k != name}}
    if name.startswith("licences/"):
        check_complete(Manifest.from_json(json.dumps(without)))
    else:
        assert incompleteness(without).startswith(f"entry {name} is missing")


def test_a_plan_without_graphs_says_whom_it_is_for(data: dict[str, Any]) -> None:
    """Without graphs, the backends must not include the one that runs them; some are not enough."""
    entries = {k: v for k, v in data["entries"].items() if not k.startswith("graphs/")}
    bare = data | {"entries": entries, "graphs": []}
    check_complete(Manifest.from_json(json.dumps(bare | {"backends": ["torch", "triton"]})))
    for backends in (["onnx"], ["torch", "onnx"]):
        message = incompleteness(bare | {"backends": backends})
        assert message.startswith("entry graphs/audio.onnx is missing, which every plan for onnx")
    assert "neither graphs nor a backend" in incompleteness(bare | {"backends": []})
    some = entries | {"graphs/audio.onnx": data["entries"]["graphs/audio.onnx"]}
    partly = data | {"entries": some, "graphs": ["audio"], "backends": ["torch"]}
    assert incompleteness(partly).startswith("entry graphs/text.onnx is missing")


@pytest.mark.parametrize("name", ["decoder.wte.weight", "decoder.wpe.weight"])
def test_embedding_tables_are_those_of_the_config(data: dict[str, Any], name: str) -> None:
    table, others = data["tensors"][name], {k: v for k, v in data["tensors"].items() if k != name}
    rows, width = table["shape"]
    assert incompleteness(data | {"tensors": others}).startswith(f"tensor {name} is missing")
    for shape in ([rows - 1, width], [width, rows], [rows * width], [rows, width, 1], [1] * 32):
        wrong = data | {"tensors": others | {name: table | {"shape": shape}}}
        assert incompleteness(wrong).startswith(f"tensor {name} has shape [")
    half = data | {"tensors": others | {name: table | {"dtype": "float16"}}}
    assert incompleteness(half).startswith(f"tensor {name} is float16 in a plan stored as fp32")


TABLES = {
    "fp16": ("float16", "float16"),
    "bf16": ("bfloat16", "bfloat16"),
    "int8": ("int8", "float16"),
}


@pytest.mark.parametrize("weights", TABLES)
def test_embedding_tables_are_stored_as_the_weights(data: dict[str, Any], weights: str) -> None:
    assert TABLES.keys() == set(WEIGHTS_NAMES) - {"fp32"}
    tokens, positions = TABLES[weights]
    check_complete(Manifest.from_json(json.dumps(stored_as(data, weights, tokens, positions))))
    for dtype in ("float32", "float16", "bfloat16", "int8", "int64"):
        for kinds in ((tokens, dtype), (dtype, positions)):
            if kinds != (tokens, positions):
                message = incompleteness(stored_as(data, weights, *kinds))
                assert f"is {dtype} in a plan stored as {weights}: export" in message


def stored_as(
    data: dict[str, Any], weights: str, tokens: str, positions: str, **scale: object
) -> dict[str, Any]:
    """A plan with tables of these types, where only the token table has a scale."""
    table = data["tensors"]["decoder.wte.weight"]
    rows, _ = table["shape"]
    tensors = {
        "decoder.wte.weight": table | {"dtype": tokens},
        "decoder.wpe.weight": data["tensors"]["decoder.wpe.weight"] | {"dtype": positions},
        "decoder.wte.weight.scale": table | {"shape": [rows, 1], "dtype": "float32"} | scale,
    }
    return data | {"weights": weights, "tensors": tensors}


@pytest.mark.parametrize(
    "scale",
    [
        {"dtype": "float16"},
        {"shape": [256]},
        {"shape": [1, 256]},
        {"shape": [8, 1]},
        {"shape": [256, 8]},
        {"shape": [1, 1]},
        {"shape": [1] * 32},
    ],
)
def test_scales_are_of_their_tensor(data: dict[str, Any], scale: dict[str, object]) -> None:
    """One per row or one per column, in float32."""
    columns = stored_as(data, "int8", "int8", "float16", shape=[1, 8])
    check_complete(Manifest.from_json(json.dumps(columns)))
    wrong = stored_as(data, "int8", "int8", "float16", **scale)
    message = incompleteness(wrong)
    assert message.startswith("tensor 'decoder.wte.weight.scale' is ")
    assert "not a scale for [256, 8]" in message


def test_int8_without_a_scale(data: dict[str, Any]) -> None:
    """Only int8 plans require a scale: in other plans int8 is an ordinary type."""
    plan = stored_as(data, "int8", "int8", "float16")
    del plan["tensors"]["decoder.wte.weight.scale"]
    assert incompleteness(plan).startswith("tensor 'decoder.wte.weight' is int8 without a scale")
    assert data["tensors"]["quantized"]["dtype"] == "int8"
    check_complete(Manifest.from_json(json.dumps(data)))
