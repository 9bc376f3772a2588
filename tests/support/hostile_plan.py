"""Hostile plans: whatever is changed in one, every checksum is correct again.

Run as a program it runs plans one by one, in a process that may die: see :func:`ask_all`.
"""

import copy
import hashlib
import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import toy_plan

from pengi_rt.config.pengi import pengi_config
from pengi_rt.plan.manifest import MANIFEST, graph_entry, tokenizer_entry
from pengi_rt.plan.pengi import DECODER_OPERATORS, ENCODER_OPERATORS

MEMORY = 4 << 30  # bytes of address space
SECONDS = 30  # seconds of processor time per plan

SIZES = (0, 1, -1, 2, 3, 7, 64, 1 << 20, 1 << 31, 1 << 40, (1 << 62), -(1 << 62))
VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**32, 2**63, 10**4000, 1e30, float("nan"), float("inf"), "", "x",
    "\0", "\ud800", "\x1b[2J", "x" * 20_000, [], {}, [1], [[[]]], ["a", "b"], {"type": "NFC"},
    {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, {"type": "FixedLength", "length": 0},
    {"type": "Replace", "pattern": {"String": ""}, "content": "xx"}, {"type": "Lowercase"},
    {"type": "WordLevel", "vocab": {}, "unk_token": "?"}, {"type": "ByteLevel"},
    {"type": "Prepend", "prepend": "x"}, {"type": "BPE", "vocab": {}, "merges": []},
)  # fmt: skip


def resigned(source: Path, target: Path, changed: Mapping[str, bytes]) -> Path:
    """The plan ``source`` with different bytes in some entries, written to ``target``."""
    entries = toy_plan.contents(source) | dict(changed)
    if MANIFEST not in changed:
        manifest = json.loads(entries[MANIFEST])
        for name, record in manifest["entries"].items():
            data = entries[name]
            record |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        entries[MANIFEST] = json.dumps(manifest).encode()
    return toy_plan.pack(target, entries.items())


def with_graph(
    source: Path, target: Path, name: str, edit: Callable[[onnx.ModelProto], object]
) -> Path:
    """``source`` with one of its graphs edited."""
    entry = graph_entry(name)
    model = onnx.ModelProto.FromString(toy_plan.contents(source)[entry])
    edit(model)
    return resigned(source, target, {entry: model.SerializeToString()})


def with_tokenizer(
    source: Path, target: Path, name: str, edit: Callable[[dict[str, Any]], object]
) -> Path:
    """``source`` with one of its tokenizers edited."""
    entry = tokenizer_entry(name)
    data = json.loads(toy_plan.contents(source)[entry])
    edit(data)
    return resigned(source, target, {entry: json.dumps(data).encode()})


def mutate_graph(model: onnx.ModelProto, draw: random.Random) -> None:
    """Change a node, an attribute, a constant or a weight, or several of them."""
    graphs = [model.graph]
    graphs += [part.g for node in model.graph.node for part in node.attribute if part.HasField("g")]
    for _ in range(draw.choice([1, 1, 2, 3])):
        graph = draw.choice([model.graph, draw.choice(graphs)])
        if not graph.node:  # its last one was removed
            continue
        node = draw.choice(graph.node)
        names = [*node.input, *draw.choice(model.graph.node).output, model.graph.input[0].name]
        names += [tensor.name for tensor in draw.sample(list(model.graph.initializer), 2)]
        what = draw.randrange(6)
        if what == 0 and node.input:
            node.input[draw.randrange(len(node.input))] = draw.choice(names)
        elif what == 1 and node.attribute:
            _mutate_attribute(draw.choice(node.attribute), draw)
        elif what == 2:
            node.op_type = draw.choice(sorted(ENCODER_OPERATORS | DECODER_OPERATORS))
        elif what == 3:
            node.output[0] = draw.choice(names)
        elif what == 4:
            graph.node.remove(node)
        else:
            _mutate_tensor(draw.choice(model.graph.initializer), draw)


def _mutate_attribute(part: onnx.AttributeProto, draw: random.Random) -> None:
    if part.type == onnx.AttributeProto.INT:
        part.i = draw.choice(SIZES)
    elif part.type == onnx.AttributeProto.FLOAT:
        part.f = draw.choice([0, -1, float("nan"), float("inf")])
    elif part.ints:
        part.ints[draw.randrange(len(part.ints))] = draw.choice(SIZES)


def _mutate_tensor(tensor: onnx.TensorProto, draw: random.Random) -> None:
    if tensor.data_type == onnx.TensorProto.INT64 and tensor.raw_data:
        values = np.frombuffer(tensor.raw_data, "<i8").copy()
        values[draw.randrange(values.size)] = draw.choice(SIZES)
        tensor.raw_data = values.tobytes()
    elif tensor.external_data:
        draw.choice(tensor.external_data).value = str(draw.choice(SIZES))
    elif tensor.dims:
        tensor.dims[0] = draw.choice(SIZES)


def mutated_json(data: Any, draw: random.Random) -> Any:
    """A copy of ``data`` with one or two values replaced, removed or added."""
    data = copy.deepcopy(data)
    for _ in range(draw.choice([1, 1, 2])):
        *path, last = draw.choice([place for place in _places(data) if place])
        inside = data
        for key in path:
            inside = inside[key]
        if draw.random() < 0.2 and isinstance(inside, dict):
            del inside[last]
        else:
            inside[last] = copy.deepcopy(draw.choice(VALUES))
    return data


def mutated_bytes(data: bytes, draw: random.Random) -> bytes:
    """``data`` with a few bytes changed, removed or doubled."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 2, 5])):
        at = draw.randrange(len(changed))
        changed[at : at + draw.randrange(3)] = draw.randbytes(draw.randrange(3))
    return bytes(changed)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every value; only the beginning of long containers."""
    yield path
    if isinstance(value, list):
        value = dict(enumerate(value))
    for key, child in list(value.items())[:12] if isinstance(value, dict) else ():
        yield from _places(child, (*path, key))


def ask_all(plans: Sequence[Path], folder: Path) -> list[str]:
    """The outcome of running each of ``plans``: an answer, or a refusal's class and message.

    Raises:
        AssertionError: the process died, exceeded its limits, or printed something.
    """
    verdicts = folder / "verdicts"
    verdicts.write_text("")
    done = subprocess.run(
        [sys.executable, "-P", __file__, verdicts, *plans],
        capture_output=True,
        check=False,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    lines = verdicts.read_text().splitlines()
    told = f"{plans[min(len(lines), len(plans) - 1)]}: exit {done.returncode}"
    assert (done.returncode, done.stdout) == (0, b""), (told, done.stderr[-2000:])
    # ONNX Runtime's allocator has a logger of the whole process, which is not ours to silence.
    assert not done.stderr or b"[E:onnxruntime:Default" in done.stderr, done.stderr[-2000:]
    assert len(lines) == len(plans)
    return lines


def _ask(path: str) -> str:
    import pengi_rt

    try:
        with pengi_rt.load(path, threads=1) as engine:
            rate, size = pengi_config(engine.config).mel.sample_rate, engine.config.clip_samples
            clip = np.random.default_rng(0).uniform(-0.5, 0.5, size).astype(np.float32)
            text = engine.generate((clip, rate), beam_size=2, max_new_tokens=3).text
    except pengi_rt.PengiError as error:
        return f"{type(error).__name__}: {error}"
    return f"answer: {text!a}"


def main(verdicts: str, *plans: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS * len(plans), SECONDS * len(plans)))
    with Path(verdicts).open("a") as file:
        for plan in plans:
            print(_ask(plan), file=file, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
