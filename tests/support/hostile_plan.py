"""Plans as a stranger could write them: whatever is changed in one, every checksum holds again."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import toy_plan

from pengi_rt.plan_format import MANIFEST, graph_entry, tokenizer_entry


def resigned(source: Path, target: Path, changed: Mapping[str, bytes]) -> Path:
    """The plan ``source`` with other bytes in some entries, written to ``target``."""
    entries = toy_plan.contents(source) | dict(changed)
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
