"""plan.json is read back equal, and anything outside its schema is refused by its place."""

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
import toy_plan

from pengi_rt.config.family import family_of
from pengi_rt.errors import PlanError
from pengi_rt.plan.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    aligned,
    is_entry_name,
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = toy_plan.write(tmp_path_factory.mktemp("plan") / "toy.plan")
    parsed: dict[str, Any] = json.loads(toy_plan.contents(path)[MANIFEST])
    return parsed


def refusal(data: object) -> str:
    text = data if isinstance(data, str | bytes) else json.dumps(data)
    with pytest.raises(PlanError) as caught:
        Manifest.from_json(text)
    assert toy_plan.one_line(str(caught.value))
    return str(caught.value)


def test_round_trip(data: dict[str, Any]) -> None:
    manifest = Manifest.from_json(json.dumps(data))
    assert manifest.format == FORMAT_VERSION
    assert manifest.tensors["decoder.wte.weight"].shape == (256, 8)
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert json.loads(again.to_json()) == data


def places(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value, including containers; of many tensors, only the first."""
    yield path
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, child in value.items() if isinstance(value, dict) else ():
        if path != ("tensors",) or key == "decoder.wte.weight":
            yield from places(child, (*path, key))


ANYTHING = ("config", "graphs", "backends", "tools", "self_test")
"""Keys below which a different value may still be valid."""


def test_every_value_of_another_type_is_refused(data: dict[str, Any]) -> None:
    for place in places(data):
        for wrong in (None, True, -1, 1.5, "?", ["?"], {"?": 1}):
            damaged = copy.deepcopy({"": data})
            inside: Any = damaged
            for key in ("", *place)[:-1]:
                inside = inside[key]
            inside[("", *place)[-1]] = wrong
            if place[:1] and place[0] in ANYTHING:
                with contextlib.suppress(PlanError):
                    Manifest.from_json(json.dumps(damaged[""]))
            elif (place, wrong) not in [(("source",), None), (("source", "file"), "?")]:
                refusal(damaged[""])


@pytest.mark.parametrize("key", ["config", "tensors", "entries", "self_test", "tools", "source"])
def test_missing_key_is_named(data: dict[str, Any], key: str) -> None:
    assert refusal({k: v for k, v in data.items() if k != key}).endswith(f"unknown: ['{key}']")


def test_unknown_key_is_named(data: dict[str, Any]) -> None:
    assert refusal(data | {"extra": 1}).endswith("unknown: ['extra']")
    assert "'extra'" in refusal(data | {"config": data["config"] | {"extra": 1}})


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\xfe",
        "[" * 100_000,
        "[" * 500 + "]" * 500,
        '{"format": 1, "format": 1}',
        '{"format": NaN}',
        '{"format": 1e400}',
        "1" * 5000,
        '{"format": "1"}',
        '{"format": true}',
        '{"format": 0}',
        "null",
    ],
)
def test_invalid_json(text: str | bytes) -> None:
    assert refusal(text).startswith(MANIFEST)


def test_plans_from_before_call_the_weights_precision(data: dict[str, Any]) -> None:
    new = Manifest.from_json(json.dumps(data))
    old = {("precision" if key == "weights" else key): value for key, value in data.items()}
    assert old.keys() != data.keys()
    assert Manifest.from_json(json.dumps(old)) == new
    assert "precision" in refusal(data | {"precision": "fp32"})
    assert "weights must be one of fp32, " in refusal(old | {"precision": "int4"})


def test_strings_cannot_move_the_cursor(data: dict[str, Any]) -> None:
    for hostile in ("\x1b[2J", "a\nb", "\ud800", "\u202e"):
        assert "control characters" in refusal(data | {"tools": {"torch": hostile}})
        assert "control characters" in refusal(data | {"self_test": {"a": [{hostile: 1}]}})


def test_refusals_stay_short_whatever_they_quote(data: dict[str, Any]) -> None:
    long = "x" * 100_000
    tensor = data["tensors"]["decoder.wte.weight"]
    refusal(data | {"format": long})
    refusal(data | {"weights": long})
    refusal(data | {"tensors": {long: None}})
    refusal(data | {"tensors": {"t": tensor | {"dtype": long}}})
    refusal(data | {"tensors": {"t": tensor | {"sha256": long}}})
    refusal(data | {"tensors": {"t": tensor | {"offset": 10**4000}}})
    refusal(data | {"entries": {"e": dict.fromkeys(map(str, range(9999)))}})


def test_bounds(data: dict[str, Any]) -> None:
    tensor = data["tensors"]["decoder.wte.weight"]
    huge = tensor | {"shape": [2**62] * 32}
    assert "its size in bytes must be a whole number" in refusal(data | {"tensors": {"t": huge}})
    assert "a name of 201 characters" in refusal(data | {"tensors": {"x" * 201: tensor}})
    assert "at most 16 names, got 17" in refusal(data | {"backends": ["x"] * 17})
    assert "more than 100000 values" in refusal(data | {"tools": [[]] * 50_001})
    assert "at most 4194304 are read" in refusal(json.dumps(data) + " " * (1 << 22))


def test_entry_names() -> None:
    family = family_of(toy_plan.CONFIG)
    assert all(is_entry_name(name, family) for name in toy_plan.ENTRIES)
    for name in ("licences/", "licences/..", "licences/a b", "graphs/audio.onnx\n", "engines/x"):
        assert not is_entry_name(name, family)


def test_aligned() -> None:
    assert [aligned(offset) for offset in (0, 1, 4096, 4097)] == [0, 4096, 4096, 8192]


def test_source_and_self_test_may_be_absent(data: dict[str, Any]) -> None:
    assert Manifest.from_json(json.dumps(data | {"source": None})).source is None
    assert Manifest.from_json(json.dumps(data | {"self_test": None})).self_test is None
