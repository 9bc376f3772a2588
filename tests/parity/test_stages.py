"""The PyTorch model inside, stage by stage, on every golden pair and the full-size checkpoints.

``test_pairs.py`` compares what backends give out; when that is off, this says where it began.
Tolerance: ten times what the released code itself loses to float32 at the stage
(``meta.max_abs_diff_float32_vs_float64``), and never below 1e-6 of the stage's largest value.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from golden import PAIRS, Golden, meta, pair, waveform
from torch import Tensor

from pengi_rt.export.checkpoint_reader import load_model
from pengi_rt.models.mapper import TransformerMapper
from pengi_rt.models.pengi import Pengi

pytestmark = pytest.mark.slow

CONFIGS = ("base", "base_no_text_enc")
Stages = dict[str, Tensor]


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Pengi:
    """A full-size model from the folder with ``base.pth`` and ``base_no_text_enc.pth``."""
    folder = os.environ.get("PENGI_RT_CHECKPOINTS")
    if not folder or not os.environ.get("PENGI_RT_REFERENCE"):
        pytest.skip("needs PENGI_RT_REFERENCE, and PENGI_RT_CHECKPOINTS with the .pth files")
    loaded, _ = load_model(Path(folder) / f"{request.param}.pth")
    assert loaded.config.name == request.param
    return loaded


@pytest.mark.parametrize("name", PAIRS)
def test_stages(model: Pengi, name: str) -> None:
    golden = pair(name)
    if meta(golden)["config"] != model.config.name:
        pytest.skip(f"a golden of {meta(golden)['config']}")
    with torch.inference_mode():
        audio, text = audio_stages(model, golden), text_stages(model, golden)
        decoder = decoder_stages(model, golden, audio["m1_out"], text["m2_out"])
    for stage, ours in (audio | text | decoder).items():
        check(golden, stage, ours)


def check(golden: Golden, stage: str, ours: Tensor) -> None:
    expected = golden[stage]
    noise = stage.removesuffix("_slice")
    noise = {"htsat_latent": "latent", "audio_embed": "audio_proj"}.get(noise, noise)
    noise = "first_logits" if noise.startswith(("first_logits", "gpt_hidden")) else noise
    lost = meta(golden)["max_abs_diff_float32_vs_float64"][noise]
    tolerance = max(10 * lost, 1e-6 * float(np.abs(expected).max()))
    assert ours.shape == expected.shape, stage
    assert np.abs(ours.double().numpy() - expected).max() <= tolerance, stage


def audio_stages(model: Pengi, golden: Golden) -> Stages:
    """Waveform to audio prefix; slices as the golden files' README gives them."""
    encoder = model.audio_encoder
    wave = torch.from_numpy(waveform(meta(golden)["audio"]))[None]
    log_mel = encoder.mel.log_mel(wave)
    image = encoder.mel.fold(log_mel)
    tokens = encoder.htsat.patch_embed(image)
    stages = {
        "logmel": log_mel[0],
        "swin_image": image[0, 0, ::2, ::2],
        "patch_tokens_slice": rows(tokens, [0, 1, 63, 64, 2047, 2048, 4094, 4095]),
    }
    for index, layer in enumerate(encoder.htsat.layers):
        tokens = layer(tokens)
        n = tokens.shape[1] * tokens.shape[2]
        stages[f"swin_stage{index}_slice"] = rows(tokens, [0, 1, n // 2 - 1, n // 2, n - 2, n - 1])
    stages["swin_norm_slice"] = rows(encoder.htsat.norm(tokens), [0, 31, 32, 63])
    latent = encoder.htsat(image)
    embedding, prefix = model.encode_audio(wave)
    linear = first_linear(model.audio_mapper, embedding)
    return stages | {
        "htsat_latent": latent[0],
        "audio_proj": encoder.projection(latent)[0],
        "audio_embed": embedding[0],
        "m1_linear_slice": linear[[0, 39]],
        "m1_out": prefix[0],
    }


def text_stages(model: Pengi, golden: Golden) -> Stages:
    """Prompt ids, padded to 40 as the wrapper prepares them, to text prefix."""
    ids = torch.from_numpy(golden["prompt_input_ids"].astype(np.int64))[None]
    embedding, prefix = model.encode_text(ids)
    stages = {"text_embed": embedding[0], "m2_out": prefix[0]}
    if model.text_encoder is None:
        return stages
    assert model.text_mapper is not None
    hidden = model.text_encoder.clip(input_ids=ids).last_hidden_state
    end = golden["prompt_input_ids"].tolist().index(model.config.text.eos_id)
    return stages | {
        "text_hidden_slice": hidden[0, :4],
        "text_pooled": hidden[0, end],
        "text_clip_proj": model.text_encoder.text_projection(hidden[0, end]),
        "m2_linear_slice": first_linear(model.text_mapper, embedding)[[0, 39]],
    }


def decoder_stages(model: Pengi, golden: Golden, audio: Tensor, text: Tensor) -> Stages:
    """The whole prefix through GPT-2: every layer's state at its last row, and the logits there."""
    tail = torch.from_numpy(golden["prefix_tail"])
    prefix = torch.cat([audio, text, tail])[None]
    assert list(prefix.shape[1:]) == golden["prefix_shape"].tolist()
    positions = torch.arange(prefix.shape[1])
    decoder = model.decoder
    x = prefix + decoder.wpe(positions)
    states = [x]
    for block in decoder.h:
        x, _ = block(x, None, None)
        states.append(x)
    hidden, _ = decoder(prefix, positions)
    states[-1] = hidden
    logits = decoder.logits(hidden[0, -1])
    return {
        "gpt_hidden_last": torch.cat([state[0, -1:] for state in states]),
        "first_logits_top50_values": logits[torch.from_numpy(golden["first_logits_top50_ids"])],
        "first_logits_sampled_values": logits[torch.from_numpy(golden["first_logits_sampled_ids"])],
        "first_logits_logsumexp": logits.logsumexp(0),
    }


def rows(tokens: Tensor, index: list[int]) -> Tensor:
    """Rows of the first image's tokens ``[B, R, R, C]``, counted row-major."""
    return tokens[0].flatten(0, 1)[index]


def first_linear(mapper: torch.nn.Module, embedding: Tensor) -> Tensor:
    assert isinstance(mapper, TransformerMapper)
    assert mapper.linear is not None
    linear: Tensor = mapper.linear(embedding)[0].unflatten(0, mapper.shape)
    return linear
