"""Variants of the published model: saved, loaded, exported, and run on two backends."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pengi_rt
from pengi_rt.config.pengi import PengiConfig, pengi_config
from pengi_rt.config.presets import PRESETS
from pengi_rt.engine import Engine
from pengi_rt.export.checkpoint_reader import load_model
from pengi_rt.export.export import export_plan
from pengi_rt.export.self_test import synthetic_clips
from pengi_rt.models.checkpoint_writer import save_checkpoint
from pengi_rt.models.tiny import make_tokenizers, random_model

TINY = PRESETS["tiny"]
MAPPER = TINY["audio_mapper"]
SHALLOW = TINY["htsat"] | {"depths": [1, 1]}
MLP = MAPPER | {"kind": "mlp"}

# An export takes seconds, so each model combines several variants, in different parts.
VARIANTS: dict[str, dict[str, Any]] = {
    # "decoder" and "token_embedding" are experiments A and B of the paper's appendix F.
    "time and decoder": {
        "htsat": SHALLOW | {"pooling": "time"},
        "audio_mapper": MAPPER | {"kind": "transformer_time"},
        "text": {"kind": "decoder", "max_length": 12},
    },
    "mlp and token_embedding": {
        "htsat": SHALLOW,
        "audio_mapper": MLP,
        "text": {"kind": "token_embedding", "max_length": 12, "suffix": " <|endoftext|>"},
        "text_mapper": MAPPER | {"kind": "transformer_seq"},
    },
    "lengths, normalized and mlp": {
        "htsat": SHALLOW,
        "audio_mapper": MAPPER | {"prefix_length": 4, "constant_length": 4},
        "text_mapper": MLP | {"prefix_length": 6},
        "normalize_text": True,
    },
}
PROMPTS = ("generate audio caption", "a dog")


@pytest.fixture(scope="module", params=VARIANTS)
def plan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A variant's plan and its checkpoint; the export's self-tests passed."""
    config = PengiConfig.from_dict(TINY | VARIANTS[request.param] | {"name": request.param})
    folder = tmp_path_factory.mktemp("variant")
    checkpoint = folder / "model.safetensors"
    save_checkpoint(random_model(config), checkpoint, make_tokenizers(config))
    assert load_model(checkpoint)[0].config == config
    checks = export_plan(checkpoint, folder / "pengi.plan", threads=1)
    assert all(check.passed for check in checks)
    return folder / "pengi.plan"


@pytest.fixture(scope="module")
def engines(plan: Path) -> Iterator[tuple[Engine, Engine]]:
    with (
        pengi_rt.load(plan, backend="onnx", threads=1) as onnx,
        pengi_rt.load(plan, backend="torch", threads=1) as torch,
    ):
        yield onnx, torch


def test_both_backends_agree(engines: tuple[Engine, Engine]) -> None:
    """Every beam token for token, on two clips and prompts of two lengths."""
    onnx, torch = engines
    rate = pengi_config(onnx.config).mel.sample_rate
    said = set()
    for clip in synthetic_clips(onnx.config):
        for prompt in PROMPTS:
            ours, theirs = (
                engine.generate((clip, rate), prompt, max_new_tokens=16).windows[0]
                for engine in (onnx, torch)
            )
            assert [beam.tokens for beam in ours.beams] == [beam.tokens for beam in theirs.beams]
            said.add(tuple(beam.tokens for beam in ours.beams))
    assert len(said) == 4, "the answer depends on both"


def test_encoded_shapes_follow_the_config(engines: tuple[Engine, Engine]) -> None:
    for engine in engines:
        config = pengi_config(engine.config)
        width = config.decoder.n_embd
        audio = engine.backend.encoders.encode_audio(synthetic_clips(config))
        assert audio.embedding.shape == (2, config.d_proj)
        assert audio.prefix.shape == (2, config.audio_mapper.prefix_length, width)
        np.testing.assert_allclose(np.linalg.norm(audio.embedding, axis=1), 1.0, rtol=1e-5)
        ids = engine.prompt_tokenizer.encode(PROMPTS[0]).ids
        text = engine.backend.encoders.encode_text(ids[None])
        assert text.prefix.shape == (1, config.prompt_rows(len(ids)), width)


def test_bare_prompts_of_any_length(engines: tuple[Engine, Engine]) -> None:
    """One token, as many as fit, and more: the graph accepts any length."""
    if pengi_config(engines[0].config).text.kind != "decoder":
        pytest.skip("only where the decoder reads the prompt itself")
    for prompt, rows in (("!", 1), ("!" * 12, 12), ("!" * 13, 12)):
        ids, truncated = engines[0].prompt_tokenizer.encode(prompt)
        assert truncated == (len(prompt) > 12)
        ours, theirs = (engine.backend.encoders.encode_text(ids[None]) for engine in engines)
        assert ours.prefix.shape == (1, rows, 64)
        np.testing.assert_array_equal(ours.prefix, theirs.prefix)
        np.testing.assert_array_equal(ours.embedding, theirs.embedding)
