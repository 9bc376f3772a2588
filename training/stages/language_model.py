"""Pre-training of the decoder, for those who have no GPT-2 to start from.

Plain: the next token of every text. Reading: a transcript, as many tokens as the audio prefix has
rows, stands where the audio prefix will stand, then the prompt, and the loss counts on the answer
alone. A decoder that has learned to read can stay frozen in the captioning stage without loss
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
    """Groups of text rows to the mean cross-entropy of their target tokens."""

    def __init__(self, model: Pengi, naming: float = 0.0) -> None:
        """``naming``: the weight of :func:`naming_loss`."""
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
        """The answers' loss, summed, and the naming loss of encoded prompts."""
        if rows.transcripts is None:
            return decoder_loss(self.model, (), rows).sum(), None
        read = slot_embeddings(self.model, rows.transcripts)
        text = text_prefix(self.model, rows)
        answer = decoder_loss(self.model, (read, *text), rows).sum()
        if self.naming == 0.0 or rows.words is None:
            return answer, None
        return answer, naming_loss(self.model, text[0], rows.words)


def naming_loss(model: Pengi, prefix: Tensor, words: Tensor) -> Tensor:
    """How badly a text prefix names the words of its prompt, mean over words.

    Each row of the prefix, normalised as the decoder's first layer does, is scored against the
    embedding table (the paper's appendix B reads prefixes so); the rows together are a mixture. A
    prefix that names a word holds its embedding, and whatever the decoder has learned to do with a
    word of a prompt it then does with the prefix.

    Args:
        model: its decoder's table is used.
        prefix: [R, T, n_embd].
        words: [R, K], the rest :data:`NOTHING`.
    """
    scores = model.decoder.logits(F.layer_norm(prefix, prefix.shape[-1:])).float()
    named = scores.log_softmax(dim=-1).logsumexp(dim=1) - math.log(prefix.shape[1])
    there = words != NOTHING
    return -(named.gather(1, words.where(there, 0)) * there).sum() / there.sum()


def slot_embeddings(model: Pengi, transcripts: Tensor) -> Tensor:
    """Every slot's words [R, P, W] as the sum of their embeddings [R, P, n_embd]."""
    there = transcripts != NOTHING
    words = model.decoder.wte(transcripts.where(there, 0))
    return (words * there[..., None]).sum(dim=2)


def _counted(rows: TextRows) -> Tensor:
    """Where the loss counts: without a prefix nothing predicts the first token."""
    return rows.mask if rows.transcripts is not None else rows.mask[:, 1:]
