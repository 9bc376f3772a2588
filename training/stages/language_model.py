"""Pre-training of the decoder, for those without a GPT-2 to start from.

Plain: predict the next token of each text. Reading: a transcript, with as many tokens as the audio
prefix has rows, takes the place of the audio prefix. The prompt follows, and only the answer counts
in the loss. A decoder that has learned to read can stay frozen in the captioning stage without loss
(``docs/decisions/0008``).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pengi_rt.models.pengi import Pengi
from pengi_rt.training.examples import NOTHING, TextRows
from pengi_rt.training.stages.losses import Losses, decoder_loss, text_prefix


class LanguageModel(nn.Module):
    """Maps groups of text rows to the mean cross-entropy of their target tokens."""

    def __init__(self, model: Pengi, naming: float = 0.0) -> None:
        """``naming`` is the weight of :func:`naming_loss`."""
        super().__init__()
        self.model = model
        self.naming = naming

    def forward(self, groups: Sequence[TextRows]) -> Losses:
        sums, named = zip(*(self._losses(rows) for rows in groups), strict=True)
        counts = torch.stack([_counted(rows).sum() for rows in groups])
        answer = torch.stack(sums).sum() / counts.sum()
        encoded = [loss for loss in named if loss is not None]
        if not encoded:
            return {"loss": answer}
        naming = torch.stack(encoded).mean()
        losses = {"answer": answer.detach(), "naming": naming.detach()}
        return {"loss": answer + self.naming * naming, **losses}

    def _losses(self, rows: TextRows) -> tuple[Tensor, Tensor | None]:
        """The summed loss of the answers, and the naming loss of encoded prompts."""
        if rows.transcripts is None:
            return decoder_loss(self.model, (), rows).sum(), None
        read = slot_embeddings(self.model, rows.transcripts)
        text = text_prefix(self.model, rows)
        answer = decoder_loss(self.model, (read, *text), rows).sum()
        if self.naming == 0.0 or rows.words is None:
            return answer, None
        return answer, naming_loss(self.model, text[0], rows.words)


def naming_loss(model: Pengi, prefix: Tensor, words: Tensor) -> Tensor:
    """How badly a text prefix names the words of its prompt, averaged over words.

    Each row of the prefix is normalized as in the decoder's first layer and scored against the
    embedding table (the paper's appendix B reads prefixes this way); the rows form a mixture. A
    prefix that names a word contains its embedding, so whatever the decoder has learned to do with
    that word in a prompt, it also does with the prefix.

    Args:
        model: its decoder's embedding table is used.
        prefix: [R, T, n_embd].
        words: [R, K] int64, filled up with :data:`NOTHING`.
    """
    scores = model.decoder.logits(F.layer_norm(prefix, prefix.shape[-1:])).float()
    named = scores.log_softmax(dim=-1).logsumexp(dim=1) - math.log(prefix.shape[1])
    there = words != NOTHING
    return -(named.gather(1, words.where(there, 0)) * there).sum() / there.sum()


def slot_embeddings(model: Pengi, transcripts: Tensor) -> Tensor:
    """Sum the embeddings of each slot's words: [R, P, W] to [R, P, n_embd]."""
    there = transcripts != NOTHING
    words = model.decoder.wte(transcripts.where(there, 0))
    return (words * there[..., None]).sum(dim=2)


def _counted(rows: TextRows) -> Tensor:
    """Where the loss counts. Without a prefix, nothing predicts the first token."""
    return rows.mask if rows.transcripts is not None else rows.mask[:, 1:]
