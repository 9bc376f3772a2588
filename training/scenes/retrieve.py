"""Retrieval among synthetic scenes: how often a query's scene is among the first results.

Source: paper, section 5.4: clips are captioned, and captions and queries are compared in the space
of the text encoder. Search by audio embeddings is scored too. Audio and text shared a space after
the contrastive stage, but the demo's text encoder was trained further since then
(``training/recipes/demo``), so searching audio with text no longer finds anything.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pengi_rt.backends.protocol import F32, F64, I64
from pengi_rt.engine import Engine
from pengi_rt.tasks.embed import unit
from pengi_rt.tasks.search.words import Words
from pengi_rt.training.scenes.facts import EVENTS, SAMPLE_RATE
from pengi_rt.training.scenes.held_out import SCENE, Clip
from pengi_rt.training.scenes.mix import mix
from pengi_rt.training.scenes.words import caption

EXAMPLE, SHUFFLED = 3, 4
"""Purposes of a random generator, after :data:`pengi_rt.training.scenes.held_out.WORDS`."""

FIRST = (1, 5, 10)
NAMED = 10
BATCH = 32

Recall = dict[str, float]
"""Fractions by ``R@k``."""


class Retrieved(NamedTuple):
    """The scores of retrieval among scenes."""

    recalls: dict[str, Recall]
    """By the kinds of query and item."""
    named: dict[str, float]
    """By the kind of item: the share of the first :data:`NAMED` scenes for an event's name that
    contain it.
    """
    distinct: dict[str, float]
    """The shares of true and of generated captions that are distinct."""


def retrieval(engine: Engine, clips: Sequence[Clip], seed: int) -> Retrieved:
    """Search for each scene among all scenes.

    A query is a scene's true caption, or a new sound of the same facts. Only that one scene is
    correct, though others may have the same caption. For an event's name, all scenes with that
    event are correct.
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
    words = Words(written)
    found["text to captions, by words"] = recall(word_ranks(queries, words, len(clips)))
    chance = {f"R@{k}": min(k / len(clips), 1.0) for k in FIRST}
    distinct = {"true": share(queries), "written": share(written)}
    return Retrieved({"chance": chance, **found}, named(engine, clips, index, words), distinct)


def named(engine: Engine, clips: Sequence[Clip], index: F32, words: Words) -> dict[str, float]:
    """Precision of searching for each event by its name, in captions' embeddings and words."""
    names = list(EVENTS)
    has = np.array(
        [[name in {e.name for e in clip.facts.events} for name in names] for clip in clips]
    )
    texts = embedded(engine, names)
    cosines = np.stack([texts[name] for name in names]) @ index.T
    near = np.argsort(-cosines, axis=1, kind="stable")[:, :NAMED]
    by_words = [words.nearest(name, NAMED)[1] for name in names]
    return {
        "chance": float(has.mean()),
        "name to captions": float(np.mean([has[rows, at] for at, rows in enumerate(near)])),
        "name to captions, by words": float(
            np.mean([has[rows, at].sum() / NAMED for at, rows in enumerate(by_words)])
        ),
    }


def captions(engine: Engine, sounds: Sequence[F32]) -> list[str]:
    """The model's caption of each clip."""
    told = engine.iter_generate(
        ((samples, SAMPLE_RATE) for samples in sounds), task="caption", batch_size=BATCH
    )
    return [result.windows[0].text for result in told]


def embedded(engine: Engine, texts: Sequence[str]) -> dict[str, F32]:
    """The unit vector of each text; equal texts have equal vectors, bit for bit."""
    distinct = list(dict.fromkeys(texts))
    return {each.text: unit(each.embedding) for each in engine.embed_text(distinct)}


def listened(engine: Engine, sounds: Sequence[F32]) -> F32:
    """The joint embedding of each clip, normalized, ``[n, d_proj]``."""
    recordings = ((samples, SAMPLE_RATE) for samples in sounds)
    return unit(
        np.stack([each.embedding[0] for each in engine.embed_audio(recordings, batch_size=BATCH)])
    )


def ranks(queries: F32, items: F32) -> I64:
    """The rank of each query's own item, from 1, ``[n]``; items that tie come before it.

    Args:
        queries: unit vectors ``[n, d]``.
        items: unit vectors ``[n, d]``; row i is the item of query i.
    """
    cosines: F64 = queries.astype(np.float64) @ items.T.astype(np.float64)
    # Equal rows of a matrix product may differ by rounding, if summed in different orders.
    own = np.diagonal(cosines)[:, None] - 1e-12
    found: I64 = np.count_nonzero(cosines >= own, axis=1)
    return found


def word_ranks(queries: Sequence[str], words: Words, count: int) -> I64:
    """Like :func:`ranks`, but by words: an item without a word of its query comes last."""
    found = np.full(len(queries), count)
    for item, query in enumerate(queries):
        scores, numbers = words.nearest(query, count)
        own = scores[numbers == item]
        if len(own):
            found[item] = np.count_nonzero(scores >= own)
    return found


def recall(found: I64) -> Recall:
    """The share of ranks that are among the first ``k``."""
    return {f"R@{k}": float(np.mean(found <= k)) for k in FIRST}


def share(texts: Sequence[str]) -> float:
    """The share of ``texts`` that are distinct."""
    return len(set(texts)) / len(texts)
