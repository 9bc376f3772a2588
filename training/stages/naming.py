"""Losses by which rows of a prefix name words in the decoder's own embeddings.

The paper's appendix B reads a prefix so: by the vocabulary's nearest tokens. A row that names a
word holds its embedding, and whatever the decoder has learned to do with the word it then does with
the row. Rows are normalised as the decoder's first layer does.
"""

import math

from torch import Tensor
from torch.nn import functional as F

from pengi_rt.models.pengi import Pengi
from pengi_rt.training.examples import NOTHING


def naming_loss(model: Pengi, prefix: Tensor, words: Tensor) -> Tensor:
    """How badly a text prefix names the words of its prompt, mean over words.

    Every row of the prefix scores all words; the rows together are a mixture.

    Args:
        model: its decoder's table is used.
        prefix: [R, T, n_embd].
        words: [R, K], the rest :data:`NOTHING`.
    """
    named = _scores(model, prefix).logsumexp(dim=1) - math.log(prefix.shape[1])
    there = words != NOTHING
    return -(named.gather(1, words.where(there, 0)) * there).sum() / there.sum()


def slot_naming_loss(model: Pengi, prefix: Tensor, transcripts: Tensor) -> Tensor:
    """How badly each row of a prefix names the words of its slot of the transcript.

    Args:
        model: its decoder's table is used.
        prefix: [R, P, n_embd].
        transcripts: [R, P, W], the rest :data:`NOTHING`.

    Returns:
        [R]: the mean over the words.
    """
    named = _scores(model, prefix)
    there = transcripts != NOTHING
    found = named.gather(2, transcripts.where(there, 0))
    return -(found * there).sum(dim=(1, 2)) / there.sum(dim=(1, 2))


def _scores(model: Pengi, prefix: Tensor) -> Tensor:
    """Log-probabilities [R, P, V] of every token by every row."""
    logits = model.decoder.logits(F.layer_norm(prefix, prefix.shape[-1:]))
    return logits.float().log_softmax(dim=-1)
