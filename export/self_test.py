"""The export's last step: the written plan must compute what the PyTorch model computes.

That is all: whether the checkpoint is as it was saved, :mod:`pengi_rt.export.file_check` says.

Two made clips and two prompts go through both, each of the four pairs alone (the worst is kept) and
three pairs together, stage by stage and then token by token. The tolerance is 1e-4 of a stage's
largest value. On the published geometry and on ``tiny`` the largest difference seen was 1.4e-5 of
it; one matrix 1 % off is beyond it by far.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from pengi_rt.backends.protocol import F32, I64, Backend, Encoded
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.model import ModelConfig
from pengi_rt.decoding.beam import search
from pengi_rt.text.tokenizers import PromptTokenizer

RELATIVE_TOLERANCE = 1e-4
PROMPTS = ("generate audio caption", "this is a sound of")
NEW_TOKENS = 12
PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))
"""Clip and prompt: each pair alone, the first three together."""


@dataclass(frozen=True, slots=True)
class Check:
    """One stage of a backend compared: the largest difference, and how large it may be."""

    backend: str
    stage: str
    batch: int
    difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether the difference is in bounds (NaN is not)."""
        return self.difference <= self.tolerance

    @property
    def strain(self) -> float:
        """How near to its tolerance it came, 1 at it; NaN is furthest beyond."""
        strain = self.difference / self.tolerance if self.tolerance else self.difference
        return strain if strain == strain else float("inf")  # noqa: PLR0124 - NaN


def run_self_test(
    plan: Backend, reference: Backend, tokenizer: PromptTokenizer
) -> tuple[Check, ...]:
    """Every stage of ``plan`` against ``reference``, batch 1 and 3.

    Raises:
        ValueError: logits are not numbers.
    """
    clips = made_clips(plan.config)
    prompts = _prompts(plan.config, tokenizer)

    def run(pairs: Sequence[tuple[int, int]]) -> list[Check]:
        waves = clips[[clip for clip, _ in pairs]]
        ids = tokenizer.pad([prompts[prompt] for _, prompt in pairs])
        return list(_checks(plan, reference, waves, ids))

    alone = [run([pair]) for pair in PAIRS]
    worst = [max(checks, key=lambda check: check.strain) for checks in zip(*alone, strict=True)]
    return (*worst, *run(PAIRS[:3]))


def _prompts(config: ModelConfig, tokenizer: PromptTokenizer) -> list[I64]:
    """Ids of the prompts, of which any make a batch: bare tokens are cut to one length."""
    prompts = [tokenizer.encode(prompt).ids for prompt in PROMPTS]
    bare = config.text.kind == "decoder"
    return [ids[: min(map(len, prompts))] for ids in prompts] if bare else prompts


def report(checks: Sequence[Check]) -> dict[str, object]:
    """What the plan keeps of the test."""
    return {
        "passed": all(check.passed for check in checks),
        "prompts": list(PROMPTS),
        "new_tokens": NEW_TOKENS,
        "checks": [asdict(check) | {"passed": check.passed} for check in checks],
    }


def made_clips(config: ModelConfig) -> F32:
    """A rising tone and bursts of noise, [2, clip_samples], the same in every export.

    Both over a floor of noise: in an empty mel bin the logarithm would blow up rounding.
    """
    seconds = np.arange(config.clip_samples) / config.mel.sample_rate
    rate = config.mel.sample_rate / 8 / config.clip_seconds
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
    # Both decoders start from the same prefix, so that a difference names its stage.
    joined = np.concatenate(prefixes, axis=1)
    lengths = np.full(batch, joined.shape[1])
    first = [
        _log_softmax(runner.prefill(joined, lengths, width=1, max_new_tokens=1)[1])
        for runner in (plan, reference)
    ]
    yield _compare(plan, "first log-probabilities", batch, *first)
    yield from _compare_search(plan, reference, list(joined), batch)


def _encoders(waves: F32, ids: I64) -> Iterator[tuple[str, Callable[[Backend], Encoded]]]:
    yield "audio", lambda backend: backend.encode_audio(waves)
    yield "text", lambda backend: backend.encode_text(ids)


def _compare_search(
    plan: Backend, reference: Backend, prefixes: Sequence[F32], batch: int
) -> Iterator[Check]:
    config = plan.config
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
    wrong = sum(tuple(mine.tokens) != tuple(other.tokens) for mine, other in pairs)
    yield Check(plan.name, "beams with other tokens", batch, float(wrong), 0.0)
    scores = np.array([(mine.score, other.score) for mine, other in pairs])
    yield _compare(plan, "beam scores", batch, scores[:, 0], scores[:, 1])


def _compare(plan: Backend, stage: str, batch: int, ours: F32, theirs: F32) -> Check:
    difference = float(np.abs(ours.astype(np.float64) - theirs).max())
    tolerance = RELATIVE_TOLERANCE * float(np.abs(theirs).max())
    return Check(plan.name, stage, batch, difference, tolerance)


def _log_softmax(logits: F32) -> F32:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalised: F32 = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalised
