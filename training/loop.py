"""The training loop of every stage: steps, losses, resume states, and the final checkpoint."""

import json
import logging
import math
import signal
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.models.checkpoint_writer import check_checkpoint_place, save_checkpoint
from pengi_rt.system.files import replacing
from pengi_rt.system.quote import one_line
from pengi_rt.training.config import TrainConfig
from pengi_rt.training.data import Positions, make_loader
from pengi_rt.training.errors import TrainingError
from pengi_rt.training.initialize import set_trained
from pengi_rt.training.run_folder import CHECKPOINT, CONFIG, METRICS, STATES
from pengi_rt.training.run_lock import only_run
from pengi_rt.training.schedule import make_optimizer, make_schedule
from pengi_rt.training.setup import Prepared, prepare
from pengi_rt.training.state import (
    latest_state,
    load_state,
    refuse_other_config,
    save_state,
)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TrainingRun:
    """A run in progress."""

    config: TrainConfig
    prepared: Prepared
    accelerator: Accelerator
    stage: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    step: int = 0
    stop_requested: bool = False  # this process received a signal
    stop: bool = False  # all processes leave the loop after this step
    sums: dict[str, float] = field(default_factory=dict)  # losses since the last report

    @property
    def root(self) -> Path:
        """The folder that the run writes to."""
        return Path(self.config.output_dir)


def train(config: TrainConfig, *, resume: bool = False) -> Path:
    """Run a stage to its end and return its checkpoint.

    If it is interrupted (SIGINT, SIGTERM), it finishes its step and writes a resume state.

    Args:
        config: the run.
        resume: continue from the newest complete state instead of starting.

    Raises:
        PengiError: something is wrong with the config or the data; raised before the first step.
        TrainingError: a state cannot be written, or a loss is not finite.
        KeyboardInterrupt: the run was interrupted; its state has been written.
    """
    with only_run(Path(config.output_dir), resume=resume):
        return _train(config, resume=resume)


def _train(config: TrainConfig, *, resume: bool) -> Path:
    checkpoint = Path(config.output_dir) / CHECKPOINT
    run = _start(config)
    if resume:
        _resume(run)
    if run.accelerator.is_main_process:
        _open_folder(run, resume=resume)
    with _stopping(run), _workers_watched(), _progress(run) as bar:
        _steps(run, bar)
    if run.accelerator.is_main_process and not run.stop:
        _save(run, checkpoint)
    run.accelerator.wait_for_everyone()
    run.accelerator.end_training()
    if run.stop:
        raise KeyboardInterrupt
    return checkpoint


def _save(run: TrainingRun, checkpoint: Path) -> None:
    try:
        save_checkpoint(run.prepared.model, checkpoint, run.prepared.tokenizers)
    except CheckpointError as error:
        error.add_note("the last state is whole: mend that, and write it with --resume")
        raise


def _start(config: TrainConfig) -> TrainingRun:
    accelerator = _accelerator(config)
    torch.set_flush_denormal(True)  # a decaying Adam state becomes denormal, which is slow on CPUs
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    with accelerator.main_process_first():  # the others then find its caches
        prepared = prepare(config)
    torch.manual_seed(config.seed + accelerator.process_index)
    optimizer = make_optimizer(prepared.stage, config.optimizer)
    schedule = make_schedule(optimizer, config.optimizer, config.run.steps)
    stage, optimizer, schedule = accelerator.prepare(prepared.stage, optimizer, schedule)
    if config.run.batch_size % (config.run.accumulate * accelerator.num_processes):
        raise UsageError(
            f"run.batch_size ({config.run.batch_size}) must be a multiple of accumulate "
            f"({config.run.accumulate}) times processes ({accelerator.num_processes})"
        )
    return TrainingRun(config, prepared, accelerator, stage, optimizer, schedule)


def _accelerator(config: TrainConfig) -> Accelerator:
    device = config.run.device
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("run.device is cuda, but PyTorch sees no CUDA device here; say cpu")
    precision = {"fp32": "no"}.get(config.run.precision, config.run.precision)
    if precision == "fp16" and (device == "cpu" or not torch.cuda.is_available()):
        raise UsageError("run.precision is fp16, which needs a CUDA device; say bf16, or fp32")
    if config.run.tensorboard and not is_tensorboard_available():
        raise UsageError("run.tensorboard needs a package: pip install tensorboard")
    accelerator = Accelerator(
        cpu=device == "cpu",
        mixed_precision=precision,
        gradient_accumulation_steps=config.run.accumulate,
        step_scheduler_with_optimizer=False,
        log_with="tensorboard" if config.run.tensorboard else None,
        project_dir=config.output_dir,
    )
    if config.run.tensorboard:
        accelerator.init_trackers(config.stage)
    return accelerator


def _resume(run: TrainingRun) -> None:
    state = latest_state(run.root / STATES)
    if state is None:
        where = one_line(str(run.root / STATES))
        raise TrainingError(f"{where}: holds no intact state; start in another folder")
    refuse_other_config(state, run.config)
    load_state(run.accelerator, state)
    run.step, run.sums = state.step, state.sums


def _open_folder(run: TrainingRun, *, resume: bool) -> None:
    """Prepare the run's folder; drop the metrics of a run that died before its first state."""
    try:
        run.root.mkdir(parents=True, exist_ok=True)
        with replacing(run.root / CONFIG) as file:
            file.write(run.config.to_json().encode())
        _cut_metrics(run.root / METRICS, run.step if resume else 0)
        check_checkpoint_place(run.root / CHECKPOINT, run.prepared.tokenizers)
    except OSError as error:
        where = one_line(str(run.root))
        raise TrainingError(f"{where}: cannot be written: {error.strerror or error}") from None


def _steps(run: TrainingRun, bar: tqdm) -> None:
    options = run.config.run
    batches = iter(_loader(run))
    said = time.perf_counter()
    while run.step < options.steps and not run.stop:
        _step(run, batches)
        run.step += 1
        run.stop = _should_stop(run)
        bar.update()
        last = run.step == options.steps
        if run.step % options.log_every == 0 or last:
            now = time.perf_counter()
            _say(run, bar, now - said)
            said = now
        if options.validate_every and (run.step % options.validate_every == 0 or last):
            _validate(run)
        if run.step % options.save_every == 0 or last or run.stop:
            save_state(run.accelerator, run.root / STATES, run.step, run.config, run.sums)


def _should_stop(run: TrainingRun) -> bool:
    """Whether to stop after this step. Collective: a signal to one process stops all."""
    if run.accelerator.num_processes == 1:
        return run.stop_requested
    if run.stop_requested:
        run.accelerator.set_trigger()
    return bool(run.accelerator.check_trigger())


def _loader(run: TrainingRun) -> Any:
    options, accelerator = run.config.run, run.accelerator
    positions = Positions(
        start=run.step * options.accumulate,
        stop=options.steps * options.accumulate,
        size=options.batch_size // (options.accumulate * accelerator.num_processes),
        rank=accelerator.process_index,
        world=accelerator.num_processes,
    )
    return make_loader(run.prepared.data, positions, run.config.data.workers)


def _step(run: TrainingRun, batches: Iterator[Any]) -> None:
    accelerator, clip_norm = run.accelerator, run.config.optimizer.clip_norm
    for _ in range(run.config.run.accumulate):
        batch = _on_device(next(batches), accelerator.device)
        with accelerator.accumulate(run.stage), _attention(accelerator.device):
            losses = run.stage(batch)
            accelerator.backward(losses["loss"])
            if accelerator.sync_gradients and clip_norm:
                accelerator.clip_grad_norm_(run.stage.parameters(), clip_norm)
            run.optimizer.step()
            run.optimizer.zero_grad()
        for name, value in losses.items():
            run.sums[name] = run.sums.get(name, 0.0) + float(value.detach())
    run.sums["steps"] = run.sums.get("steps", 0) + 1
    if not math.isfinite(run.sums["loss"]):
        states = one_line(str(run.root / STATES))
        raise TrainingError(
            f"the loss is not finite at step {run.step + 1}: lower optimizer.rate, or clip the "
            f"gradient (optimizer.clip_norm); the states in {states} are from before"
        )
    run.schedule.step()


def _attention(device: torch.device) -> AbstractContextManager[None]:
    """Plain attention on the CPU: in bf16 PyTorch's fused attention is six times slower there."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _on_device(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, tuple):
        return tuple(part.to(device) for part in batch)
    return batch.to(device)


def _say(run: TrainingRun, bar: tqdm, seconds: float) -> None:
    options = run.config.run
    steps = run.sums.pop("steps")
    means = {name: total / steps / options.accumulate for name, total in run.sums.items()}
    run.sums.clear()
    rate = float(run.schedule.get_last_lr()[0])
    speed = steps * options.batch_size / seconds
    bar.set_postfix_str(f"loss {means['loss']:.3f}  rate {rate:.1e}  {speed:.0f} clips/s")
    _record(run, {**means, "rate": rate, "clips_per_second": round(speed, 1)})


def _validate(run: TrainingRun) -> None:
    """Record the mean loss over the first batches of the validation set."""
    assert run.prepared.validation is not None
    options = run.config.run
    positions = Positions(start=0, stop=options.validation_batches, size=options.batch_size)
    totals: dict[str, float] = {}
    run.prepared.stage.eval()
    with torch.no_grad():
        for batch in make_loader(run.prepared.validation, positions, 0):
            with _attention(run.accelerator.device):
                losses = run.stage(_on_device(batch, run.accelerator.device))
            for name, value in losses.items():
                totals[name] = totals.get(name, 0.0) + float(value)
    run.prepared.stage.train()
    set_trained(run.prepared.model, run.config.trained)
    means = {f"validation_{name}": value / len(positions) for name, value in totals.items()}
    _record(run, means)
    logger.info("step %d: %s", run.step, means)


def _record(run: TrainingRun, values: dict[str, float]) -> None:
    run.accelerator.log(values, step=run.step)
    if run.accelerator.is_main_process:
        path = run.root / METRICS
        try:
            with path.open("a") as file:
                file.write(json.dumps({"step": run.step, **values}) + "\n")
        except OSError as error:
            raise TrainingError(
                f"{one_line(str(path))}: cannot be written ({error.strerror or error}); free space "
                "and continue with --resume"
            ) from None


def _cut_metrics(path: Path, step: int) -> None:
    """Drop the metrics recorded after the state that the run resumes from, and a torn line."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line[-1] == "\n"]
        with replacing(path) as file:
            kept = (line for line in lines if json.loads(line)["step"] <= step)
            file.writelines(line.encode() for line in kept)


def _progress(run: TrainingRun) -> tqdm:
    options = run.config.run
    return tqdm(
        total=options.steps,
        initial=run.step,
        unit="step",
        desc=run.config.stage,
        disable=None if run.accelerator.is_main_process else True,
    )


@contextmanager
def _workers_watched() -> Iterator[None]:
    """Report a dead worker in one line; PyTorch may raise its error anywhere, by a signal."""
    try:
        yield
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        if not first.startswith("DataLoader worker"):
            raise
        raise TrainingError(
            f"a process that reads data died: {first}; continue with --resume (data.workers may "
            "change)"
        ) from None


@contextmanager
def _stopping(run: TrainingRun) -> Iterator[None]:
    """SIGINT and SIGTERM end the run after its step; a second signal ends it at once."""

    def ask(number: int, _frame: FrameType | None) -> None:
        run.stop_requested = True
        signal.signal(number, before[signal.Signals(number)])
        logger.warning("stopping after step %d, with a state to resume from", run.step + 1)

    before: dict[signal.Signals, Any] = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, ask)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
