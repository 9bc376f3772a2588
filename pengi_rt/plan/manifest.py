"""What a plan contains: the names of its entries, and ``plan.json`` as dataclasses.

The container is in ``zip_container``, the reader in ``reader``, the writer in ``writer``;
``consistency`` checks that the parts fit together.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from pengi_rt.config.choices import WEIGHTS_NAMES
from pengi_rt.config.family import FamilyConfig, FamilySpec, family_of, read_config
from pengi_rt.errors import PlanError, UsageError
from pengi_rt.system.quote import shown
from pengi_rt.system.strict_json import Limits, parse
from pengi_rt.system.version import __version__

FORMAT_VERSION = 1
ALIGNMENT = 4096  # bytes: of every entry in the file, of every tensor in weights.bin
MANIFEST = "plan.json"
WEIGHTS = "weights.bin"
ITEM_SIZES = {  # bytes
    "float32": 4,
    "float16": 2,
    "bfloat16": 2,
    "int64": 8,
    "int32": 4,
    "int8": 1,
    "uint8": 1,
    "bool": 1,
}
"""The element types of tensors, named as in NumPy and ml_dtypes; stored little-endian."""

MAX_RANK = 32  # NumPy 1.26's limit
MAX_COUNT = 2**63 - 1
MAX_NAME = 200  # characters of a tensor's name; base's longest has 60
LIMITS = Limits(characters=1 << 22, values=100_000)
"""The limits of ``plan.json``: about 25 times what base needs (154 kB, 4 700 values)."""

_MAX_NAMES = 16  # of graphs, of backends

_DIGEST = re.compile(r"[0-9a-f]{64}")
_LICENSE = re.compile(r"licences/[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def graph_entry(name: str) -> str:
    """The entry of the graph ``name``, e.g. ``graphs/audio.onnx``."""
    return f"graphs/{name}.onnx"


def tokenizer_entry(name: str) -> str:
    """The entry of the tokenizer ``name``, e.g. ``tokenizers/text.json``."""
    return f"tokenizers/{name}.json"


def scale_name(name: str) -> str:
    """The name of the float32 tensor that scales the int8 tensor ``name``."""
    return f"{name}.scale"


def is_entry_name(name: str, family: FamilySpec) -> bool:
    """Whether a plan of this format and family may hold an entry called ``name``."""
    graphs, tokenizers = map(graph_entry, family.graphs), map(tokenizer_entry, family.tokenizers)
    known = {MANIFEST, WEIGHTS, *graphs, *tokenizers}
    return name in known or _LICENSE.fullmatch(name) is not None


def aligned(offset: int) -> int:
    """The first multiple of :data:`ALIGNMENT` at or after ``offset``."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRecord:
    """One tensor inside ``weights.bin``; tensors with equal bytes share their offset."""

    offset: int  # bytes into weights.bin
    shape: tuple[int, ...]
    dtype: str  # a key of ITEM_SIZES
    sha256: str  # of its bytes

    @property
    def nbytes(self) -> int:
        """The tensor's size in bytes."""
        return math.prod(self.shape) * ITEM_SIZES[self.dtype]

    @classmethod
    def from_json(cls, data: object, where: str) -> Self:
        """A checked record. Raises like :meth:`Manifest.from_json`."""
        values = _object(data, _keys(cls), where)
        shape, dtype = values["shape"], values["dtype"]
        if not isinstance(shape, list) or len(shape) > MAX_RANK:
            raise PlanError(f"{where}.shape must be a list of at most {MAX_RANK} sizes")
        if not isinstance(dtype, str) or dtype not in ITEM_SIZES:
            raise PlanError(
                f"{where}.dtype must be one of {', '.join(ITEM_SIZES)}, got {shown(dtype)}"
            )
        record = cls(
            offset=_count(values["offset"], f"{where}.offset"),
            shape=tuple(_count(size, f"{where}.shape", least=1) for size in shape),
            dtype=dtype,
            sha256=_digest(values["sha256"], f"{where}.sha256"),
        )
        _count(record.nbytes, f"{where}: its size in bytes")
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRecord:
    """The size and the checksum of an entry of the container."""

    size: int  # bytes
    sha256: str

    @classmethod
    def from_json(cls, data: object, where: str) -> Self:
        """A checked record. Raises like :meth:`Manifest.from_json`."""
        values = _object(data, _keys(cls), where)
        return cls(
            size=_count(values["size"], f"{where}.size"),
            sha256=_digest(values["sha256"], f"{where}.sha256"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """The checkpoint that a plan was exported from."""

    file: str
    sha256: str

    @classmethod
    def from_json(cls, data: object, where: str) -> Self:
        """A checked record. Raises like :meth:`Manifest.from_json`."""
        values = _object(data, _keys(cls), where)
        return cls(
            file=_text(values["file"], f"{where}.file"),
            sha256=_digest(values["sha256"], f"{where}.sha256"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """``plan.json``. The generation defaults are in ``config.generation``."""

    format: int = FORMAT_VERSION
    config: FamilyConfig
    weights: str = "fp32"  # how the weights are stored; the backend chooses the arithmetic
    graphs: tuple[str, ...]
    backends: tuple[str, ...]
    tensors: Mapping[str, TensorRecord]
    entries: Mapping[str, EntryRecord]  # all but plan.json
    self_test: Mapping[str, Any] | None  # the result of export's check of the written plan
    tools: Mapping[str, str]  # package: version
    source: Source | None

    @property
    def tasks(self) -> tuple[str, ...]:
        """What the plan can do, given its config and its parts."""
        return family_of(self.config).tasks_of(self.parts)

    @property
    def parts(self) -> frozenset[str]:
        """The parts that the plan holds: some of :data:`pengi_rt.config.family.PARTS`."""
        return family_of(self.config).parts_of(self.config, self.networks)

    @property
    def networks(self) -> tuple[str, ...]:
        """The graphs whose weights the plan holds: its own, or all if it has no graphs."""
        return self.graphs or tuple(family_of(self.config).graphs)

    def to_json(self) -> str:
        """ASCII JSON text, from which :meth:`from_json` makes an equal manifest."""
        return json.dumps(dataclasses.asdict(self), indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """A manifest from ``plan.json``, checked key by key.

        Raises:
            PlanError: the text is not JSON of this schema, or has a different format version.
        """
        data = _parse(text)
        _check_format(data)
        values = _object(_with_present_keys(data), _keys(cls), MANIFEST)
        weights, self_test, source = (values[key] for key in ("weights", "self_test", "source"))
        if weights not in WEIGHTS_NAMES:
            raise PlanError(
                f"weights must be one of {', '.join(WEIGHTS_NAMES)}, got {shown(weights)}"
            )
        return cls(
            config=_config(values["config"]),
            weights=weights,
            graphs=_names(values["graphs"], "graphs"),
            backends=_names(values["backends"], "backends"),
            tensors={
                name: TensorRecord.from_json(record, f"tensors[{shown(name)}]")
                for name, record in _mapping(values["tensors"], "tensors").items()
            },
            entries={
                name: EntryRecord.from_json(record, f"entries[{shown(name)}]")
                for name, record in _mapping(values["entries"], "entries").items()
            },
            self_test=None if self_test is None else _mapping(self_test, "self_test"),
            tools={
                package: _text(version, f"tools[{shown(package)}]")
                for package, version in _mapping(values["tools"], "tools").items()
            },
            source=None if source is None else Source.from_json(source, "source"),
        )


def _parse(text: str | bytes) -> object:
    try:
        return parse(text, LIMITS)
    except ValueError as error:
        raise PlanError(f"{MANIFEST} {error}") from None


def _check_format(data: object) -> None:
    version = data.get("format") if isinstance(data, dict) else None
    if type(version) is not int or version < 1:
        raise PlanError(f"{MANIFEST} has an invalid plan format ({shown(version)})")
    if version != FORMAT_VERSION:
        raise PlanError(
            f"this plan has format {version}; pengi-rt {__version__} reads format "
            f"{FORMAT_VERSION}: upgrade pengi-rt, or export the checkpoint again"
        )


def _with_present_keys(data: object) -> object:
    """``data``, with ``weights`` renamed: plans from before 0.1.0 call it ``precision``."""
    if isinstance(data, dict) and "precision" in data and "weights" not in data:
        return {("weights" if key == "precision" else key): data[key] for key in data}
    return data


def _config(data: object) -> FamilyConfig:
    try:
        return read_config(data)
    except (UsageError, OverflowError) as error:
        raise PlanError(f"{MANIFEST}: {error}") from None


def _keys(cls: type) -> list[str]:
    return [field.name for field in dataclasses.fields(cls)]


def _mapping(data: object, where: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise PlanError(f"{where} must be an object, got {type(data).__name__}")
    longest = max(map(len, data), default=0)
    if longest > MAX_NAME:
        raise PlanError(f"{where} has a name of {longest} characters; the limit is {MAX_NAME}")
    return data


def _object(data: object, keys: list[str], where: str) -> dict[str, Any]:
    """``data`` as an object with exactly these keys."""
    values = _mapping(data, where)
    if values.keys() != set(keys):
        odd = shown(sorted(values.keys() ^ set(keys)))
        raise PlanError(f"{where} must have the keys {', '.join(keys)}; missing or unknown: {odd}")
    return values


def _count(value: object, where: str, *, least: int = 0) -> int:
    if type(value) is not int or not least <= value <= MAX_COUNT:
        raise PlanError(
            f"{where} must be a whole number from {least} to {MAX_COUNT}, got {shown(value)}"
        )
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise PlanError(f"{where} must be a string, got {type(value).__name__}")
    return value


def _digest(value: object, where: str) -> str:
    if _DIGEST.fullmatch(_text(value, where)) is None:
        raise PlanError(f"{where} must be 64 hexadecimal digits, got {shown(value)}")
    return str(value)


def _names(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise PlanError(f"{where} must be a list, got {type(value).__name__}")
    if len(value) > _MAX_NAMES:
        raise PlanError(f"{where} must be at most {_MAX_NAMES} names, got {len(value)}")
    return tuple(_text(item, where) for item in value)
