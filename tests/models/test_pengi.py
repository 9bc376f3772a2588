"""The assembled model: where it normalizes, and that a batch equals its rows."""

import dataclasses

import pytest
import torch

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.tiny import random_model

TINY = PengiConfig.preset("tiny")
NO_TEXT = dataclasses.replace(
    TINY,
    text=dataclasses.replace(TINY.text, kind="token_embedding", max_length=12),
    text_mapper=dataclasses.replace(TINY.text_mapper, kind="transformer_seq"),
)
TIME = dataclasses.replace(
    TINY,
    htsat=dataclasses.replace(TINY.htsat, pooling="time"),
    audio_mapper=dataclasses.replace(TINY.audio_mapper, kind="transformer_time"),
)
BARE = dataclasses.replace(TINY, text=dataclasses.replace(TINY.text, kind="decoder", max_length=12))
IDS = torch.tensor([[510, 9, 8, 511], [510, 7, 511, 511], [510, 300, 301, 511]])


@pytest.fixture(scope="module")
def model() -> Pengi:
    return random_model(TINY).requires_grad_(requires_grad=False)


@pytest.fixture(scope="module")
def waves() -> torch.Tensor:
    return torch.rand(3, TINY.clip_samples, generator=torch.Generator().manual_seed(0)) - 0.5


def normalized(model: Pengi, *, audio: bool, text: bool) -> Pengi:
    """The same weights with different normalization settings."""
    config = dataclasses.replace(model.config, normalize_audio=audio, normalize_text=text)
    other = Pengi(config).eval()
    other.load_state_dict(model.state_dict())
    return other


def test_the_audio_embedding_is_normalized_and_the_text_embedding_not(
    model: Pengi, waves: torch.Tensor
) -> None:
    audio, text = model.encode_audio(waves), model.encode_text(IDS)
    assert audio.embedding.shape == text.embedding.shape == (3, TINY.d_proj)
    assert audio.prefix.shape == text.prefix.shape == (3, 8, 64)
    torch.testing.assert_close(audio.embedding.norm(dim=1), torch.ones(3))
    # A LayerNorm's output of 48 values has a norm near sqrt(48).
    assert text.embedding.norm(dim=1).min() > 5


def test_the_config_decides_what_is_normalized(model: Pengi, waves: torch.Tensor) -> None:
    plain = normalized(model, audio=False, text=True)
    audio, text = plain.encode_audio(waves), plain.encode_text(IDS)
    assert audio.embedding.norm(dim=1).min() > 5
    torch.testing.assert_close(text.embedding.norm(dim=1), torch.ones(3))
    released = model.encode_text(IDS)
    assert (text.prefix - released.prefix).abs().max() > 0.01, "the mapper must read it normalized"


def test_a_batch_equals_its_rows_alone(model: Pengi, waves: torch.Tensor) -> None:
    for together, alone in (
        (model.encode_audio(waves), [model.encode_audio(wave[None]) for wave in waves]),
        (model.encode_text(IDS), [model.encode_text(ids[None]) for ids in IDS]),
    ):
        for index, one in enumerate(alone):
            torch.testing.assert_close(
                together.embedding[index], one.embedding[0], atol=1e-5, rtol=1e-5
            )
            torch.testing.assert_close(together.prefix[index], one.prefix[0], atol=1e-4, rtol=1e-4)


def test_without_a_text_encoder_the_embedding_is_the_decoders_rows() -> None:
    model = random_model(NO_TEXT).requires_grad_(requires_grad=False)
    assert model.text_encoder is None
    assert model.text_mapper is not None
    ids = torch.arange(24).reshape(2, 12)
    encoded = model.encode_text(ids)
    assert torch.equal(encoded.embedding, model.decoder.wte.weight[ids])
    torch.testing.assert_close(encoded.prefix, model.text_mapper(encoded.embedding))
    assert encoded.prefix.shape == (2, 8, 64)


def test_a_bare_prompt_is_embedded_unchanged() -> None:
    model = random_model(BARE).requires_grad_(requires_grad=False)
    assert model.text_encoder is None
    assert model.text_mapper is None
    assert not [name for name in model.state_dict() if name.startswith("text_")]
    for length in (1, 5, 12):
        ids = torch.arange(2 * length).reshape(2, length)
        encoded = model.encode_text(ids)
        assert torch.equal(encoded.prefix, model.decoder.wte.weight[ids])
        assert torch.equal(encoded.embedding, encoded.prefix)


def test_a_cached_log_mel_gives_the_result_of_its_waveform(
    model: Pengi, waves: torch.Tensor
) -> None:
    encoder = model.audio_encoder
    features = encoder.from_log_mel(encoder.mel.log_mel(waves))
    assert torch.equal(features, encoder(waves))
    for mapped, encoded in zip(model.map_audio(features), model.encode_audio(waves), strict=True):
        assert torch.equal(mapped, encoded)
    assert model.text_encoder is not None
    text = model.map_text(model.text_encoder(IDS))
    for mapped, encoded in zip(text, model.encode_text(IDS), strict=True):
        assert torch.equal(mapped, encoded)


@pytest.mark.parametrize("normalize", [True, False])
def test_a_sequence_in_time_is_normalized_step_by_step(
    waves: torch.Tensor, normalize: bool
) -> None:
    config = dataclasses.replace(TIME, normalize_audio=normalize)
    model = random_model(config).requires_grad_(requires_grad=False)
    steps = model.audio_encoder(waves)
    assert steps.shape == (3, config.audio_steps, TINY.d_proj) == (3, 32, 48)
    assert steps.norm(dim=2).min() > 5
    audio = model.encode_audio(waves)
    if normalize:
        steps = steps / steps.norm(dim=2, keepdim=True)
    mean = steps.mean(dim=1)
    expected = mean / mean.norm(dim=1, keepdim=True) if normalize else mean
    torch.testing.assert_close(audio.embedding, expected)
    torch.testing.assert_close(audio.prefix, model.audio_mapper(steps))
    assert audio.prefix.shape == (3, 8, 64)


@pytest.mark.parametrize(
    ("preset", "parameters"), [("base", 323_440_343), ("base_no_text_enc", 226_949_335)]
)
def test_the_published_sizes(preset: str, parameters: int) -> None:
    """The released count includes the STFT, the mel bank, and HTSAT's unused class heads."""
    with torch.device("meta"):
        model = Pengi(PengiConfig.preset(preset))
    mel = model.audio_encoder.mel
    constants = mel.stft_real.numel() + mel.stft_imag.numel() + mel.mel_bank.numel()
    heads = 527 * (768 * 2 * 3 + 1) + 527 * (527 + 1)
    ours = sum(parameter.numel() for parameter in model.parameters())
    assert ours + constants + heads == parameters
