"""The optimizer and its learning rate."""

import math
from collections.abc import Iterator

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from pengi_rt.training.config import OptimizerConfig


def make_optimizer(module: nn.Module, config: OptimizerConfig) -> Optimizer:
    """Adam or AdamW over the trainable weights; only matrices decay, and rates are per part."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            table = "embedding" in name or name.endswith(("wte.weight", "wpe.weight", "_table"))
            decay = 0.0 if parameter.ndim < 2 or table else config.weight_decay
            rate = config.rate * _factor(name, config)
            groups.setdefault((rate, decay), []).append(parameter)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    parameters = [
        {"params": group, "lr": rate, "weight_decay": decay}
        for (rate, decay), group in groups.items()
    ]
    first, second = config.betas
    return kind(parameters, lr=config.rate, betas=(first, second))


def make_schedule(optimizer: Optimizer, config: OptimizerConfig, steps: int) -> LambdaLR:
    """The factor on all rates: a linear rise, then the configured decay until ``steps``."""

    def factor(step: int) -> float:
        if step < config.warmup_steps:
            return (step + 1) / config.warmup_steps
        left = (steps - step) / max(steps - config.warmup_steps, 1)
        if config.schedule == "constant":
            return 1.0
        return left if config.schedule == "linear" else 0.5 - 0.5 * math.cos(math.pi * left)

    return LambdaLR(optimizer, factor)


def _factor(name: str, config: OptimizerConfig) -> float:
    return next((rate for part, rate in config.rates.items() if part in _components(name)), 1.0)


def _components(name: str) -> Iterator[str]:
    yield from name.split(".")
