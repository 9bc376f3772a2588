"""Small plans, and files that are not plans, for tests of code that reads or shows them."""

import dataclasses
import json
import re
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pengi_rt.config.parts import DecoderConfig
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.plan.manifest import MANIFEST, Source
from pengi_rt.plan.writer import PlanWriter
from pengi_rt.plan.zip_container import Entry, directory, local_header

# The tiny model's, except for a decoder with small tables.
CONFIG = dataclasses.replace(
    PengiConfig.preset("tiny"),
    decoder=DecoderConfig(vocab_size=256, n_positions=96, n_embd=8, n_layer=1, n_head=2),
)
SELF_TEST = {
    "passed": True,
    "checks": [
        {"stage": "audio prefix", "batch": 1, "difference": 2e-7, "tolerance": 1e-4, "passed": True}
    ],
}
ENTRIES = {
    "graphs/audio.onnx": b"\x08\x0a audio",
    "graphs/text.onnx": b"\x08\x0a text",
    "graphs/decoder.onnx": b"\x08\x0a decoder",
    "tokenizers/text.json": b'{"of": "text"}',
    "tokenizers/decoder.json": b'{"of": "decoder"}',
    "licences/MIT.txt": b"Permission is hereby granted",
}


def tensors() -> dict[str, NDArray[Any]]:
    """Every element type, every kind of equality, and unusual memory layouts."""
    rng = np.random.default_rng(7)
    table = rng.standard_normal((256, 8)).astype(np.float32)
    return {
        "decoder.wte.weight": table,
        "decoder.wpe.weight": table[:96].astype(">f4"),  # big-endian
        "same": table.copy(),
        "flat": table.reshape(-1).copy(),
        "turned": table.T,
        "every_other": table[::2, ::3],
        "scalar": np.array(-0.0, np.float32),
        "half": table[:5, :7].astype(np.float16),
        "ids": np.arange(-3, 4),
        "ids32": np.arange(5, dtype=np.int32),
        "quantized": rng.integers(-128, 128, (3, 3), np.int8),
        "bytes": rng.integers(0, 256, 4097, np.uint8),
        "mask": np.array([[True, False, True]]),
        "odd values": np.array([np.nan, np.inf, -np.inf, 1e-45], np.float32),
    }


def write(path: Path, *, graphs: bool = True) -> Path:
    """A plan with all kinds of entries, about 100 kB."""
    with PlanWriter(
        path,
        CONFIG,
        source=Source(file="tiny.pth", sha256="0123456789abcdef" * 4),
        tools={"pengi-rt": "0.1.0", "torch": "2.13.0"},
        backends=("onnx", "torch") if graphs else ("torch", "triton"),
    ) as writer:
        fill(writer, graphs=graphs)
        writer.seal(self_test=SELF_TEST)
        return writer.commit()


def fill(writer: PlanWriter, *, graphs: bool = True) -> None:
    """Add every tensor and every entry, so that the plan can be sealed."""
    writer.add_tensors(tensors())
    add_entries(writer, graphs=graphs)


def add_entries(writer: PlanWriter, *, graphs: bool = True) -> None:
    """Add every entry except the tensors."""
    for name, data in ENTRIES.items():
        if graphs or not name.startswith("graphs/"):
            writer.add(name, data)


def contents(path: Path) -> dict[str, bytes]:
    """The entries of a plan, read by zipfile instead of our reader."""
    import zipfile

    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def pack(path: Path, entries: Iterable[tuple[str, bytes]]) -> Path:
    """A container in our form around any entries; every checksum in it is correct."""
    written: list[Entry] = []
    with path.open("wb") as file:
        for name, data in entries:
            entry = Entry(name, written[-1].end if written else 0, len(data), zlib.crc32(data))
            file.write(local_header(entry) + data)
            written.append(entry)
        file.write(directory(written))
    return path


def edit_manifest(path: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """Rewrite ``plan.json`` with ``edit``, keeping the container valid."""
    entries = contents(path)
    data = json.loads(entries[MANIFEST])
    edit(data)
    entries[MANIFEST] = json.dumps(data).encode()
    return pack(path, entries.items())


def one_line(message: str) -> bool:
    """Whether an error message is one printable line of reasonable length."""
    return message.isprintable() and len(message) < 500 and re.search(r"\s{2}", message) is None
