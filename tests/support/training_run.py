"""Tiny training runs: four clips, a model of 100 000 weights, steps of a few milliseconds."""

import json
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import soundfile
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor

from pengi_rt.cli.main import main
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.tiny import make_tokenizers
from pengi_rt.training import loop, run_folder
from pengi_rt.training.config import OptimizerConfig, TrainConfig, read_config

RATE = 16_000  # Hz, the tiny model's
CLIPS = 4

MODEL: dict[str, Any] = {
    "preset": "tiny",
    "clip_seconds": 0.5,
    "htsat": {"spec_size": 32, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]},
    "text": {"num_layers": 1},
    "d_proj": 16,
    "audio_mapper": {"prefix_length": 3, "constant_length": 3},
    "text_mapper": {"prefix_length": 2, "constant_length": 2},
    "decoder": {"n_embd": 16, "n_layer": 1},
}
"""The ``[model]`` table of every run here."""

AUGMENT: dict[str, Any] = {
    "time_drop_width": 8,
    "freq_drop_width": 4,
    "mixup_alpha": 0.5,
    "drop_path": 0.3,
    "gain_db": 3.0,
}
"""Everything random that a run can do at this size."""

SAID = (
    ("a dog barks loudly!", "dog"),
    ("rain falls on a tin roof", "rain"),
    ("a siren passes by", "siren"),
    ("an engine hums quietly in the background", "engine"),
)


def write_clips(folder: Path, count: int = CLIPS) -> Path:
    """A manifest of ``count`` short recordings, three rows each; some longer than a clip."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    lines: list[dict[str, object]] = []
    for index in range(count):
        caption, name = SAID[index % len(SAID)]
        samples = rng.uniform(-0.5, 0.5, RATE * (1 + index % 3) // 2)
        soundfile.write(folder / f"{index}.wav", samples.astype(np.float32), RATE)
        heard = {
            "audio": f"{index}.wav",
            "tags": [[name, 0.0, 0.3], "indoors"],
            "transcript": f"{name} loud",
        }
        lines += [
            {"task": "caption", "caption": f"{caption} {index}", **heard},
            {"task": "events", "events": [name, f"thing {index}"], **heard},
            {"task": "qa", "question": f"what is {index}?", "answer": name, **heard},
        ]
    return write_rows(folder / "manifest.jsonl", lines)


def write_rows(path: Path, lines: "list[dict[str, object]]") -> Path:
    """A manifest."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def write_tokenizers(folder: Path) -> Path:
    """The tiny model's tokenizers, as a run's ``tokenizers``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in make_tokenizers(PengiConfig.preset("tiny")).items():
        (folder / f"{name}.json").write_bytes(data)
    return folder


def toml(table: Mapping[str, Any], path: str = "") -> str:
    """A TOML document of tables, strings, numbers, booleans and lists of these."""
    tables = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    lines = [f"{key} = {json.dumps(table[key])}" for key in table if key not in tables]
    header = [f"[{path}]"] if path else []
    inner = [toml(value, f"{path}.{key}".lstrip(".")) for key, value in tables.items()]
    return "\n".join([*header, *lines, *inner])


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with ``changes`` applied, table by table; None removes a key."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            result[key] = merged(old, value)
        else:
            result[key] = value
    return {key: value for key, value in result.items() if value is not None}


class Workshop:
    """A folder with data and tokenizers, where runs are configured, started and interrupted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.manifest = write_clips(root / "data")
        self.tokenizers = write_tokenizers(root / "tokenizers")

    def table(self, stage: str, output: str, **changes: Any) -> dict[str, Any]:
        """The tables of a run's file: ``changes`` on top of the defaults."""
        base = {
            "stage": stage,
            "output_dir": str(self.root / output),
            "tokenizers": str(self.tokenizers),
            "seed": 3,
            "data": {"manifests": [str(self.manifest)]},
            "augment": {"spec_augment": False, "drop_path": 0.0},
            "optimizer": {"rate": 1e-2, "warmup_steps": 3},
            "run": {
                "steps": 6,
                "batch_size": 4,
                "device": "cpu",
                "threads": 1,
                "log_every": 2,
                "save_every": 2,
            },
            "model": MODEL,
        }
        return merged(base, changes)

    def write(self, stage: str, output: str, **changes: Any) -> Path:
        """A run's file."""
        path = self.root / f"{output}.toml"
        path.write_text(toml(self.table(stage, output, **changes)))
        return path

    def config(self, stage: str, output: str, **changes: Any) -> TrainConfig:
        """A run."""
        return read_config(self.write(stage, output, **changes))


class Killed(BaseException):
    """Stands in for SIGKILL: nothing of ours catches it."""


def train_until(config: TrainConfig, step: int, *, resume: bool = False) -> None:
    """Train, and die before step ``step`` (from 1) is taken."""
    real = loop._step

    def fatal(run: loop.TrainingRun, *rest: Any) -> None:
        if run.step + 1 == step:
            raise Killed
        real(run, *rest)

    try:
        with patch.object(loop, "_step", fatal):
            loop.train(config, resume=resume)
    except Killed:
        return
    finally:
        forget()
    raise AssertionError("the run ended before it was killed")


def train(config: TrainConfig, *, resume: bool = False) -> Path:
    """Train to the end in this process, and leave its settings as they were."""
    try:
        return loop.train(config, resume=resume)
    finally:
        forget()


def forget() -> None:
    """Undo the settings that accelerate and a run make for the whole process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()
    torch.set_flush_denormal(False)


def outcome(config: TrainConfig) -> tuple[bytes, list[dict[str, float]]]:
    """What two equal runs have in common: the checkpoint's bytes and the records."""
    root = Path(config.output_dir)
    lines = (root / run_folder.METRICS).read_text().splitlines()
    records: list[dict[str, float]] = [json.loads(line) for line in lines]
    for record in records:
        record.pop("clips_per_second", None)
    return (root / run_folder.CHECKPOINT).read_bytes(), records


def states(config: TrainConfig) -> list[str]:
    """The names of everything in the folder of resume states."""
    return sorted(path.name for path in (Path(config.output_dir) / run_folder.STATES).iterdir())


def weights(module: torch.nn.Module) -> dict[str, Tensor]:
    """A copy of a module's state."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def server() -> ForkServerContext:
    """Starts processes at once: their parent has already imported the trainer."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pengi_rt.training.loop"])
    return context


def start(
    target: Callable[..., None], *arguments: object, log: Path | None = None
) -> ForkServerProcess:
    """A process that leads its own group; its output goes to ``log``."""
    process = server().Process(target=_within, args=(target, arguments, log))
    process.start()
    return process


def _within(target: Callable[..., None], arguments: tuple[object, ...], log: Path | None) -> None:
    os.setsid()
    multiprocessing.set_start_method("fork", force=True)  # as in a process that a shell started
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    if log is not None:
        with log.open("wb", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
    target(*arguments)


def train_held(path: Path, step: int, marker: Path) -> None:
    """Runs ``pengi-rt train`` in a process that waits before ``step`` while a file exists."""
    real = loop._step

    def waiting(run: loop.TrainingRun, *rest: Any) -> None:
        if run.step + 1 == step:
            marker.touch()
            while marker.exists():
                time.sleep(0.01)
        real(run, *rest)

    with patch.object(loop, "_step", waiting):
        sys.exit(main(["train", str(path)]))


@contextmanager
def plain() -> Iterator[None]:
    """Runs without what makes many processes differ from one, or sums of floats from others.

    Dropout draws other masks in every process; batch norm has each process's own statistics; Adam
    divides by the gradient, so where that is zero but for rounding the step is all rounding.
    """
    real = loop._start

    def start_plain(config: TrainConfig) -> loop.TrainingRun:
        run = real(config)
        for module in run.prepared.stage.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
            if isinstance(module, torch.nn.BatchNorm1d):
                module.eval()
        return run

    def descent(module: torch.nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
        trained = [value for value in module.parameters() if value.requires_grad]
        return torch.optim.SGD(trained, lr=config.rate)

    with patch.object(loop, "_start", start_plain), patch.object(loop, "make_optimizer", descent):
        yield


def train_together(path: Path, *options: str, undisturbed: bool = False) -> None:
    """Runs ``pengi-rt train`` in a process, as ``torchrun`` starts it."""
    with plain() if undisturbed else nullcontext():
        sys.exit(main(["train", str(path), *options]))


def start_world(
    path: Path, *options: str, logs: Path, undisturbed: bool = False, hold: int = 0
) -> list[ForkServerProcess]:
    """Two processes that train together; with ``hold``, they wait before that step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        start(
            _of_world,
            {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
            },
            (path, hold, logs / f"held-{rank}") if hold else (path, *options),
            undisturbed,
            log=logs / f"log-{rank}",
        )
        for rank in range(2)
    ]


def _of_world(environment: dict[str, str], arguments: tuple[Any, ...], undisturbed: bool) -> None:
    os.environ.update(environment)
    if len(arguments) == 3 and isinstance(arguments[1], int):
        train_held(*arguments)
    train_together(*arguments, undisturbed=undisturbed)


VARIANTS: dict[str, dict[str, Any]] = {
    "released": {},
    "mlp": {"audio_mapper": {"kind": "mlp"}, "text_mapper": {"kind": "mlp"}},
    "time": {"htsat": {"pooling": "time"}, "audio_mapper": {"kind": "transformer_time"}},
    "exp A": {"text": {"kind": "decoder", "max_length": 12}},
    "exp B": {
        "text": {"kind": "token_embedding", "max_length": 12, "suffix": " <|endoftext|>"},
        "text_mapper": {"kind": "transformer_seq"},
    },
}
"""Changes to :data:`MODEL` that make the paper's variants and ours."""


def variant(name: str) -> dict[str, Any]:
    """The ``[model]`` table of one of :data:`VARIANTS`."""
    return merged(MODEL, VARIANTS[name])
