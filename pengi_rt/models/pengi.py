"""Pengi maps audio and a prompt to a prefix for GPT-2 (Deshmukh et al., NeurIPS 2023, figure 1)."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.gpt2 import GPT2
from pengi_rt.models.htsat import HTSAT
from pengi_rt.models.mapper import make_mapper
from pengi_rt.models.mel import LogMel
from pengi_rt.models.projection import Projection
from pengi_rt.models.text_encoder import TextEncoder

PARTS = ("audio_encoder", "text_encoder", "audio_mapper", "text_mapper", "decoder")
"""The attributes of :class:`Pengi` that hold its weights."""


class Prefix(NamedTuple):
    """The output of an encoder and its mapper for a batch.

    ``embedding`` is [B, d_proj], or [B, T, n_embd] without a text encoder. ``prefix`` is
    [B, P, n_embd]; where the decoder itself embeds the prompt, both are the same and P is T.
    """

    embedding: Tensor
    prefix: Tensor


class AudioEncoder(nn.Module):
    """Maps a waveform [B, clip_samples] to the joint space, not normalized.

    The result is [B, d_proj]; with ``htsat.pooling="time"`` it is [B, T, d_proj], one row for each
    of the ``config.audio_steps`` steps.
    """

    def __init__(self, config: PengiConfig) -> None:
        super().__init__()
        self.mel = LogMel(config)
        self.htsat = HTSAT(config.htsat, config.strips)
        self.projection = Projection(config.htsat.num_features, config.d_proj)

    def forward(self, wave: Tensor) -> Tensor:
        return self.from_log_mel(self.mel.log_mel(wave))

    def from_log_mel(self, log_mel: Tensor) -> Tensor:
        """Continue from decibels [B, frames, n_mels], which a trainer can cache."""
        features: Tensor = self.projection(self.htsat(self.mel.fold(log_mel)))
        return features


class Pengi(nn.Module):
    """The whole model. There is no ``forward``: the backends call its parts and decode."""

    def __init__(self, config: PengiConfig) -> None:
        super().__init__()
        self.config = config
        width, kind = config.decoder.n_embd, config.text.kind
        self.audio_encoder = AudioEncoder(config)
        self.text_encoder = TextEncoder(config.text, config.d_proj) if kind == "clip" else None
        self.audio_mapper = make_mapper(
            config.audio_mapper, config.d_proj, width, config.audio_steps
        )
        self.text_mapper = (
            None if kind == "decoder" else make_mapper(config.text_mapper, config.d_proj, width)
        )
        self.decoder = GPT2(config.decoder)

    def encode_audio(self, wave: Tensor) -> Prefix:
        """Encode a waveform [B, clip_samples] in [-1, 1]."""
        return self.map_audio(self.audio_encoder(wave))

    def map_audio(self, features: Tensor) -> Prefix:
        """Map the audio encoder's output, [B, d_proj] or [B, T, d_proj], to embedding and prefix.

        The embedding is always [B, d_proj]. For a sequence it is the mean over time, normalized
        again if the steps are (``config.normalize_audio``).
        """
        steps = self._normalize_audio(features)
        embedding = steps if steps.ndim == 2 else self._normalize_audio(steps.mean(dim=1))
        return Prefix(embedding, self.audio_mapper(steps))

    def encode_text(self, ids: Tensor) -> Prefix:
        """Encode token ids [B, T]."""
        encoder = self.decoder.wte if self.text_encoder is None else self.text_encoder
        return self.map_text(encoder(ids))

    def map_text(self, features: Tensor) -> Prefix:
        """Map the text encoder's output, [B, d_proj], to embedding and prefix.

        Without a text encoder the input is the decoder's embedding of the prompt, [B, T, n_embd].
        The released wrapper does not normalize the text embedding, although training did;
        ``config.normalize_text`` chooses.
        """
        if self.text_mapper is None:
            return Prefix(features, features)
        if self.config.normalize_text and self.text_encoder is not None:
            features = F.normalize(features, dim=1)
        return Prefix(features, self.text_mapper(features))

    def _normalize_audio(self, features: Tensor) -> Tensor:
        if not self.config.normalize_audio:
            return features
        return F.normalize(features, dim=features.ndim - 1)  # dim=-1 would export another graph
