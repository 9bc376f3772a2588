"""Hostile or damaged plans are refused in one line, or answered; never worse.

Whatever could kill a process runs in a separate one, with bounded memory and time, which must not
print anything. Except in the first test, every checksum is correct.
"""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import hostile_plan
import onnx
import pytest
import toy_plan

from pengi_rt.cli.main import main
from pengi_rt.errors import PlanError
from pengi_rt.plan.manifest import MANIFEST, graph_entry, tokenizer_entry
from pengi_rt.plan.reader import Plan

GRAPHS = ("audio", "text", "decoder")
TOKENIZERS = ("text", "decoder")

BATCH = 80  # plans per process
VERDICTS = (
    *("answer: ", "PlanError: ", "TokenizerError: ", "BackendError: ", "UsageError: "),
    "PromptError: ",
)

Changed = dict[str, bytes]


def test_flipped_bits(tiny_plan: Path, tmp_path: Path, rng: random.Random, rounds: int) -> None:
    whole = tiny_plan.read_bytes()
    path = tmp_path / "flipped.plan"
    path.write_bytes(whole)
    with path.open("r+b") as file:
        for position in rng.sample(range(len(whole)), 60 * rounds):
            os.pwrite(file.fileno(), bytes([whole[position] ^ 1 << rng.randrange(8)]), position)
            with pytest.raises(PlanError) as caught:
                Plan.open(path)
            assert toy_plan.one_line(str(caught.value))
            os.pwrite(file.fileno(), whole[position : position + 1], position)
    Plan.open(path).close()


def change_graph(entries: Changed, draw: random.Random) -> Changed:
    name = graph_entry(draw.choice(GRAPHS))
    model = onnx.ModelProto.FromString(entries[name])
    hostile_plan.mutate_graph(model, draw)
    return {name: model.SerializeToString()}


def change_tokenizer(entries: Changed, draw: random.Random) -> Changed:
    name = tokenizer_entry(draw.choice(TOKENIZERS))
    data = hostile_plan.mutated_json(json.loads(entries[name]), draw)
    return {name: json.dumps(data).encode()}


def change_bytes(entries: Changed, draw: random.Random) -> Changed:
    name = draw.choice([*map(graph_entry, GRAPHS), *map(tokenizer_entry, TOKENIZERS)])
    return {name: hostile_plan.mutated_bytes(entries[name], draw)}


def change_config(entries: Changed, draw: random.Random) -> Changed:
    manifest = json.loads(entries[MANIFEST])
    manifest["config"] = hostile_plan.mutated_json(manifest["config"], draw)
    return {MANIFEST: json.dumps(manifest).encode()}


CHANGES: tuple[Callable[[Changed, random.Random], Changed], ...] = (
    *(change_graph, change_tokenizer, change_bytes, change_config),
)


def test_changed_parts(tiny_plan: Path, tmp_path: Path, rng: random.Random, rounds: int) -> None:
    """Graphs, tokenizers and configs with changed values, names and bytes; the plans are run."""
    entries = toy_plan.contents(tiny_plan)
    for _ in range(rounds):
        plans = [tiny_plan]
        for index in range(BATCH):
            target = tmp_path / f"{index}.plan"
            changed = CHANGES[index % len(CHANGES)](entries, rng)
            plans.append(hostile_plan.resigned(tiny_plan, target, changed))
        whole, *said = hostile_plan.ask_all(plans, tmp_path)
        assert whole.startswith("answer: ")
        for line in said:
            assert line.startswith(VERDICTS)
            assert toy_plan.one_line(line)
        assert any(line.startswith("PlanError: ") for line in said)
        assert any(line.startswith("TokenizerError: ") for line in said)


def test_hostile_values_in_plan_json_are_printed_safely(
    tmp_path: Path, rng: random.Random, rounds: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """plan.json with changed bytes and values: shown, or refused in one line."""
    toy = toy_plan.write(tmp_path / "toy.plan")
    text = toy_plan.contents(toy)[MANIFEST]
    path = tmp_path / "changed.plan"
    for _ in range(80 * rounds):
        data = hostile_plan.mutated_bytes(text, rng)
        if rng.random() < 0.7:
            data = json.dumps(hostile_plan.mutated_json(json.loads(text), rng)).encode()
        hostile_plan.resigned(toy, path, {MANIFEST: data})
        code = main(["inspect", str(path), "--format", rng.choice(["text", "json"])])
        shown = capsys.readouterr()
        assert code in (0, 5)
        assert (shown.out == "") == (code == 5)
        assert len(shown.out) < 40_000
        assert shown.err.count("\n") == (code == 5)
        assert toy_plan.one_line(shown.err.rstrip("\n") or "nothing")
