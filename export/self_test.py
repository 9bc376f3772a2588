"""The last step of an export: check that the plan computes what the PyTorch model computes.

Nothing else: whether the checkpoint is intact is checked in :mod:`pengi_rt.export.file_check`.

Both run two synthetic clips with two prompts, stage by stage and then token by token: each of the
four pairs alone (the worst result is kept), then three pairs as a batch. The tolerance is 1e-4 of a
stage's largest value. On the published geometry and on ``tiny`` the largest difference measured was
1.4e-5 of it; a single matrix that is 1 % off exceeds the tolerance by far.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pengi_rt.backends.protocol import F32, I64, Backend, Encoded
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.family import FamilyConfig, generative
from pengi_rt.config.pengi import PengiConfig, pengi_config
from pengi_rt.decoding.beam import search
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.text.tokenizers import PromptTokenizer

RELATIVE_TOLERANCE = 1e-4
PROMPTS = ("generate audio caption", "this is a sound of")
NEW_TOKENS = 12
PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Pairs of clip and prompt. Each runs alone; the first three also run as a batch."""


@dataclass(frozen=True, slots=True)
class Check:
    """One stage of a backend, compared: the largest difference and the tolerance."""

    backend: str
    stage: str
    batch: int
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance (NaN is not)."""
        return self.difference <= self.tolerance

    @property
    def strain(self) -> float:
        """The difference relative to the tolerance: above 1 the check failed; NaN is infinity."""
        strain = self.difference / self.tolerance if self.tolerance else self.difference
        return strain if strain == strain else float("inf")  # noqa: PLR0124 - NaN


def run_self_test(
    plan: Backend, reference: Backend, tokenizer: PromptTokenizer
) -> tuple[Check, ...]:
    """Compare every stage of ``plan`` with ``reference``, in batches of 1 and 3.

    Raises:
        ValueError: the logits contain NaN.
    """
    clips = synthetic_clips(plan.config)
    prompts = _prompts(pengi_config(plan.config), tokenizer)

    def run(pairs: Sequence[tuple[int, int]]) -> list[Check]:
        waves = clips[[clip for clip, _ in pairs]]
        ids = tokenizer.pad([prompts[prompt] for _, prompt in pairs])
        return list(_checks(plan, reference, waves, ids))

    alone = [run([pair]) for pair in PAIRS]
    worst = [max(checks, key=lambda check: check.strain) for checks in zip(*alone, strict=True)]
    return (*worst, *run(PAIRS[:3]))


def _prompts(config: PengiConfig, tokenizer: PromptTokenizer) -> list[I64]:
    """Token ids of the prompts, cut to one length where a batch cannot be padded."""
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    bare = config.text.kind == "decoder"
    return [ids[: min(map(len, prompts))] for ids in prompts] if bare else prompts


def report(checks: Sequence[Check]) -> dict[str, object]:
    """The record of the test that the plan keeps."""
    return {
        "passed": all(check.passed for check in checks),
        "prompts": list(PROMPTS),
        "new_tokens": NEW_TOKENS,
        "checks": [asdict(check) | {"passed": check.passed} for check in checks],
    }


def synthetic_clips(config: FamilyConfig) -> F32:
    """A rising tone and bursts of noise, float32 [2, clip_samples], the same in every export.

    Both have a noise floor: in an empty mel bin the logarithm would amplify rounding errors.
    """
    seconds = np.arange(config.clip_samples) / config.sample_rate
    rate = config.sample_rate / 8 / config.clip_seconds
    tone = 0.4 * np.sin(2 * np.pi * (60 + rate * seconds) * seconds)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, config.clip_samples)
    bursts = noise * np.exp(-8 * (seconds * 3 % 1))
    return (np.stack([tone, bursts]) + 0.02 * noise[::-1]).astype(np.float32)


def _checks(plan: Backend, reference: Backend, waves: F32, ids: I64) -> Iterator[Check]:
    batch = len(waves)
    prefixes: list[F32] = []
    for stage, run in _encoders(waves, ids):
        ours, theirs = run(plan), run(reference)
        yield _compare(plan, f"{stage} embedding", batch, ours.embedding, theirs.embedding)
        yield _compare(plan, f"{stage} prefix", batch, ours.prefix, theirs.prefix)
        prefixes.append(theirs.prefix)
    # Both decoders start from the same prefix, so that a difference points to its stage.
    joined = np.concatenate(prefixes, axis=1)
    lengths = np.full(batch, joined.shape[1])
    first = [_log_softmax(_first_logits(runner, joined, lengths)) for runner in (plan, reference)]
    yield _compare(plan, "first log-probabilities", batch, *first)
    yield from _compare_search(plan, reference, list(joined), batch)


def _first_logits(backend: Backend, prefix: F32, lengths: I64) -> F32:
    decoder = require_decoder(backend)
    slots, rows, _ = prefix.shape
    cache = decoder.new_cache(slots=slots, width=1, prefix_rows=rows, new_tokens=1)
    return decoder.prefill(cache, np.arange(slots), prefix, lengths)


def _encoders(waves: F32, ids: I64) -> Iterator[tuple[str, Callable[[Backend], Encoded]]]:
    yield "audio", lambda backend: backend.encoders.encode_audio(waves)
    yield "text", lambda backend: backend.encoders.encode_text(ids)


def _compare_search(
    plan: Backend, reference: Backend, prefixes: Sequence[F32], batch: int
) -> Iterator[Check]:
    config = generative(plan.config)
    options = DecodeOptions(
        beam_size=5,
        max_new_tokens=NEW_TOKENS,
        temperature=1.0,
        stop_id=config.stop_id,
        pad_id=config.pad_id,
    )
    ours, theirs = (search(runner, prefixes, options) for runner in (plan, reference))
    pairs = [
        (mine, other)
        for hypotheses, expected in zip(ours, theirs, strict=True)
        for mine, other in zip(hypotheses.beams, expected.beams, strict=True)
    ]
    different = sum(tuple(mine.tokens) != tuple(other.tokens) for mine, other in pairs)
    yield Check(plan.name, "beams with other tokens", batch, float(different), 0.0)
    scores = np.array([(mine.score, other.score) for mine, other in pairs])
    yield _compare(plan, "beam scores", batch, scores[:, 0], scores[:, 1])


def _compare(plan: Backend, stage: str, batch: int, ours: F32, theirs: F32) -> Check:
    difference = float(np.abs(ours.astype(np.float64) - theirs).max())
    tolerance = RELATIVE_TOLERANCE * float(np.abs(theirs).max())
    return Check(plan.name, stage, batch, difference, tolerance)


def _log_softmax(logits: F32) -> F32:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalized: F32 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalized
