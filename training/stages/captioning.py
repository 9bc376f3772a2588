"""Captioning: audio and prompt become a prefix, after which the frozen decoder says the target.

Paper, section 3, equations 1 to 3, and figure 1. The run's config chooses the parts to train.
"""

from torch import nn

from pengi_rt.models.pengi import Pengi
from pengi_rt.training.examples import Clips
from pengi_rt.training.stages.losses import Losses, decoder_loss, log_mel, shares, text_prefix


class Captioning(nn.Module):
    """Maps clips and their rows to the mean cross-entropy of the target tokens."""

    def __init__(self, model: Pengi) -> None:
        super().__init__()
        self.model = model

    def forward(self, clips: Clips) -> Losses:
        model, rows = self.model, clips.rows
        assert rows.clips is not None
        features = model.audio_encoder.from_log_mel(log_mel(model, clips))
        audio, text = model.map_audio(features).prefix, text_prefix(model, rows)
        losses = decoder_loss(model, (audio[rows.clips], *text), rows)
        share = shares(model)
        if share is not None:
            # A row is also about the clip that its own clip was mixed into.
            mirror = len(share) - 1 - rows.clips
            mixed = decoder_loss(model, (audio[mirror], *text), rows)
            losses = share[rows.clips] * losses + (1 - share[mirror]) * mixed
        return {"loss": losses.sum() / rows.mask.sum()}
