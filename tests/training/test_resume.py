"""Killed anywhere and resumed, a run is bit-identical to one that was never interrupted."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from resumable import STAGES, Outcome, break_off, changed_run, described, newest
from training_run import Killed, Workshop, outcome, start, states, train, train_held, train_until

from pengi_rt.training import loop, run_folder, state
from pengi_rt.training.config import TrainConfig
from pengi_rt.training.errors import TrainingError


# 1 and 2: before the first state. 3: at a state. 4 and 6: between two. 7: the last step.
@pytest.mark.parametrize("kills", [(2,), (3,), (4,), (7,), (1, 4, 4, 6)], ids=str)
@pytest.mark.parametrize("stage", STAGES)
def test_killed_and_resumed(
    stage: str,
    kills: tuple[int, ...],
    workshop: Workshop,
    untouched: Callable[[str], Outcome],
) -> None:
    """The long chain reads with a worker; the uninterrupted run and the others do not."""
    workers = int(len(kills) > 1)
    config = described(workshop, stage, f"{stage}-{'-'.join(map(str, kills))}", workers)
    break_off(config, kills)
    train(config, resume=(Path(config.output_dir) / run_folder.STATES).exists())
    assert outcome(config) == untouched(stage)


def test_the_run_uses_randomness_and_optimizer_state(
    workshop: Workshop, untouched: Callable[[str], Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the tests above: losing any part of the state must change the run."""
    real = state.load_state
    losses = untouched("captioning")[1]

    def forgetful(
        run: loop.TrainingRun, forget: Callable[[loop.TrainingRun], object]
    ) -> list[dict[str, float]]:
        def load(*arguments: Any) -> None:
            real(*arguments)
            forget(run)

        monkeypatch.setattr(loop, "load_state", load)
        loop._resume(run)
        with loop._progress(run) as bar:
            loop._steps(run, bar)
        return outcome_of(run)

    def outcome_of(run: loop.TrainingRun) -> list[dict[str, float]]:
        lines = (run.root / run_folder.METRICS).read_text().splitlines()
        return [json.loads(line) for line in lines]

    def restart(run: loop.TrainingRun) -> None:
        schedule: Any = run.schedule
        schedule.scheduler.last_epoch = 0

    forgotten: dict[str, Callable[[loop.TrainingRun], object]] = {
        "nothing": lambda run: None,
        "generator": lambda run: torch.manual_seed(0),
        "optimizer": lambda run: [s.clear() for s in run.optimizer.state.values()],
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
def test_a_torn_state_is_skipped_with_a_warning(
    name: str,
    damage: Callable[[Path], object],
    broken_off: TrainConfig,
    untouched: Callable[[str], Outcome],
    caplog: pytest.LogCaptureFixture,
) -> None:
    torn = newest(broken_off)
    damage(torn / name)
    # From here a state is saved every five steps: no new one takes the torn one's name.
    train(changed_run(broken_off, save_every=5, keep=3), resume=True)
    (warning,) = [line for line in caplog.messages if "torn" in line]
    assert str(torn) in warning
    assert "\n" not in warning
    assert outcome(broken_off) == untouched("captioning")
    assert states(broken_off) == ["step-00000004", "step-00000005", "step-00000007"]


def test_a_torn_state_with_only_one_kept(
    broken_off: TrainConfig, untouched: Callable[[str], Outcome]
) -> None:
    """The torn state must not count as the one to keep."""
    cut(newest(broken_off) / "optimizer.bin")
    config = changed_run(broken_off, save_every=5, keep=1)
    train_until(config, 6, resume=True)
    assert states(config) == ["step-00000005"]
    train(config, resume=True)
    assert outcome(config) == untouched("captioning")
    assert states(config) == ["step-00000007"]


def test_no_intact_state_is_left(broken_off: TrainConfig) -> None:
    for folder in (Path(broken_off.output_dir) / run_folder.STATES).iterdir():
        cut(folder / "model.safetensors")
    with pytest.raises(TrainingError, match=r"holds no intact state; start in another folder$"):
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
    # Another rhythm: nothing is written under the same name.
    train(changed_run(config, save_every=5), resume=True)
    assert outcome(config) == untouched("captioning")
    assert states(config) == ["step-00000005", "step-00000007"]


def test_killed_while_it_wrote_metrics(
    broken_off: TrainConfig, untouched: Callable[[str], Outcome]
) -> None:
    with (Path(broken_off.output_dir) / run_folder.METRICS).open("a") as file:
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
def test_a_signal_stops_after_the_step(
    sent: signal.Signals,
    workshop: Workshop,
    untouched: Callable[[str], Outcome],
    tmp_path: Path,
) -> None:
    """The signal goes to the whole process group, like a terminal's."""
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
    """One line; a run does not depend on the number of reading workers."""
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
