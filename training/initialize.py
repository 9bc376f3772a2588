"""Make the model that a run starts from: fresh weights, a checkpoint, or parts of several."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pengi_rt.errors import CheckpointError, UsageError
from pengi_rt.export.checkpoint_reader import read_checkpoint, shape_of
from pengi_rt.export.pretrained import read_parts
from pengi_rt.export.tokenizer_source import find_tokenizers
from pengi_rt.models.gpt2 import GPT2, Conv1D
from pengi_rt.models.pengi import Pengi
from pengi_rt.system.quote import one_line
from pengi_rt.training.config import TrainConfig

logger = logging.getLogger(__name__)

DEVIATION = 0.02
"""Standard deviation of fresh embeddings and of GPT-2's fresh weights, as in GPT-2."""


def make_model(config: TrainConfig) -> tuple[Pengi, dict[str, bytes]]:
    """Make the model to train, on the CPU; also returns its tokenizers, by name, as JSON.

    Raises:
        UsageError: the config trains or needs a part that its model does not have.
        CheckpointError: a file is not a checkpoint, or holds a model with other shapes.
        TokenizerError: the tokenizers cannot be found, or belong to another model.
    """
    beside = Path(config.tokenizers) if config.tokenizers else None
    torch.manual_seed(config.seed)
    if config.init_from:
        if config.model is not None:
            raise UsageError(
                "init_from brings its own model; with a [model] table name the parts that start "
                "from it: init = {audio_encoder = FILE, ...}"
            )
        checkpoint = read_checkpoint(Path(config.init_from))
        model = Pengi(checkpoint.config)
        model.load_state_dict(checkpoint.state)
        beside = beside or checkpoint.tokenizers
    else:
        assert config.model is not None
        model = Pengi(config.model)
        fresh_weights(model)
    for part, file in config.init.items():
        _load_part(model, part, Path(file))
    _check_parts(config, model)
    # A folder in our layout is complete; the published files still need special tokens.
    published = beside is not None and not os.path.exists(beside / "decoder.json")  # noqa: PTH110
    directory, beside = (beside, None) if published else (None, beside)
    return model, find_tokenizers(model.config, directory, beside)


def fresh_weights(model: Pengi) -> None:
    """Initialize layers with deviation 1 / sqrt(inputs) (LeCun et al., 1998) and zero biases.

    This keeps the scale of signals. A constant 0.02, as in Swin, suits wide layers, but signals
    fade in narrow ones (docs/training.md). GPT-2 keeps its own deviation, with residual projections
    scaled down by depth, and CLIP's tower keeps its library's initialization.
    """
    for name, module in model.named_modules():
        if ".clip." in name:
            continue
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Embedding | Conv1D):
            layer = isinstance(module, nn.Linear | nn.Conv2d)  # GPT-2's are Conv1D
            std = module.weight[0].numel() ** -0.5 if layer else DEVIATION
            nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
            bias = getattr(module, "bias", None)
            if isinstance(bias, Tensor):
                nn.init.zeros_(bias)
    for name, parameter in model.named_parameters():
        if name.endswith(("prefix_const", ".position")):
            nn.init.normal_(parameter, std=DEVIATION)
    _calm_residuals(model.decoder)


def set_trained(model: Pengi, parts: Sequence[str]) -> None:
    """Enable training mode and gradients for ``parts`` only; frozen parts stay in eval mode."""
    for name, part in model.named_children():
        part.train(name in parts)
        part.requires_grad_(name in parts)


def _calm_residuals(decoder: GPT2) -> None:
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith("c_proj.weight"):
                parameter.div_((2 * len(decoder.h)) ** 0.5)


def _load_part(model: Pengi, part: str, file: Path) -> None:
    """Load one part from a file; tensors that the file lacks start fresh, with a warning."""
    own = {name: value for name, value in model.state_dict().items() if name.split(".")[0] == part}
    if not own:
        raise UsageError(f"init.{part}: this model ({one_line(model.config.name)}) has no {part}")

    def check_shape(name: str, tensor: Tensor) -> None:
        if name not in own or own[name].shape != tensor.shape:
            wanted = shape_of(own[name]) if name in own else "none"
            raise CheckpointError(
                f"{one_line(str(file))}: {one_line(name)} is {shape_of(tensor)}, this model's is "
                f"{wanted}: it is another model's; change the [model] table, or leave the part out "
                "of init"
            )

    found = read_parts(file, [part], check_shape)
    model.load_state_dict(found, strict=False)
    fresh = [name for name in own if name not in found]
    if fresh:
        logger.warning("%s: not in %s, so fresh: %s", part, one_line(str(file)), ", ".join(fresh))


def _check_parts(config: TrainConfig, model: Pengi) -> None:
    there = {name for name, part in model.named_children() if part is not None}
    for part in config.train:
        if part not in there:
            raise UsageError(f"train names {part}, which this model does not have")
    if config.stage == "contrastive" and model.text_encoder is None:
        raise UsageError("the contrastive stage needs a text encoder: model.text.kind = 'clip'")
    encoded = config.stage == "language_model" and "encoder" in config.language_model.prompts
    if config.language_model.reading and encoded and model.text_mapper is None:
        raise UsageError("language_model.prompts has 'encoder', but the model has no text mapper")
