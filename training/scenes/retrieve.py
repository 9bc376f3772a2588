"""Retrieval among made scenes: how often the scene that a query is about is among the first.

Source: paper, section 5.4: clips are captioned, and captions and queries compared in the space of
the text encoder. Beside it, what audio embeddings find. They and texts shared a space in the
contrastive stage; the demo's text encoder has learned on since (``training/recipes/demo``), so that
between the two nothing is found any more.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from pengi_rt.backends.protocol import F32, F64, I64
from pengi_rt.embed import unit
from pengi_rt.engine import Engine
from pengi_rt.training.scenes.facts import SAMPLE_RATE
from pengi_rt.training.scenes.held_out import SCENE, Clip
from pengi_rt.training.scenes.mix import mix
from pengi_rt.training.scenes.words import caption

EXAMPLE, SHUFFLED = 3, 4
"""What a generator is for, behind :data:`pengi_rt.training.scenes.held_out.WORDS`."""

FIRST = (1, 5, 10)
BATCH = 32

Recall = dict[str, float]
"""Shares of 1 by ``R@k``."""


def retrieval(
    engine: Engine, clips: Sequence[Clip], seed: int
) -> tuple[dict[str, Recall], dict[str, float]]:
    """Recall by what is searched with what, and the shares of captions that are distinct.

    A query is a scene's true caption, or the same facts made to sound anew; right is that one scene
    alone, though others may have the same caption.
    """
    queries = [caption(clip.facts) for clip in clips]
    sounds = [clip.samples for clip in clips]
    examples = [
        mix(clip.facts, np.random.default_rng([seed, SCENE, place, EXAMPLE]))
        for place, clip in enumerate(clips)
    ]
    written = captions(engine, sounds)
    rewritten = captions(engine, examples)
    deaf = captions(engine, [np.zeros_like(sounds[0])]) * len(sounds)
    told = queries, written, rewritten, deaf
    texts = embedded(engine, [text for each in told for text in each])
    asked, index, retold, silent = (np.stack([texts[text] for text in each]) for each in told)
    heard, again = listened(engine, sounds), listened(engine, examples)
    shuffled = np.random.default_rng([seed, SHUFFLED]).permutation(len(clips))
    pairs: Mapping[str, tuple[F32, F32]] = {
        "text to captions": (asked, index),
        "text to captions, index shuffled": (asked, index[shuffled]),
        "text to captions of silence": (asked, silent),
        "text to audio": (asked, heard),
        "audio to captions": (again, index),
        "audio, captioned, to captions": (retold, index),
        "audio to audio": (again, heard),
    }
    found = {name: recall(ranks(query, items)) for name, (query, items) in pairs.items()}
    chance = {f"R@{k}": min(k / len(clips), 1.0) for k in FIRST}
    distinct = {"true": share(queries), "written": share(written)}
    return {"chance": chance, **found}, distinct


def captions(engine: Engine, sounds: Sequence[F32]) -> list[str]:
    """What the plan's caption prompt makes of every clip."""
    told = engine.answer(
        ((samples, SAMPLE_RATE) for samples in sounds), task="caption", batch_size=BATCH
    )
    return [result.windows[0].text for result in told]


def embedded(engine: Engine, texts: Sequence[str]) -> dict[str, F32]:
    """The unit vector of every text; the same text has the same, bit for bit."""
    distinct = list(dict.fromkeys(texts))
    return {each.text: unit(each.embedding) for each in engine.embed_text(distinct)}


def listened(engine: Engine, sounds: Sequence[F32]) -> F32:
    """``[n, d_proj]``: the joint embedding of every clip, of length 1."""
    recordings = ((samples, SAMPLE_RATE) for samples in sounds)
    return unit(
        np.stack([each.embedding[0] for each in engine.embed_audio(recordings, batch_size=BATCH)])
    )


def ranks(queries: F32, items: F32) -> I64:
    """``[n]``: where each query finds its own item, from 1; all that are as near come before it.

    Args:
        queries: unit vectors ``[n, d]``.
        items: unit vectors ``[n, d]``; row i is what query i looks for.
    """
    cosines: F64 = queries.astype(np.float64) @ items.T.astype(np.float64)
    # Equal rows of a matrix product may differ by rounding, where they are summed in other orders.
    own = np.diagonal(cosines)[:, None] - 1e-12
    found: I64 = np.count_nonzero(cosines >= own, axis=1)
    return found


def recall(found: I64) -> Recall:
    """The share of ranks that are among the first."""
    return {f"R@{k}": float(np.mean(found <= k)) for k in FIRST}


def share(texts: Sequence[str]) -> float:
    """Of ``texts`` that are distinct."""
    return len(set(texts)) / len(texts)
