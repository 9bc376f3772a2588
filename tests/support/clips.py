"""Sounds and plans shared by the tests of the engine's tasks."""

import dataclasses
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.export.export import export_plan
from pengi_rt.models.checkpoint_writer import save_checkpoint
from pengi_rt.models.tiny import make_tokenizers, random_model

RATE = 16_000
CLIP = 2.0  # seconds: the tiny model's

Samples = tuple[NDArray[np.float32], int]


def clip(seed: int, seconds: float = CLIP) -> Samples:
    """A tone in noise, both chosen by the seed."""
    generator = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    tone = np.sin(2 * np.pi * generator.uniform(200, 3000) * time)
    return (0.4 * tone + 0.1 * generator.normal(size=time.size)).astype(np.float32), RATE


def write_clip(path: Path, seed: int, seconds: float = CLIP) -> Path:
    """:func:`clip` as a WAV file of float32 samples."""
    samples, rate = clip(seed, seconds)
    soundfile.write(path, samples, rate, subtype="FLOAT")
    return path


def plan_without_text_encoder(folder: Path) -> Path:
    """A tiny plan like the published ``base_no_text_enc``, for PyTorch alone."""
    tiny = PengiConfig.preset("tiny")
    config = dataclasses.replace(
        tiny,
        text=dataclasses.replace(
            tiny.text, kind="token_embedding", max_length=12, suffix=" <|endoftext|>"
        ),
        text_mapper=dataclasses.replace(
            tiny.text_mapper, kind="transformer_seq", prefix_length=12, constant_length=12
        ),
    )
    checkpoint = folder / "tiny.safetensors"
    save_checkpoint(random_model(config), checkpoint, make_tokenizers(config))
    export_plan(checkpoint, folder / "no-text.plan", backends=("torch",), threads=1)
    return folder / "no-text.plan"
