"""A full disk, another config, a folder in use: what stops a run, and what it leaves."""

import errno
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from resumable import Outcome, changed_run, described, newest
from training_run import Workshop, outcome, states, train

from pengi_rt.errors import UsageError
from pengi_rt.training import loop, run_folder, state
from pengi_rt.training.config import TrainConfig
from pengi_rt.training.errors import TrainingError

# Disk full.


def full(*_arguments: object, **_options: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def torch_full(*_arguments: object, **_options: object) -> None:
    raise RuntimeError(
        "[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nframe #0: c10::..."
    )


@contextmanager
def small_files(limit: int) -> Iterator[None]:
    """No file can grow beyond ``limit`` bytes: writing fails as on a full disk, in C++ too."""
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
    assert "step-00000006 is intact: free space and continue with --resume" in str(caught.value)
    assert states(broken_off) == ["step-00000004", "step-00000006"]
    train(broken_off, resume=True)
    assert outcome(broken_off) == untouched("captioning")


def test_files_that_cannot_grow(
    broken_off: TrainConfig, untouched: Callable[[str], Outcome]
) -> None:
    """As above, but the real write of each file fails in turn."""
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
    metrics = Path(broken_off.output_dir) / run_folder.METRICS
    # It would rewrite the config, which is longer than the records.
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


def test_intervals_may_change(broken_off: TrainConfig, untouched: Callable[[str], Outcome]) -> None:
    config = changed_run(broken_off, save_every=1, log_every=1, keep=5)
    train(config, resume=True)
    weights, records = outcome(config)
    whole, old = untouched("captioning")
    assert weights == whole
    # A record at 6, that at 7 is of one step more.
    assert records[:-2] == old[:-2]
    assert states(config) == ["step-00000004", "step-00000006", "step-00000007"]


def test_an_occupied_folder_is_refused(broken_off: TrainConfig) -> None:
    with pytest.raises(UsageError, match="already holds a run: --resume continues it"):
        train(broken_off)
    train(broken_off, resume=True)
    shutil.rmtree(Path(broken_off.output_dir) / run_folder.STATES)
    with pytest.raises(UsageError, match="already holds a run"):
        train(broken_off)
    with pytest.raises(UsageError, match=r"holds no state to resume from; start without --resume$"):
        train(broken_off, resume=True)


def test_states_beyond_those_kept_are_removed(workshop: Workshop) -> None:
    config = changed_run(described(workshop, "captioning", "keep"), save_every=1, keep=3)
    train(config)
    assert states(config) == ["step-00000005", "step-00000006", "step-00000007"]
