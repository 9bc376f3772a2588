"""A family whose encoders have a contrastive head and a decoder, and a backend that runs it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from fake_backend import WIDTH, FakeDecoder, ToyModel
from numpy.typing import NDArray

from pengi_rt.backends.protocol import F32, I64, Backend, Encoded
from pengi_rt.config.backend import BackendSpec, RunOptions
from pengi_rt.config.checked import Checked
from pengi_rt.config.family import FamilySpec, Table
from pengi_rt.config.parts import DecoderConfig, GenerationConfig, TextConfig
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.tiny import make_tokenizers
from pengi_rt.plan.reader import Plan
from pengi_rt.plan.writer import PlanWriter
from pengi_rt.tasks.embed import unit

TINY = PengiConfig.preset("tiny")  # its tokenizers

FAMILY = FamilySpec(
    name="two heads",
    config="toy_two_heads:TwoHeadsConfig",
    graphs=dict.fromkeys(("audio", "text", "decoder"), "toy_two_heads:no_graph"),
    optional=frozenset({"decoder"}),
    parts="toy_two_heads:parts",
    tokenizers={
        "text": "pengi_rt.text.tokenizers:PromptTokenizer",
        "decoder": "pengi_rt.text.tokenizers:DecoderTokenizer",
    },
    tables="toy_two_heads:tables",
)
BACKEND = BackendSpec(
    name="two-headed",
    devices=("abacus",),
    precisions=("fp32",),
    packages=("numpy",),
    open="toy_two_heads:open_plan",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoHeadsConfig(Checked):
    """The whole model. Its joint space is as wide as its decoder."""

    family: Literal["two heads"] = "two heads"
    name: str = "toy with two heads"
    sample_rate: int = 8000
    clip_seconds: float = 0.5
    clip_samples: int = 4000
    hop_length: int = 100
    d_proj: int = WIDTH
    text: TextConfig = TINY.text
    decoder: DecoderConfig = field(
        default_factory=lambda: DecoderConfig(
            vocab_size=TINY.decoder.vocab_size, n_positions=64, n_embd=WIDTH, n_head=1
        )
    )
    generation: GenerationConfig = field(
        default_factory=lambda: GenerationConfig(beam_size=2, max_new_tokens=8)
    )
    stop_id: int = TINY.stop_id
    pad_id: int = TINY.pad_id
    audio_prefix_length: int = 1
    prefix_length: int = 2

    def prompt_rows(self, tokens: int) -> int:
        """One, whatever the prompt."""
        assert tokens
        return 1


def parts(_: TwoHeadsConfig) -> dict[str, tuple[str, ...]]:
    return {"text": ("prompt", "text")}


def tables(config: TwoHeadsConfig) -> dict[str, Table]:
    return {"tokens": Table("tokens", (config.decoder.vocab_size, WIDTH), int8=False)}


class TwoHeadsBackend:
    """Counts the windows it encodes; a prefix is its embedding, read by the decoder as one row."""

    name = BACKEND.name
    precision = "fp32"
    device_search = None

    def __init__(self, plan: Plan) -> None:
        self.config = plan.config
        self.encoders = self
        self.encoded = 0
        self._words = plan.tensor("words")
        self.decoder: FakeDecoder | None = None
        if "decoder" in plan.manifest.graphs:
            model = ToyModel(vocab_size=len(plan.tensor("tokens")), stop_id=TINY.stop_id)
            self.decoder = FakeDecoder(model)

    def encode_audio(self, windows: F32) -> Encoded:
        """The embedding of a window is in its first samples."""
        self.encoded += len(windows)
        return self._both(windows[:, :WIDTH])

    def encode_text(self, ids: I64) -> Encoded:
        """The embedding of a text is the sum of its words'."""
        return self._both(self._words[ids].sum(axis=1))

    def _both(self, features: F32) -> Encoded:
        embedding = unit(features)
        prefix = embedding[:, None] if self.decoder else np.empty((len(embedding), 0, 0), "f4")
        return Encoded(embedding, prefix)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def open_plan(plan: Plan, _: RunOptions) -> Backend:
    return TwoHeadsBackend(plan)


def write_plan(path: Path, *, decoder: bool = True) -> Path:
    names = ("audio", "text", "decoder") if decoder else ("audio", "text")
    with PlanWriter(path, TwoHeadsConfig(), backends=(BACKEND.name,)) as writer:
        tensors = ("words", "tokens") if decoder else ("words",)
        writer.add_tensors({name: _table(seed) for seed, name in enumerate(tensors)})
        for name in names:
            writer.add(f"graphs/{name}.onnx", b"this backend runs none")
        for name, text in make_tokenizers(TINY).items():
            if name in names:
                writer.add(f"tokenizers/{name}.json", text)
        writer.seal()
        return writer.commit()


def _table(seed: int) -> NDArray[np.float32]:
    shape = (TINY.decoder.vocab_size, WIDTH)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
