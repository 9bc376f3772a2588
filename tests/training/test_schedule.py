"""Learning rates against closed forms, and which parameters share what."""

import math

import pytest
import torch
from torch import nn
from training_run import MODEL

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.pengi import Pengi
from pengi_rt.training.config import OptimizerConfig, _model
from pengi_rt.training.schedule import make_optimizer, make_schedule


def rates(steps: int, **options: object) -> list[float]:
    """The rate at every step of a run."""
    config = OptimizerConfig(rate=0.5, **options)  # type: ignore[arg-type]
    optimizer = make_optimizer(nn.Linear(2, 2), config)
    schedule = make_schedule(optimizer, config, steps)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_linear() -> None:
    expected = [0.1, 0.2, 0.3, 0.4, 0.5, *(0.5 * (20 - step) / 15 for step in range(5, 20))]
    assert rates(20, warmup_steps=5) == pytest.approx(expected)


def test_cosine() -> None:
    fall = [0.25 * (1 + math.cos(math.pi * (step - 5) / 15)) for step in range(5, 20)]
    found = rates(20, warmup_steps=5, schedule="cosine")
    assert found == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, *fall])


def test_constant() -> None:
    assert rates(5, warmup_steps=2, schedule="constant") == pytest.approx([0.25, *[0.5] * 4])


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_rates_at_the_first_and_last_step(schedule: str) -> None:
    assert rates(3, warmup_steps=0, schedule=schedule)[0] == 0.5
    # Shorter than its warm-up: only the rise.
    assert rates(3, warmup_steps=3, schedule=schedule) == pytest.approx([0.5 / 3, 1 / 3, 0.5])
    assert rates(2, warmup_steps=10, schedule=schedule) == pytest.approx([0.05, 0.1])


def test_the_papers_warm_up() -> None:
    found = rates(2001, warmup_steps=2000)
    assert found[0] == pytest.approx(0.5 / 2000)
    assert found[1999] == found[2000] == 0.5


@pytest.fixture(scope="module")
def model() -> Pengi:
    return Pengi(PengiConfig.from_dict(_model(MODEL)))


def groups(model: Pengi, config: OptimizerConfig) -> dict[str, tuple[float, float]]:
    """The rate and decay of every parameter of a stage around ``model``."""
    stage = nn.ModuleDict({"model": model})
    optimizer = make_optimizer(stage, config)
    found = {
        id(parameter): (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    return {
        name: found[id(parameter)]
        for name, parameter in model.named_parameters()
        if id(parameter) in found
    }


def test_only_matrices_decay(model: Pengi) -> None:
    found = groups(model, OptimizerConfig(weight_decay=0.1))
    assert set(found) == {name for name, _ in model.named_parameters()}
    shapes = {name: parameter.ndim for name, parameter in model.named_parameters()}
    decays = {name for name, (_, decay) in found.items() if decay}
    assert all(shapes[name] >= 2 and found[name][1] == 0.1 for name in decays)
    tables = {name for name in set(found) - decays if shapes[name] >= 2}
    endings = ("embedding.weight", "wte.weight", "wpe.weight", "bias_table")
    assert tables == {name for name in found if name.endswith(endings)}
    assert len(tables) == 2 + 2 + 4  # CLIP's, the decoder's, one of each block of HTSAT
    for name in ("decoder.h.0.attn.c_attn.weight", "audio_encoder.htsat.patch_embed.proj.weight"):
        assert name in decays


def test_every_part_has_its_rate(model: Pengi) -> None:
    config = OptimizerConfig(rate=1e-3, rates={"audio_encoder": 0.1, "decoder": 0.0})
    for name, (rate, _) in groups(model, config).items():
        factor = {"audio_encoder": 0.1, "decoder": 0.0}.get(name.partition(".")[0], 1.0)
        assert rate == pytest.approx(1e-3 * factor)


def test_frozen_parts_are_left_out(model: Pengi) -> None:
    model.decoder.requires_grad_(False)
    try:
        assert not any(name.startswith("decoder.") for name in groups(model, OptimizerConfig()))
    finally:
        model.decoder.requires_grad_(True)


def test_adam_or_adamw(model: Pengi) -> None:
    adam = make_optimizer(model, OptimizerConfig(betas=(0.8, 0.95)))
    assert type(adam) is torch.optim.Adam
    assert adam.param_groups[0]["betas"] == (0.8, 0.95)
    assert type(make_optimizer(model, OptimizerConfig(name="adamw"))) is torch.optim.AdamW
