"""Killed anywhere and resumed, a run is bit for bit the one that was never touched."""

import errno
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_run import (
    AUGMENT,
    Killed,
    Workshop,
    outcome,
    start,
    states,
    train,
    train_held,
    train_until,
)

from pengi_rt.errors import UsageError
from pengi_rt.training import loop, state
from pengi_rt.training.config import TrainConfig
from pengi_rt.training.errors import TrainingError

Outcome = tuple[bytes, list[dict[str, float]]]

# All that is random, at once; and losses recorded every three steps, saved every two: a state
# falls between two records.
COMMON: dict[str, Any] = {
    "augment": AUGMENT | {"spec_augment": True},
    "optimizer": {"name": "adamw", "weight_decay": 0.1, "clip_norm": 1.0, "schedule": "cosine"},
    "run": {
        "steps": 7,
        "accumulate": 2,
        "save_every": 2,
        "log_every": 3,
        "validate_every": 4,
        "validation_batches": 2,
    },
}
STAGES: dict[str, dict[str, Any]] = {
    "contrastive": {"contrastive": {"tagging": 0.5}},
    "captioning": {"data": {"rows_per_clip": 2}},
    "language_model": {
        "train": ["decoder", "text_mapper", "text_encoder"],
        "language_model": {"reading": True, "prompts": ["encoder", "tokens"]},
    },
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("resume"))


def described(workshop: Workshop, stage: str, output: str, workers: int = 0) -> TrainConfig:
    data = {"workers": workers, "validation": [str(workshop.manifest)]}
    changes = {**COMMON, **STAGES[stage]}
    changes["data"] = data | changes.get("data", {})
    return workshop.config(stage, output, **changes)


@pytest.fixture(scope="module")
def untouched(workshop: Workshop) -> Callable[[str], Outcome]:
    """The outcome of a stage's run that nobody disturbed, without workers."""
    made: dict[str, Outcome] = {}

    def of(stage: str) -> Outcome:
        if stage not in made:
            config = described(workshop, stage, f"whole-{stage}")
            train(config)
            made[stage] = outcome(config)
        return made[stage]

    return of


def break_off(config: TrainConfig, kills: Sequence[int]) -> None:
    """Begin a run, and kill it before each of these steps; begun again, it goes on if it can."""
    for kill in kills:
        train_until(config, kill, resume=(Path(config.output_dir) / loop.STATES).exists())


# 1 and 2: before the first state. 3: at a state. 4 and 6: between two. 7: the last step.
@pytest.mark.parametrize("kills", [(2,), (3,), (4,), (7,), (1, 4, 4, 6)], ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed(
    stage: str,
    kills: tuple[int, ...],
    workshop: Workshop,
    untouched: Callable[[str], Outcome],
) -> None:
    """The long chain reads with a worker, the untouched run and the others without."""
    workers = int(len(kills) > 1)
    config = described(workshop, stage, f"{stage}-{'-'.join(map(str, kills))}", workers)
    break_off(config, kills)
    train(config, resume=(Path(config.output_dir) / loop.STATES).exists())
    assert outcome(config) == untouched(stage)


def test_the_run_is_random_and_its_state_is_more_than_weights(
    workshop: Workshop, untouched: Callable[[str], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the tests above would not notice if nothing in a run depended on it."""
    real = state.load_state
    losses = untouched("captioning")[1]

    def forgetful(run: loop.Run, forget: Callable[[loop.Run], object]) -> list[dict[str, float]]:
        def load(*arguments: Any) -> None:
            real(*arguments)
            forget(run)

        monkeypatch.setattr(loop, "load_state", load)
        loop._go_on(run)
        with loop._progress(run) as bar:
            loop._steps(run, bar)
        return outcome_of(run)

    def outcome_of(run: loop.Run) -> list[dict[str, float]]:
        lines = (run.root / loop.METRICS).read_text().splitlines()
        return [json.loads(line) for line in lines]

    def restart(run: loop.Run) -> None:
        schedule: Any = run.schedule
        schedule.scheduler.last_epoch = 0

    forgotten: dict[str, Callable[[loop.Run], object]] = {
        "nothing": lambda run: None,
        "generator": lambda run: torch.manual_seed(0),
        "optimiser": lambda run: [s.clear() for s in run.optimizer.state.values()],
        "schedule": restart,
    }
    for name, forget in forgotten.items():
        config = described(workshop, "captioning", f"forgets-{name}")
        train_until(config, 5)
        found = forgetful(loop._start(config), forget)
        same = [record["loss"] for record in found if "loss" in record] == [
            record["loss"] for record in losses if "loss" in record
        ]
        assert same == (name == "nothing"), name


# Torn states. Every case starts from one run that was killed before step 7: states 4 and 6.


@pytest.fixture(scope="module")
def killed(workshop: Workshop) -> tuple[TrainConfig, Path]:
    """A run killed before its last step, and a copy of its folder."""
    config = described(workshop, "captioning", "killed")
    break_off(config, (7,))
    copy = workshop.root / "killed-copy"
    shutil.copytree(config.output_dir, copy)
    return config, copy


@pytest.fixture
def broken_off(killed: tuple[TrainConfig, Path]) -> TrainConfig:
    """The killed run as it was left."""
    config, copy = killed
    shutil.rmtree(config.output_dir)
    shutil.copytree(copy, config.output_dir)
    return config


def newest(config: TrainConfig) -> Path:
    return max((Path(config.output_dir) / loop.STATES).iterdir())


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def change_step(path: Path) -> None:
    path.write_text(path.read_text().replace('"step": 6', '"step": 5'))


def change_loss(path: Path) -> None:
    record = json.loads(path.read_text())
    record["sums"]["loss"] = 1.0
    path.write_text(json.dumps(record, indent=1))


def empty(path: Path) -> None:
    shutil.rmtree(path.parent)
    path.parent.mkdir()


DAMAGES: list[tuple[str, Callable[[Path], object]]] = [
    *((name, damage) for name in ("model.safetensors", "optimizer.bin") for damage in (flip, cut)),
    ("scheduler.bin", Path.unlink),
    ("random_states_0.pkl", flip),
    ("run.json", Path.unlink),
    ("run.json", cut),
    ("run.json", change_step),
    ("run.json", change_loss),
    ("run.json", lambda path: path.write_text("[]")),
    ("run.json", lambda path: path.write_text('{"record": 1, "files": []}')),
    ("run.json", empty),
]


def test_the_killed_run_had_two_states(broken_off: TrainConfig) -> None:
    assert states(broken_off) == ["step-00000004", "step-00000006"]
    names = {path.name for path in newest(broken_off).iterdir()}
    assert names == {name for name, _ in DAMAGES}


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_a_torn_state_is_passed_over_and_said(
    name: str,
    damage: Callable[[Path], object],
    broken_off: TrainConfig,
    untouched: Callable[[str], Outcome],
    caplog: pytest.LogCaptureFixture,
) -> None:
    torn = newest(broken_off)
    damage(torn / name)
    # Saved every five steps from here: no new state takes the torn one's name.
    train(described_like(broken_off, save_every=5, keep=3), resume=True)
    (warning,) = [line for line in caplog.messages if "torn" in line]
    assert str(torn) in warning
    assert "\n" not in warning
    assert outcome(broken_off) == untouched("captioning")
    assert states(broken_off) == ["step-00000004", "step-00000005", "step-00000007"]


def described_like(config: TrainConfig, **run: Any) -> TrainConfig:
    return replace(config, run=replace(config.run, **run))


def test_torn_with_one_kept(broken_off: TrainConfig, untouched: Callable[[str], Outcome]) -> None:
    """The torn state must not count as the one that is kept."""
    cut(newest(broken_off) / "optimizer.bin")
    config = described_like(broken_off, save_every=5, keep=1)
    train_until(config, 6, resume=True)
    assert states(config) == ["step-00000005"]
    train(config, resume=True)
    assert outcome(config) == untouched("captioning")
    assert states(config) == ["step-00000007"]


def test_no_whole_state_is_left(broken_off: TrainConfig) -> None:
    for folder in (Path(broken_off.output_dir) / loop.STATES).iterdir():
        cut(folder / "model.safetensors")
    with pytest.raises(TrainingError, match=r"holds no whole state; start in another folder$"):
        train(broken_off, resume=True)


def test_killed_while_it_saved(
    workshop: Workshop, untouched: Callable[[str], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = described(workshop, "captioning", "saving")
    real = state._seal

    def fatal(folder: Path, step: int, *rest: Any) -> None:
        if step == 4:
            raise Killed
        real(folder, step, *rest)

    monkeypatch.setattr(state, "_seal", fatal)
    with pytest.raises(Killed):
        train(config)
    monkeypatch.undo()
    assert states(config) == [".step-00000004.partial", "step-00000002"]
    # Another rhythm: nothing is written under the same name again.
    train(described_like(config, save_every=5), resume=True)
    assert outcome(config) == untouched("captioning")
    assert states(config) == ["step-00000005", "step-00000007"]


def test_killed_while_it_recorded(
    broken_off: TrainConfig, untouched: Callable[[str], Outcome]
) -> None:
    with (Path(broken_off.output_dir) / loop.METRICS).open("a") as file:
        file.write('{"step": 7, "lo')
    train(broken_off, resume=True)
    assert outcome(broken_off) == untouched("captioning")


def test_a_finished_run_can_be_resumed(
    broken_off: TrainConfig, untouched: Callable[[str], Outcome]
) -> None:
    checkpoint = train(broken_off, resume=True)
    checkpoint.unlink()
    assert train(broken_off, resume=True) == checkpoint
    assert outcome(broken_off) == untouched("captioning")


# Disk full.


def full(*_arguments: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def torch_full(*_arguments: object, **_options: object) -> None:
    raise RuntimeError(
        "[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nframe #0: c10::..."
    )


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file may grow beyond ``limit`` bytes: writing fails as on a full disk, in C++ too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize("failing", ["torch.save", "torch.save as torch", "record", "sync"])
def test_a_full_disk_leaves_the_old_state(
    failing: str,
    broken_off: TrainConfig,
    untouched: Callable[[str], Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, stand_in = {
        "torch.save": ("torch.save", full),
        "torch.save as torch": ("torch.save", torch_full),
        "record": ("pathlib.Path.write_text", full),
        "sync": ("os.fsync", full),
    }[failing]
    real = state.save_state

    def on_full_disk(*arguments: Any) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(target, stand_in)
            real(*arguments)

    monkeypatch.setattr(loop, "save_state", on_full_disk)
    with pytest.raises(TrainingError) as caught:
        train(broken_off, resume=True)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert str(newest(broken_off).with_name("step-00000007")) in str(caught.value)
    assert "step-00000006 is whole: free space and go on with --resume" in str(caught.value)
    assert states(broken_off) == ["step-00000004", "step-00000006"]
    train(broken_off, resume=True)
    assert outcome(broken_off) == untouched("captioning")


def test_files_that_cannot_grow(
    broken_off: TrainConfig, untouched: Callable[[str], Outcome]
) -> None:
    """As above, but what fails is the real write of each file in turn."""
    sizes = {path.name: path.stat().st_size for path in newest(broken_off).iterdir()}
    for name in ("optimizer.bin", "model.safetensors", "run.json"):
        with small_files(sizes[name] - 1), pytest.raises(TrainingError) as caught:
            train(broken_off, resume=True)
        assert "\n" not in str(caught.value)
        assert states(broken_off) == ["step-00000004", "step-00000006"]
    train(broken_off, resume=True)
    assert outcome(broken_off) == untouched("captioning")


def test_a_full_disk_at_the_first_state(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = described(workshop, "captioning", "first")
    monkeypatch.setattr("torch.save", full)
    with pytest.raises(TrainingError, match=r"No space left .* no state was written before it"):
        train(config)
    assert states(config) == []


def test_a_record_that_cannot_be_written(
    broken_off: TrainConfig,
    untouched: Callable[[str], Outcome],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    metrics = Path(broken_off.output_dir) / loop.METRICS
    # It would write the config again, which is longer than the records.
    monkeypatch.setattr(loop, "_open_folder", lambda run, resume: None)
    with small_files(metrics.stat().st_size + 10), pytest.raises(TrainingError) as caught:
        train(broken_off, resume=True)
    monkeypatch.undo()
    assert str(caught.value).startswith(f"{metrics}: cannot be written (")
    assert "\n" not in str(caught.value)
    assert metrics.read_bytes()[-1:] != b"\n"  # a line cut off
    train(broken_off, resume=True)
    assert outcome(broken_off) == untouched("captioning")


# What is refused, and what is not.


def test_another_config_is_refused(workshop: Workshop, broken_off: TrainConfig) -> None:
    before = (Path(broken_off.output_dir) / "config.json").read_bytes()
    other = workshop.manifest.with_name("other.jsonl")
    shutil.copy(workshop.manifest, other)
    changed: dict[str, tuple[str, dict[str, Any]]] = {
        "optimizer.rate was 0.01, is 0.02": ("optimizer", {"rate": 0.02}),
        "run.batch_size was 4, is 2": ("run", {"batch_size": 2}),
        "run.steps was 7, is 8": ("run", {"steps": 8}),
        f"data.manifests was ['{workshop.manifest}'], is ['{other}']": (
            "data",
            {"manifests": (str(other),)},
        ),
        "augment.mixup_alpha was 0.5, is 0.0": ("augment", {"mixup_alpha": 0.0}),
    }
    for said, (table, change) in changed.items():
        config = replace(broken_off, **{table: replace(getattr(broken_off, table), **change)})
        with pytest.raises(TrainingError) as caught:
            train(config, resume=True)
        assert f": was written by another config: {said}; restore it, or" in str(caught.value)
    assert (Path(broken_off.output_dir) / "config.json").read_bytes() == before


def test_how_often_may_change(broken_off: TrainConfig, untouched: Callable[[str], Outcome]) -> None:
    config = described_like(broken_off, save_every=1, log_every=1, keep=5)
    train(config, resume=True)
    weights, records = outcome(config)
    whole, old = untouched("captioning")
    assert weights == whole
    # A record at 6, that at 7 is of one step more.
    assert records[:-2] == old[:-2]
    assert states(config) == ["step-00000004", "step-00000006", "step-00000007"]


def test_an_occupied_folder_is_refused(broken_off: TrainConfig) -> None:
    with pytest.raises(UsageError, match="already holds a run: --resume goes on with it"):
        train(broken_off)
    train(broken_off, resume=True)
    shutil.rmtree(Path(broken_off.output_dir) / loop.STATES)
    with pytest.raises(UsageError, match="already holds a run"):
        train(broken_off)
    with pytest.raises(UsageError, match=r"holds no state to resume from; start without --resume$"):
        train(broken_off, resume=True)


def test_states_beyond_those_kept_are_removed(workshop: Workshop) -> None:
    config = described_like(described(workshop, "captioning", "keep"), save_every=1, keep=3)
    train(config)
    assert states(config) == ["step-00000005", "step-00000006", "step-00000007"]


# Real processes.


@contextmanager
def held(config: TrainConfig, path: Path, step: int) -> Iterator[tuple[Any, Path, Path]]:
    """A process that trains, and waits before ``step`` for a file to appear."""
    marker, log = path / "held", path / "log"
    process = start(train_held, Path(f"{config.output_dir}.toml"), step, marker, log=log)
    try:
        for _ in range(3000):
            if marker.exists() or not process.is_alive():
                break
            time.sleep(0.02)
        assert marker.exists(), log.read_text()
        yield process, marker, log
    finally:
        process.kill()
        process.join()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop(
    sent: signal.Signals,
    workshop: Workshop,
    untouched: Callable[[str], Outcome],
    tmp_path: Path,
) -> None:
    """The signal goes to the whole process group, as a terminal's does."""
    config = described(workshop, "captioning", f"asked-{sent.name}", workers=1)
    with held(config, tmp_path, 4) as (process, marker, log):
        os.killpg(process.pid, sent)
        time.sleep(0.1)
        marker.unlink()
        process.join(60)
        assert process.exitcode == 130
    assert log.read_text().splitlines() == [
        "pengi-rt: stopping after step 4, with a state to resume from",
        "pengi-rt: interrupted",
    ]
    assert states(config) == ["step-00000002", "step-00000004"]
    train(config, resume=True)
    assert outcome(config) == untouched("captioning")


def test_a_worker_that_dies(
    workshop: Workshop, untouched: Callable[[str], Outcome], tmp_path: Path
) -> None:
    """One line; and how many workers read is nothing that the run depends on."""
    config = described(workshop, "captioning", "worker", workers=1)
    with held(config, tmp_path, 4) as (process, marker, log):
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        time.sleep(0.1)
        marker.unlink(missing_ok=True)
        process.join(60)
        assert process.exitcode == 5
    (line,) = log.read_text().splitlines()
    assert line.startswith("pengi-rt: a process that reads data died: DataLoader worker (pid ")
    assert states(config) == ["step-00000002"]
    train(described(workshop, "captioning", "worker"), resume=True)
    assert outcome(config) == untouched("captioning")


def test_killed_by_the_system(
    workshop: Workshop, untouched: Callable[[str], Outcome], tmp_path: Path
) -> None:
    config = described(workshop, "captioning", "sigkill", workers=1)
    with held(config, tmp_path, 4) as (process, _, _):
        os.killpg(process.pid, signal.SIGKILL)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
    assert states(config) == ["step-00000002"]
    train(config, resume=True)
    assert outcome(config) == untouched("captioning")
