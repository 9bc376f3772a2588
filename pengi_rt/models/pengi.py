"""Pengi: audio and prompt in, a prefix for GPT-2 out (Deshmukh et al., NeurIPS 2023, figure 1)."""

from typing import NamedTuple

from torch import Tensor, nn
from torch.nn import functional as F

from pengi_rt.config import ModelConfig
from pengi_rt.models.gpt2 import GPT2
from pengi_rt.models.htsat import HTSAT
from pengi_rt.models.mapper import make_mapper
from pengi_rt.models.mel import LogMel
from pengi_rt.models.projection import Projection
from pengi_rt.models.text_encoder import TextEncoder


class Prefix(NamedTuple):
    """What an encoder and its mapper make of a batch.

    ``embedding`` is [B, d_proj] (without a text encoder [B, T, n_embd]), ``prefix`` [B, P, n_embd].
    """

    embedding: Tensor
    prefix: Tensor


class AudioEncoder(nn.Module):
    """Waveform [B, clip_samples] to the joint space [B, d_proj], not normalised."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.mel = LogMel(config)
        self.htsat = HTSAT(config.htsat)
        self.projection = Projection(config.htsat.num_features, config.d_proj)

    def forward(self, wave: Tensor) -> Tensor:
        embedding: Tensor = self.projection(self.htsat(self.mel(wave)))
        return embedding


class Pengi(nn.Module):
    """The whole model. Its parts are called one by one: decoding is the backends' work."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width = config.decoder.n_embd
        self.audio_encoder = AudioEncoder(config)
        self.text_encoder = (
            TextEncoder(config.text, config.d_proj) if config.text.kind == "clip" else None
        )
        self.audio_mapper = make_mapper(config.audio_mapper, config.d_proj, width)
        self.text_mapper = make_mapper(config.text_mapper, config.d_proj, width)
        self.decoder = GPT2(config.decoder)

    def encode_audio(self, wave: Tensor) -> Prefix:
        """Waveform [B, clip_samples] in [-1, 1] to embedding and prefix."""
        embedding = self.audio_encoder(wave)
        if self.config.normalize_audio:
            embedding = F.normalize(embedding, dim=1)
        return Prefix(embedding, self.audio_mapper(embedding))

    def encode_text(self, ids: Tensor) -> Prefix:
        """Token ids [B, T] to embedding and prefix.

        The released wrapper does not normalise the text embedding, although training did:
        ``config.normalize_text`` says which.
        """
        if self.text_encoder is None:
            embedding = self.decoder.wte(ids)
        else:
            embedding = self.text_encoder(ids)
            if self.config.normalize_text:
                embedding = F.normalize(embedding, dim=1)
        return Prefix(embedding, self.text_mapper(embedding))
