"""Checkpoints in: the published files and our own become a model, or one line says why not.

Our own layout is one ``NAME.safetensors`` with the config as JSON under ``pengi_rt`` in its
metadata, and the tokenizers in ``tokenizers/`` beside it (:mod:`pengi_rt.models.checkpoint` writes
it). The published layout is in :mod:`pengi_rt.export.published`.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pengi_rt.config import ModelConfig
from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.export import published
from pengi_rt.export.torch_file import read_torch_file
from pengi_rt.models.checkpoint import METADATA_KEY, TOKENIZERS
from pengi_rt.models.pengi import Pengi

SHOWN = 5
"""How many keys a refusal names."""

# A safetensors file starts with its header's length (8 bytes, little-endian) and the header.
_SAFETENSORS = re.compile(rb".{4}\0{4}\{", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that was read and checked.

    Attributes:
        config: the model that it is.
        state: every tensor of :class:`Pengi` by its name there, float32, possibly mapped from the
            file.
        sha256: of the file.
        tokenizers: the folder that travels with our own checkpoints, if there is one.
        notes: what a user may want to know: keys left out, tensors converted.
    """

    config: ModelConfig
    state: Mapping[str, Tensor]
    sha256: str
    tokenizers: Path | None
    notes: tuple[str, ...]


def load_model(path: Path) -> tuple[Pengi, Checkpoint]:
    """The model of a checkpoint, in evaluation mode. Raises as :func:`read_checkpoint`."""
    read = read_checkpoint(path)
    with _WithoutInitialisation():
        model = Pengi(read.config)
    model.load_state_dict(read.state, assign=True)
    return model.eval(), read


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a published checkpoint or one of our own.

    Raises:
        CheckpointError: it cannot be read, is something else, holds anything but tensors, lacks a
            key, has one too many or one of another shape or type, or holds NaN or infinity.
    """
    try:
        _refuse_what_is_no_file(path)
        with path.open("rb") as file:
            own = _SAFETENSORS.match(file.read(9)) is not None
            file.seek(0)
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        config, tensors, notes = _read_own(path) if own else _read_published(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    state, conversions = _checked(path, tensors)
    folder = path.parent / TOKENIZERS
    tokenizers = folder if own and folder.is_dir() else None
    return Checkpoint(config, state, sha256, tokenizers, (*notes, *conversions))


def _refuse_what_is_no_file(path: Path) -> None:
    if path.is_dir():
        raise CheckpointError(f"{path}: a folder; give the checkpoint file in it")
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such file; pengi-rt pull base fetches the published checkpoint"
        )
    if not path.is_file():
        raise CheckpointError(f"{path}: no regular file")
    if not path.stat().st_size:
        raise CheckpointError(f"{path}: empty: the download went wrong; fetch it again")


def _read_own(path: Path) -> tuple[ModelConfig, dict[str, Tensor], list[str]]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CheckpointError(f"{path}: damaged ({error}): copy or fetch it again") from error
    if METADATA_KEY not in metadata:
        raise CheckpointError(
            f"{path}: safetensors, but none of ours: its metadata has no {METADATA_KEY!r}"
        )
    try:
        config = ModelConfig.from_json(metadata[METADATA_KEY])
    except UsageError as error:
        raise CheckpointError(f"{path}: its model config cannot be read: {error}") from error
    _refuse_other_keys(path, tensors, expected_shapes(path, config), {})
    return config, tensors, []


def _read_published(path: Path) -> tuple[ModelConfig, dict[str, Tensor], list[str]]:
    found = _model_of(path, read_torch_file(path))
    keys = published.sort_keys(found)
    config = published.preset_of(found)
    names = {name: key for key, name in keys.renamed.items()}
    shapes = expected_shapes(path, config)
    tensors = {name: found[key] for name, key in names.items()}
    shown = {name: published.published_name(name) for name in (*shapes, *tensors)}
    _refuse_other_keys(path, tensors, shapes, shown, keys.unknown)
    _refuse_untied(path, found)
    return config, tensors, _about_dropped(keys.dropped)


def _model_of(path: Path, content: object) -> dict[str, Tensor]:
    """The flat ``{key: tensor}`` under ``model``, without ``module.`` in front of the keys."""
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        what = (
            f"a dict of {_some(map(str, content))}"
            if isinstance(content, dict)
            else f"a {type(content).__name__}"
        )
        raise CheckpointError(
            f"{path}: not the published layout: {what}, not {{'model': state_dict}}"
        )
    others = [str(key) for key, value in model.items() if not _is_plain(key, value)]
    if others:
        raise CheckpointError(f"{path}: these are no dense tensors: {_some(others)}")
    # DataParallel's prefix; either all keys have it or it is part of a wrong name.
    wrapped = all(key.startswith("module.") for key in model)
    return {key.removeprefix("module.") if wrapped else key: model[key] for key in model}


def _is_plain(key: object, value: object) -> bool:
    return (
        isinstance(key, str)
        and isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def expected_shapes(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The model's own state, as tensors without memory.

    Raises:
        CheckpointError: no model can be built by ``config``.
    """
    try:
        with torch.device("meta"):
            return Pengi(config).state_dict()
    except (UsageError, RuntimeError, ValueError) as error:
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{path}: its model config fits no model: {reason}") from error


def _refuse_other_keys(
    path: Path,
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    shown: Mapping[str, str],
    unknown: Sequence[str] = (),
) -> None:
    """Names, shapes and kinds of type must be the model's; ``shown`` has the file's own names."""
    missing = [shown.get(name, name) for name in expected if name not in tensors]
    extra = [*unknown, *(shown.get(name, name) for name in tensors if name not in expected)]
    wrong = [
        f"{shown.get(name, name)} {_form(tensors[name])} instead of {_form(want)}"
        for name, want in expected.items()
        if name in tensors and not _same_form(tensors[name], want)
    ]
    kinds = (("missing", missing), ("unexpected", extra), ("of another form", wrong))
    found = [f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in kinds if keys]
    if found:
        raise CheckpointError(f"{path}: not this model's keys: {'; '.join(found)}")


def _same_form(tensor: Tensor, want: Tensor) -> bool:
    return tensor.shape == want.shape and (
        tensor.dtype == want.dtype or (tensor.is_floating_point() and want.is_floating_point())
    )


def _form(tensor: Tensor) -> str:
    return f"{_type(tensor)}{list(tensor.shape)}"


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _refuse_untied(path: Path, found: Mapping[str, Tensor]) -> None:
    head, table = found.get(published.LM_HEAD), found[published.EMBEDDING]
    if head is not None and not torch.equal(head, table):
        raise CheckpointError(
            f"{path}: {published.LM_HEAD} differs from {published.EMBEDDING}; Pengi's decoder has "
            "one table for both"
        )


def _about_dropped(keys: Sequence[str]) -> list[str]:
    """One line about the keys left out, by kind: layer numbers as ``*``."""
    kinds = Counter(re.sub(r"\.\d+(?=\.)", ".*", key) for key in keys)
    if not kinds:
        return []
    counted = ", ".join(f"{kind} ({count})" for kind, count in kinds.items())
    return [f"left out {len(keys)} keys that Pengi does not use or computes itself: {counted}"]


def _checked(path: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Everything contiguous, floats in float32 and finite; says what was converted."""
    state: dict[str, Tensor] = {}
    converted: Counter[str] = Counter()
    for name, tensor in tensors.items():
        plain = tensor.detach()
        if plain.is_floating_point() and plain.dtype != torch.float32:
            converted[_type(plain)] += 1
            plain = plain.float()
        state[name] = plain.contiguous()
    broken = [name for name, tensor in state.items() if not _finite(tensor)]
    if broken:
        raise CheckpointError(f"{path}: NaN or infinity in {len(broken)} tensors: {_some(broken)}")
    return state, [f"{n} tensors were {kind}, now float32" for kind, n in converted.items()]


def _finite(tensor: Tensor) -> bool:
    """Whether all values are finite; the extremes propagate NaN, and need no second tensor."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return (", ".join(listed[:SHOWN]) or "nothing") + more


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves new parameters unwritten: drawing 320 million normals takes 5 s and is thrown away."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))
