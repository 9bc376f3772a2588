"""The request that contenders answer, and one decode step of it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from contenders import PyTorch

from pengi_rt.backends.protocol import Backend
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.family import generative
from pengi_rt.decoding.beam import search
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.engine import Engine
from pengi_rt.plan.manifest import TensorRecord

THREADS = 2
BEAMS = 5
STEPS = 20
PROMPT = "generate audio caption"


@dataclass(frozen=True)
class Setup:
    """One model, as a plan and in PyTorch, and the request that all answer."""

    engine: Engine
    pytorch: PyTorch
    wave: np.ndarray[Any, np.dtype[np.float32]]

    @property
    def ids(self) -> torch.Tensor:
        return torch.from_numpy(self.engine.prompt_tokenizer.encode(PROMPT).ids)[None]

    @property
    def options(self) -> DecodeOptions:
        return DecodeOptions(
            beam_size=BEAMS, max_new_tokens=STEPS, temperature=1.0, stop_id=-1, pad_id=0
        )

    def ours(self, *, known_prompt: bool = True) -> list[tuple[int, ...]]:
        """pengi-rt end to end: from waveform and prompt to five hypotheses."""
        if not known_prompt:
            self.engine.backend.encoders.encode_text(self.ids.numpy())
        audio = self.engine.backend.encoders.encode_audio(self.wave[None]).prefix[0]
        text = self.engine.session.encode_prompt(self.engine.session.cached_prompt(PROMPT))
        (found,) = search(self.engine.backend, [np.concatenate([audio, text])], self.options)
        return [beam.tokens for beam in found.beams]

    def released(self) -> list[tuple[int, ...]]:
        wave = torch.from_numpy(self.wave)[None]
        return [tuple(row) for row in self.pytorch.released(wave, self.ids, BEAMS, STEPS)]

    def hugging_face(self) -> torch.Tensor:
        wave = torch.from_numpy(self.wave)[None]
        return self.pytorch.hugging_face(wave, self.ids, BEAMS, STEPS)


def prepared_step(backend: Backend, clips: int = 1) -> Callable[[], object]:
    """A step of an answer; every call makes the next one."""
    config = generative(backend.config)
    prefix = np.zeros((clips, config.prefix_length, config.decoder.n_embd), np.float32)
    lengths = np.full(clips, config.prefix_length)
    decoder = require_decoder(backend)
    cache = decoder.new_cache(
        slots=clips, width=BEAMS, prefix_rows=config.prefix_length, new_tokens=80
    )
    decoder.prefill(cache, np.arange(clips), prefix, lengths)
    tokens = np.tile(np.arange(BEAMS), (clips, 1))
    parents = np.zeros_like(tokens)
    return lambda: decoder.step(cache, tokens, parents)


def step_tensors(engine: Engine) -> list[TensorRecord]:
    """The weights that one step reads: the decoder's without the position table."""
    tensors = engine.plan.manifest.tensors.items()
    return [record for name, record in tensors if name.startswith("decoder.") and "wpe" not in name]


def seconds(call: Callable[[], object]) -> float:
    started = perf_counter()
    call()
    return perf_counter() - started


def machine() -> dict[str, str]:
    """What a figure must be published with."""
    versions = {"torch": torch.__version__, "numpy": np.__version__}
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next(line for line in lines if line.startswith("flags")).split()
    wide = [flag for flag in flags if flag.startswith(("avx", "amx", "fma"))]
    model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return versions | {"cpu": model, "cpu_flags": " ".join(wide)}
