"""Pengi: audio and prompt in, a prefix for GPT-2 out (Deshmukh et al., NeurIPS 2023, figure 1)."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from pengi_rt.config.model import ModelConfig
from pengi_rt.models.gpt2 import GPT2
from pengi_rt.models.htsat import HTSAT
from pengi_rt.models.mapper import make_mapper
from pengi_rt.models.mel import LogMel
from pengi_rt.models.projection import Projection
from pengi_rt.models.text_encoder import TextEncoder

PARTS = ("audio_encoder", "text_encoder", "audio_mapper", "text_mapper", "decoder")
"""The attributes of :class:`Pengi` that hold its weights."""


class Prefix(NamedTuple):
    """What an encoder and its mapper make of a batch.

    ``embedding`` is [B, d_proj] (without a text encoder [B, T, n_embd]), ``prefix`` [B, P, n_embd];
    where the decoder itself embeds the prompt, the two are one and P is T.
    """

    embedding: Tensor
    prefix: Tensor


class AudioEncoder(nn.Module):
    """Waveform [B, clip_samples] to the joint space, not normalised.

    [B, d_proj]; with ``htsat.pooling="time"`` one row for each of ``config.audio_steps`` steps,
    [B, T, d_proj].
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mel = LogMel(config)
        self.htsat = HTSAT(config.htsat, config.strips)
        self.projection = Projection(config.htsat.num_features, config.d_proj)

    def forward(self, wave: Tensor) -> Tensor:
        return self.from_log_mel(self.mel.log_mel(wave))

    def from_log_mel(self, log_mel: Tensor) -> Tensor:
        """Decibels [B, frames, n_mels] (:meth:`.LogMel.log_mel`), which a trainer can keep."""
        features: Tensor = self.projection(self.htsat(self.mel.fold(log_mel)))
        return features


class Pengi(nn.Module):
    """The whole model. Its parts are called one by one: decoding is the backends' work."""

    def __init__(self, config: ModelConfig) -> None:
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
        """Waveform [B, clip_samples] in [-1, 1] to embedding and prefix."""
        return self.map_audio(self.audio_encoder(wave))

    def map_audio(self, features: Tensor) -> Prefix:
        """What the audio encoder gives, [B, d_proj] or [B, T, d_proj], to embedding and prefix.

        The embedding is [B, d_proj] in either case: of a sequence the mean over time, normalised
        again if the steps are (``config.normalize_audio``).
        """
        steps = self._normalised_audio(features)
        embedding = steps if steps.ndim == 2 else self._normalised_audio(steps.mean(dim=1))
        return Prefix(embedding, self.audio_mapper(steps))

    def encode_text(self, ids: Tensor) -> Prefix:
        """Token ids [B, T] to embedding and prefix."""
        encoder = self.decoder.wte if self.text_encoder is None else self.text_encoder
        return self.map_text(encoder(ids))

    def map_text(self, features: Tensor) -> Prefix:
        """What the text encoder gives, [B, d_proj], to embedding and prefix.

        Without one, the decoder's embeddings of the prompt, [B, T, n_embd]. The released wrapper
        does not normalise the text embedding, although training did: ``config.normalize_text``
        says which.
        """
        if self.text_mapper is None:
            return Prefix(features, features)
        if self.config.normalize_text and self.text_encoder is not None:
            features = F.normalize(features, dim=1)
        return Prefix(features, self.text_mapper(features))

    def _normalised_audio(self, features: Tensor) -> Tensor:
        if not self.config.normalize_audio:
            return features
        return F.normalize(features, dim=features.ndim - 1)  # -1 would write another graph
