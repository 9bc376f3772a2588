"""Pre-training of the decoder, for those who have no GPT-2 to start from.

Plain: the next token of every text. Reading: a transcript, as many tokens as the audio prefix has
rows, stands where the audio prefix will stand, then the prompt, and the loss counts on the answer
alone. A decoder that has learned to read can stay frozen in the captioning stage without loss
(``docs/decisions/0008``).
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pengi_rt.models.pengi import Pengi
from pengi_rt.training.examples import NOTHING, TextRows
from pengi_rt.training.stages.losses import Losses, decoder_loss, text_prefix


class LanguageModel(nn.Module):
    """Groups of text rows to the mean cross-entropy of their target tokens."""

    def __init__(self, model: Pengi) -> None:
        super().__init__()
        self.model = model

    def forward(self, groups: Sequence[TextRows]) -> Losses:
        losses = torch.stack([self._sum(rows) for rows in groups])
        counts = torch.stack([_counted(rows).sum() for rows in groups])
        return {"loss": losses.sum() / counts.sum()}

    def _sum(self, rows: TextRows) -> Tensor:
        if rows.transcripts is None:
            return decoder_loss(self.model, (), rows).sum()
        read = slot_embeddings(self.model, rows.transcripts)
        return decoder_loss(self.model, (read, *text_prefix(self.model, rows)), rows).sum()


def slot_embeddings(model: Pengi, transcripts: Tensor) -> Tensor:
    """Every slot's words [R, P, W] as the sum of their embeddings [R, P, n_embd]."""
    there = transcripts != NOTHING
    words = model.decoder.wte(transcripts.where(there, 0))
    return (words * there[..., None]).sum(dim=2)


def _counted(rows: TextRows) -> Tensor:
    """Where the loss counts: without a prefix nothing predicts the first token."""
    return rows.mask if rows.transcripts is not None else rows.mask[:, 1:]
