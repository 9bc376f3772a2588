"""The folder of a resume state by itself: what is complete, what is newest, what differs."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from training_run import Workshop, forget

from pengi_rt.training.config import TrainConfig
from pengi_rt.training.errors import TrainingError
from pengi_rt.training.state import (
    State,
    latest_state,
    load_state,
    refuse_other_config,
    save_state,
)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    workshop = Workshop(tmp_path_factory.mktemp("state"))
    return workshop.config("captioning", "out", init={"decoder": "a"}, train=["audio_mapper"])


@pytest.fixture
def accelerator() -> Accelerator:
    """With a model and an optimizer that has stepped; the next test resets it."""
    forget()
    made = Accelerator(cpu=True)
    module = torch.nn.Linear(3, 2)
    module, optimizer = made.prepare(module, torch.optim.Adam(module.parameters()))
    module(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return made


def save(accelerator: Accelerator, root: Path, step: int, config: TrainConfig) -> None:
    save_state(accelerator, root, step, config, {"loss": 0.1 + step, "steps": 2})


def test_a_state_is_restored(accelerator: Accelerator, tmp_path: Path, config: TrainConfig) -> None:
    """Weights, optimizer, generator and losses to the last bit."""
    (module,), (optimizer,) = accelerator._models, accelerator._optimizers
    torch.manual_seed(5)
    save(accelerator, tmp_path, 7, config)
    kept = {name: value.clone() for name, value in module.state_dict().items()}
    moments = [s["exp_avg"].clone() for s in optimizer.state.values()]
    drawn = torch.rand(4)
    with torch.no_grad():
        for tensor in (*module.parameters(), *(s["exp_avg"] for s in optimizer.state.values())):
            tensor.zero_()
    state = latest_state(tmp_path)
    assert state is not None
    load_state(accelerator, state)
    assert (state.step, state.sums) == (7, {"loss": 7.1, "steps": 2})
    assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())
    after = [s["exp_avg"] for s in optimizer.state.values()]
    assert all(torch.equal(*pair) for pair in zip(after, moments, strict=True))
    assert torch.equal(torch.rand(4), drawn)
    refuse_other_config(state, config)


def test_the_newest_intact_state_is_used(
    accelerator: Accelerator,
    tmp_path: Path,
    config: TrainConfig,
    caplog: pytest.LogCaptureFixture,
) -> None:
    keep = replace(config, run=replace(config.run, keep=5))
    assert latest_state(tmp_path) is None
    assert latest_state(tmp_path / "none") is None
    for step in (9, 10, 11, 100):
        save(accelerator, tmp_path, step, keep)
    (tmp_path / ".step-00000200.partial").mkdir()
    for step in (100, 11):
        (tmp_path / f"step-{step:08d}" / "run.json").write_text('{"step": 1}')
    with caplog.at_level(logging.WARNING):
        state = latest_state(tmp_path)
    assert state is not None
    assert state.step == 10
    torn = [message.partition(":")[0] for message in caplog.messages]
    assert torn == [str(tmp_path / f"step-{step:08d}") for step in (100, 11)]


def test_a_state_whose_record_names_a_file_outside(
    accelerator: Accelerator, tmp_path: Path, config: TrainConfig
) -> None:
    save(accelerator, tmp_path, 1, config)
    path = tmp_path / "step-00000001" / "run.json"
    record = json.loads(path.read_text())
    record["files"]["../../secret"] = "0" * 64
    path.write_text(json.dumps(record))
    assert latest_state(tmp_path) is None


def test_a_state_of_another_model(
    accelerator: Accelerator, tmp_path: Path, config: TrainConfig
) -> None:
    save(accelerator, tmp_path, 1, config)
    state = latest_state(tmp_path)
    assert state is not None
    forget()
    other = Accelerator(cpu=True)
    other.prepare(torch.nn.Linear(4, 2))
    with pytest.raises(TrainingError, match=r"cannot be loaded .*; remove it to go on") as caught:
        load_state(other, state)
    assert "\n" not in str(caught.value)


def test_random_generators_that_were_not_restored(
    accelerator: Accelerator, tmp_path: Path, config: TrainConfig
) -> None:
    """accelerate skips a file of generators that it cannot read."""
    save(accelerator, tmp_path, 1, config)
    state = latest_state(tmp_path)
    assert state is not None
    (state.folder / "random_states_0.pkl").write_bytes(b"")
    torch.manual_seed(99)
    with pytest.raises(TrainingError, match=r"its random generators could not be restored$"):
        load_state(accelerator, state)


def test_a_differing_value_is_named(config: TrainConfig) -> None:
    def said(now: TrainConfig, before: TrainConfig = config) -> str:
        state = State(Path("out/state/step-1"), 1, json.loads(before.to_json()), "", {})
        with pytest.raises(TrainingError) as caught:
            refuse_other_config(state, now)
        message = str(caught.value)
        start = "out/state/step-1: was written by another config: "
        assert message.startswith(start)
        assert message.endswith("; restore it, or take another output_dir")
        return message.removeprefix(start).partition("; restore")[0]

    assert said(replace(config, seed=4)) == "seed was 3, is 4"
    assert said(replace(config, init={})) == "init.decoder was 'a', is None"
    assert said(replace(config, train=())) == "train was ['audio_mapper'], is []"
    assert config.model is not None
    mel = replace(config.model.mel, fmin=60.0)
    changed = replace(config, model=replace(config.model, mel=mel))
    assert said(changed) == "model.mel.fmin was 50.0, is 60.0"
    whole = replace(config, model=None, init_from="a")
    assert said(config, whole).startswith("init_from was 'a', is ''; model was None, is {")
    many = replace(config, run=replace(config.run, steps=9, batch_size=2, accumulate=2), seed=9)
    assert said(many).endswith("run.steps was 6, is 9 ...")


@pytest.mark.parametrize(
    "change",
    [{"save_every": 9}, {"keep": 9}, {"log_every": 9}, {"tensorboard": True}, {"threads": 2}],
    ids=str,
)
def test_values_that_may_differ(change: dict[str, Any], config: TrainConfig) -> None:
    state = State(Path(), 1, json.loads(config.to_json()), "", {})
    run, data = replace(config.run, **change), replace(config.data, workers=3)
    refuse_other_config(state, replace(config, run=run, data=data))
