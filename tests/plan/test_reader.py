"""A plan returns its contents, read-only; a damaged one is refused, whatever the damage."""

import json
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import toy_plan

from pengi_rt.errors import PlanError
from pengi_rt.plan.manifest import FORMAT_VERSION, MANIFEST, WEIGHTS, graph_entry
from pengi_rt.plan.reader import Plan
from pengi_rt.plan.zip_container import CENTRAL_MAGIC, LOCAL_MAGIC


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return toy_plan.write(tmp_path_factory.mktemp("plan") / "toy.plan").read_bytes()


@pytest.fixture
def path(tmp_path: Path, whole: bytes) -> Path:
    path = tmp_path / "toy.plan"
    path.write_bytes(whole)
    return path


def refusal(path: Path) -> str:
    """The one line that refuses ``path``, without the path."""
    with pytest.raises(PlanError) as caught:
        Plan.open(path).close()
    message = str(caught.value)
    assert toy_plan.one_line(message)
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_gives_back_what_was_put_in(path: Path) -> None:
    with Plan.open(path) as plan:
        assert plan.path == path
        assert plan.size == path.stat().st_size
        assert plan.config == toy_plan.CONFIG
        assert plan.manifest.self_test == toy_plan.SELF_TEST
        assert plan.manifest.graphs == ("audio", "text", "decoder")
        assert plan.manifest.backends == ("onnx", "torch")
        assert plan.manifest.source is not None
        assert plan.manifest.source.file == "tiny.pth"
        assert plan.graph("text") == toy_plan.ENTRIES["graphs/text.onnx"]
        assert plan.tokenizer("decoder") == toy_plan.ENTRIES["tokenizers/decoder.json"]


@pytest.mark.parametrize("name", toy_plan.tensors())
def test_tensor_is_the_one_written_bit_for_bit(path: Path, name: str) -> None:
    expected = toy_plan.tensors()[name]
    with Plan.open(path) as plan:
        tensor = plan.tensor(name)
        assert tensor.shape == expected.shape
        assert tensor.dtype == expected.dtype.newbyteorder("<")
        assert tensor.tobytes() == expected.astype(tensor.dtype).tobytes()
        assert tensor.ctypes.data % 4096 == 0
        del tensor


def test_views_are_read_only(path: Path) -> None:
    with Plan.open(path) as plan:
        assert plan.weights.readonly
        table = plan.tensor("decoder.wte.weight")
        assert not table.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            table[0, 0] = 1
        with pytest.raises(ValueError, match="WRITEABLE"):
            table.flags.writeable = True


def test_tensors_lie_where_the_manifest_says(path: Path) -> None:
    with Plan.open(path) as plan:
        record = plan.manifest.tensors["turned"]
        raw = bytes(plan.weights[record.offset :][: record.nbytes])
        np.testing.assert_array_equal(
            np.frombuffer(raw, "<f4").reshape(record.shape), toy_plan.tensors()["turned"]
        )
        assert list(plan.tensors) == list(toy_plan.tensors())


@pytest.mark.parametrize("ask", ["tensor", "graph", "tokenizer"])
def test_names_that_a_plan_does_not_have(path: Path, ask: str) -> None:
    with Plan.open(path) as plan, pytest.raises(PlanError, match=r"has no \w+ '.*nope"):
        getattr(plan, ask)("nope")


def test_released_pages_come_back(path: Path) -> None:
    with Plan.open(path) as plan:
        table = plan.tensor("decoder.wte.weight")
        plan.release_pages()
        np.testing.assert_array_equal(table, toy_plan.tensors()["decoder.wte.weight"])


def test_examine_names_entries_and_tensors(path: Path) -> None:
    verdicts = dict(Plan.examine(path))
    assert set(verdicts) == {WEIGHTS, *toy_plan.ENTRIES} | {
        f"{WEIGHTS}[{name}]" for name in toy_plan.tensors()
    }
    assert all(verdicts.values())


def test_examine_finds_the_damaged_tensor(path: Path, whole: bytes) -> None:
    with Plan.open(path) as plan:
        needle = plan.tensor("ids").tobytes()
    path.write_bytes(whole.replace(needle, b"\1" + needle[1:]))
    wrong = [name for name, holds in Plan.examine(path) if not holds]
    assert wrong == [WEIGHTS, f"{WEIGHTS}[ids]"]


def test_opening_opens_no_other_file(path: Path) -> None:
    opened: list[str] = []
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "open":
            opened.append(str(arguments[0]))

    sys.addaudithook(hook)
    with Plan.open(path) as plan:
        plan.tensor("decoder.wte.weight").sum()
        plan.graph("audio")
    watching = False
    assert opened == [str(path)]


# Damage


def flips(whole: bytes) -> Iterator[int]:
    """Every byte of the directory, of the headers up to their padding, and one in 31 elsewhere."""
    yield from range(whole.index(CENTRAL_MAGIC), len(whole))
    for header in re.finditer(re.escape(LOCAL_MAGIC), whole):
        yield from range(header.start(), header.start() + 64)
    yield from range(0, len(whole), 31)


def test_every_flipped_byte_is_refused(path: Path, whole: bytes) -> None:
    draw = random.Random(0)
    with path.open("r+b") as file:
        for position in flips(whole):
            flipped = bytes([whole[position] ^ 1 << draw.randrange(8)])
            os.pwrite(file.fileno(), flipped, position)
            refusal(path)
            os.pwrite(file.fileno(), whole[position : position + 1], position)
    Plan.open(path).close()


def test_damage_names_the_entry(path: Path, whole: bytes) -> None:
    for name, data in toy_plan.contents(path).items():
        start = whole.index(data)
        path.write_bytes(whole[:start] + bytes([data[0] ^ 1]) + whole[start + 1 :])
        assert refusal(path).startswith(f"entry {name} is damaged: ")


def test_every_truncation_is_refused(path: Path, whole: bytes) -> None:
    lengths = {*range(0, len(whole), 401), *range(64), *range(len(whole) - 300, len(whole))}
    for length in sorted(lengths, reverse=True):
        os.truncate(path, length)
        message = refusal(path)
        if length > 4:
            assert "cut short" in message
    assert message.startswith("the file is empty")


@pytest.mark.parametrize("more", [b"\0", b"PK\5\6" + bytes(18), b"more" * 100])
def test_bytes_before_or_after_the_archive_are_refused(
    path: Path, whole: bytes, more: bytes
) -> None:
    path.write_bytes(whole + more)
    refusal(path)
    path.write_bytes(whole[:4] + more + whole[4:])
    refusal(path)


def test_mutated_plans_are_refused(path: Path, whole: bytes) -> None:
    draw = random.Random(1)
    for _ in range(600):
        mutated = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            at, other = draw.randrange(len(mutated)), draw.randrange(len(mutated))
            length = draw.choice([1, 2, 4, 8, 46, 4096])
            piece = draw.choice(
                [
                    bytes(length),
                    b"\xff" * length,
                    draw.randbytes(length),
                    bytes(mutated[other : other + length]),
                ]
            )
            if draw.random() < 0.5:
                mutated[at : at + len(piece)] = piece
            else:
                mutated[at:at] = piece
        if mutated != whole:
            path.write_bytes(mutated)
            refusal(path)


# Hostile plans: every checksum holds


def test_newer_format_names_both_versions(path: Path) -> None:
    newer = FORMAT_VERSION + 1
    entries = toy_plan.contents(path)
    entries[MANIFEST] = json.dumps({"format": newer, "what": "we cannot know"}).encode()
    toy_plan.pack(path, [("engines/sm90.trt", b"new"), *entries.items()])
    message = refusal(path)
    assert f"has format {newer}" in message
    assert f"reads format {FORMAT_VERSION}: upgrade pengi-rt" in message


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("../evil", "does not belong"),
        ("/etc/passwd", "does not belong"),
        ("graphs/../plan.json", "does not belong"),
        ("a//b", "does not belong"),
        (".hidden", "does not belong"),
        ("graphs/other.onnx", "does not belong"),
        ("licences/a/b", "does not belong"),
        ("setup.py", "does not belong"),
        ("line\nbreak", "does not belong"),
        ("graphs/audio.onnx", "twice"),
    ],
)
def test_foreign_entries_are_refused(path: Path, entry: str, says: str) -> None:
    toy_plan.pack(path, [(entry, b"x"), *toy_plan.contents(path).items()])
    assert says in refusal(path)


def test_unrecorded_entry_is_refused(path: Path) -> None:
    toy_plan.pack(path, [("licences/new", b"x"), *toy_plan.contents(path).items()])
    assert refusal(path) == "entry licences/new is not listed in plan.json"


@pytest.mark.parametrize("name", [WEIGHTS, "graphs/text.onnx", "tokenizers/text.json"])
def test_missing_entry_is_named(path: Path, name: str) -> None:
    entries = toy_plan.contents(path)
    del entries[name]
    toy_plan.pack(path, entries.items())
    assert refusal(path) == f"entry {name} is missing"


def test_plan_json_must_be_last(path: Path) -> None:
    entries = toy_plan.contents(path)
    toy_plan.pack(path, [(MANIFEST, entries.pop(MANIFEST)), *entries.items()])
    assert "comes after plan.json" in refusal(path)


def test_graphs_must_be_those_listed(path: Path) -> None:
    toy_plan.edit_manifest(path, lambda data: data.update(graphs=["audio"]))
    assert "the plan's graphs are" in refusal(path)


@pytest.mark.parametrize("name", ["graphs/text.onnx", "tokenizers/decoder.json"])
def test_a_plan_without_a_required_entry_is_refused(path: Path, name: str) -> None:
    def forget(data: dict[str, Any]) -> None:
        del data["entries"][name]
        data["graphs"] = [graph for graph in data["graphs"] if graph_entry(graph) != name]

    entries = toy_plan.contents(toy_plan.edit_manifest(path, forget))
    del entries[name]
    toy_plan.pack(path, entries.items())
    assert refusal(path).startswith(f"entry {name} is missing, which every plan ")


def test_tables_must_be_those_of_the_config(path: Path) -> None:
    toy_plan.edit_manifest(path, lambda data: data["config"]["decoder"].update(vocab_size=257))
    assert refusal(path).startswith("tensor decoder.wte.weight has shape [256, 8], but the config")


def test_config_out_of_bounds_is_refused(path: Path) -> None:
    toy_plan.edit_manifest(path, lambda data: data["config"]["htsat"].update(patch_size=0))
    assert refusal(path) == ("plan.json: config.htsat.patch_size must be in [1, 64], got 0")


def test_tensor_outside_the_weights_is_refused(path: Path) -> None:
    def grow(data: dict[str, dict[str, dict[str, object]]]) -> None:
        data["tensors"]["ids"]["shape"] = [1 << 40]

    toy_plan.edit_manifest(path, grow)
    assert WEIGHTS in refusal(path)
