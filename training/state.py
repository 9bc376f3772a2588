"""Resume states of a run: written completely or not at all, and checked before they are used.

``OUTPUT/state/step-00001000/`` holds what accelerate saves (weights, optimizer, schedule, scaler,
every process's random generators) and ``run.json``: the step, the run's config, the losses not yet
recorded, and the SHA-256 of every other file and of itself. The folder gets its name when all of it
is on the disk, so a kill or a full disk leaves the earlier states as they were. A state that was
damaged later does not match its digests, and the one before it is used.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError

from pengi_rt.system.files import file_sha256, move_into_place, sync
from pengi_rt.system.quote import LONGEST_PATH, one_line
from pengi_rt.training.config import TrainConfig
from pengi_rt.training.errors import TrainingError

logger = logging.getLogger(__name__)

RECORD = "run.json"
HARMLESS = {
    "run": ("save_every", "keep", "log_every", "tensorboard", "threads"),
    "data": ("workers",),
}
"""Keys, by table, that may change between a run and its resumption."""


@dataclass(frozen=True, slots=True)
class State:
    """A resume state on the disk whose files match their digests."""

    folder: Path
    step: int
    config: dict[str, Any]
    generator: str  # digest of the first process's random generator
    sums: dict[str, float]  # losses since the last record


def save_state(
    accelerator: Accelerator, root: Path, step: int, config: TrainConfig, sums: Mapping[str, float]
) -> None:
    """Write the state after ``step``, and keep only the newest ``run.keep`` states. Collective.

    Raises:
        TrainingError: it cannot be written; older states are untouched.
    """
    partial, final = root / f".step-{step:08d}.partial", root / _name(step)
    try:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            _seal(partial, step, config, sums)
            shutil.rmtree(final, ignore_errors=True)
            move_into_place(partial, final)
    except (OSError, RuntimeError, SafetensorError) as error:
        # PyTorch and safetensors report a full disk with their own errors.
        shutil.rmtree(partial, ignore_errors=True)
        raise TrainingError(
            f"{one_line(str(final))}: cannot be written ({_first_line(error)}); {_older(root)}"
        ) from None
    if accelerator.is_main_process:
        _remove_others(root, final, config.run.keep)
    accelerator.wait_for_everyone()


def has_states(root: Path) -> bool:
    """Whether there is a state, intact or not; a first save that failed leaves none."""
    return bool(_folders(root))


def latest_state(root: Path) -> State | None:
    """The newest intact state, or None; a warning is logged for each damaged one."""
    for folder in _folders(root):
        try:
            return _verified(folder)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            where = one_line(str(folder))
            logger.warning("%s: is torn (%s); trying the one before", where, _first_line(error))
    return None


def load_state(accelerator: Accelerator, state: State) -> None:
    """Restore everything as it was after ``state.step``. Collective.

    Raises:
        TrainingError: it cannot be restored.
    """
    try:
        accelerator.load_state(str(state.folder))
    except Exception as error:  # noqa: BLE001 - every file has a reader of its own
        raise TrainingError(
            f"{one_line(str(state.folder))}: cannot be loaded ({_first_line(error)}); remove it to "
            "go on from the one before"
        ) from None
    # accelerate skips generators that it cannot read; the run would then continue differently.
    if accelerator.is_main_process and _generator() != state.generator:
        where = one_line(str(state.folder))
        raise TrainingError(f"{where}: its random generators could not be restored")


def refuse_other_config(state: State, config: TrainConfig) -> None:
    """Refuse a config that differs from the one the run began with.

    Raises:
        TrainingError: a value that changes what the run computes differs; the message names it.
    """
    now = json.loads(config.to_json())
    for config_of in (now, state.config):
        for table, keys in HARMLESS.items():
            for key in keys:
                config_of.get(table, {}).pop(key, None)
    changed = sorted(_differences(state.config, now))
    if changed:
        raise TrainingError(
            f"{one_line(str(state.folder))}: was written by another config: "
            f"{'; '.join(changed[:3])}"
            f"{' ...' if len(changed) > 3 else ''}; restore it, or take another output_dir"
        )


def _differences(before: Any, now: Any, where: str = "") -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = before.keys() | now.keys()
        return [
            found
            for key in keys
            for found in _differences(before.get(key), now.get(key), f"{where}.{key}".lstrip("."))
        ]
    if before == now:
        return []
    was, now_is = (one_line(repr(value), LONGEST_PATH) for value in (before, now))
    return [f"{where} was {was}, is {now_is}"]


def _seal(folder: Path, step: int, config: TrainConfig, sums: Mapping[str, float]) -> None:
    files = {}
    for path in sorted(folder.iterdir()):
        files[path.name] = file_sha256(path)
        sync(path)
    record = {
        "step": step,
        "config": json.loads(config.to_json()),
        "generator": _generator(),
        "sums": dict(sums),
        "files": files,
    }
    path = folder / RECORD
    path.write_text(json.dumps({**record, "record": _digest(record)}, indent=1))
    sync(path)
    sync(folder)


def _verified(folder: Path) -> State:
    record = json.loads((folder / RECORD).read_bytes())
    if record.pop("record") != _digest(record):
        raise ValueError(f"{RECORD} is not what was written")
    for name, digest in record["files"].items():
        if Path(name).name != name or file_sha256(folder / name) != digest:
            raise ValueError(f"{name} is not what was written")
    return State(
        folder=folder,
        step=int(record["step"]),
        config=dict(record["config"]),
        generator=str(record["generator"]),
        sums=dict(record["sums"]),
    )


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _generator() -> str:
    return hashlib.sha256(torch.get_rng_state().numpy().tobytes()).hexdigest()


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _folders(root: Path) -> list[Path]:
    """Newest first."""
    return sorted(root.glob("step-*"), reverse=True)


def _remove_others(root: Path, newest: Path, keep: int) -> None:
    """Keep ``newest`` and those before it, ``keep`` in all.

    Later states are damaged: the run would have continued from them otherwise.
    """
    kept = [folder for folder in _folders(root) if folder.name <= newest.name][:keep]
    for folder in (*_folders(root), *root.glob(".step-*.partial")):
        if folder not in kept:
            shutil.rmtree(folder, ignore_errors=True)


def _older(root: Path) -> str:
    state = latest_state(root)
    if state is None:
        return "no state was written before it; free space and start again"
    return f"{state.folder.name} is intact: free space and continue with --resume"


def _first_line(error: BaseException) -> str:
    return one_line((str(error) or type(error).__name__).splitlines()[0])
