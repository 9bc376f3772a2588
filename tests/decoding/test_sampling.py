"""Sampling against its definition: the standard logits warpers, and counted frequencies."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from fake_backend import WIDTH, FakeBackend, ScriptedModel, ToyModel
from toy_paths import log_probs, prefixes
from transformers.generation.logits_process import (
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from pengi_rt.backends.protocol import F32, F64
from pengi_rt.config.decode import MIN_TEMPERATURE, DecodeOptions, SampleOptions
from pengi_rt.decoding.backtrack import Hypotheses
from pengi_rt.decoding.beam import search
from pengi_rt.decoding.sampling import sample, sample_choice
from pengi_rt.errors import UsageError
from pengi_rt.kernels.beam_step_cpu import BeamState

MODEL = ToyModel()
OPTIONS = SampleOptions(
    samples=3,
    max_new_tokens=12,
    temperature=1.0,
    top_k=None,
    top_p=None,
    seed=0,
    stop_id=MODEL.stop_id,
    pad_id=0,
)
NOTHING = np.zeros((1, WIDTH), np.float32)


def sample_all(clips: Sequence[F32], **changes: Any) -> list[Hypotheses]:
    return sample(FakeBackend(MODEL), clips, replace(OPTIONS, **changes))


def draw(logits: F32, **changes: Any) -> list[int]:
    """The first tokens of 64 samples, from logits ``[V]``."""
    choose = sample_choice(replace(OPTIONS, samples=64, stop_id=-1, **changes))
    tokens: list[int] = choose(logits[None, None], BeamState.start(1)).tokens[0].tolist()
    return tokens


def warped(logits: F32, options: SampleOptions) -> F64:
    """The distribution by transformers' warpers, in float64."""
    scores = TemperatureLogitsWarper(options.temperature)(None, torch.tensor(logits).double()[None])
    if options.top_k is not None:
        scores = TopKLogitsWarper(options.top_k)(None, scores)
    if options.top_p is not None:
        scores = TopPLogitsWarper(options.top_p)(None, scores)
    found: F64 = scores.softmax(-1)[0].numpy()
    return found


RESTRICTIONS = [
    {"top_k": None, "top_p": None},
    {"top_k": 1, "top_p": None},
    {"top_k": 4, "top_p": None},
    {"top_k": 10**6, "top_p": 1.0},
    {"top_k": None, "top_p": 0.05},
    {"top_k": None, "top_p": 0.9},
    {"top_k": 40, "top_p": 0.7},
]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("restriction", RESTRICTIONS, ids=str)
@pytest.mark.parametrize("vocab", [1, 7, 50257])
def test_draws_invert_the_truncated_distribution(
    vocab: int, restriction: dict[str, Any], temperature: float
) -> None:
    """Token by token: the first whose cumulative probability exceeds its uniform number."""
    logits = np.random.default_rng(vocab).normal(0, 3, vocab).astype(np.float32)
    options = replace(OPTIONS, temperature=temperature, **restriction)
    cumulative = warped(logits, options).cumsum()
    uniforms = [
        np.random.Generator(np.random.PCG64(seed)).random()
        for seed in np.random.SeedSequence(9).spawn(64)
    ]
    expected = [int(np.argmax(cumulative > uniform)) for uniform in uniforms]
    assert draw(logits, seed=9, temperature=temperature, **restriction) == expected


SCRIPT: Mapping[tuple[int, ...], Sequence[float]] = {
    (): [0.3, 0.25, 0.35, 0.1],
    (0,): [0.5, 0.2, 0.2, 0.1],
    (2,): [0.04, 0.06, 0.1, 0.8],
}


def chi_square(
    counts: Counter[tuple[int, ...]], expected: Mapping[tuple[int, ...], float]
) -> float:
    draws = counts.total()
    return sum((counts[key] - draws * p) ** 2 / (draws * p) for key, p in expected.items())


@pytest.mark.parametrize(
    "changes", [{}, {"temperature": 0.6}, {"top_k": 3, "top_p": 0.8, "temperature": 1.5}], ids=str
)
def test_frequencies_match_the_probabilities(changes: dict[str, Any]) -> None:
    """Two tokens, where token 1 ends; 12,800 draws.

    Chi-square with n - 1 degrees of freedom has variance 2 (n - 1): a correct program fails at five
    standard deviations for only one seed in some ten thousand, and the seeds are fixed.
    """
    model = ScriptedModel(SCRIPT)
    options = replace(OPTIONS, samples=64, stop_id=1, max_new_tokens=2, **changes)
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(200):
        (answer,) = sample(FakeBackend(model), [NOTHING], replace(options, seed=seed))
        counts.update(beam.tokens for beam in answer.beams)
    expected = two_tokens(model, options)
    assert sum(expected.values()) == pytest.approx(1)
    assert set(counts) <= set(expected)
    freedom = len(expected) - 1
    bound = freedom + 5 * (2 * freedom) ** 0.5
    assert chi_square(counts, expected) < bound
    if changes:  # the test can fail: these are not the plain distribution's draws
        assert chi_square(counts, two_tokens(model, replace(OPTIONS, stop_id=1))) > 2 * bound


def two_tokens(model: ScriptedModel, options: SampleOptions) -> dict[tuple[int, ...], float]:
    """The exact probability of every possible answer."""
    first = warped(model.logits(NOTHING, []), options)
    found: dict[tuple[int, ...], float] = {(options.stop_id,): float(first[options.stop_id])}
    for one, two in product(range(4), range(4)):
        if one != options.stop_id:
            second = warped(model.logits(NOTHING, [one]), options)
            found[one, two] = float(first[one] * second[two])
    return {tokens: p for tokens, p in found.items() if p > 0}


def test_samples_are_independent() -> None:
    """All 64 triples of three samples' first tokens occur as often as chance predicts."""
    model = ScriptedModel({(): [0.25] * 4})
    options = replace(OPTIONS, max_new_tokens=1, stop_id=-1)
    counts: Counter[tuple[int, ...]] = Counter()
    for seed in range(3000):
        choice = sample_choice(replace(options, seed=seed))
        step = choice(model.logits(NOTHING, [])[None, None], BeamState.start(1))
        counts[tuple(step.tokens[0].tolist())] += 1
    uniform = dict.fromkeys(product(range(4), repeat=3), 1 / 64)
    assert chi_square(counts, uniform) < 63 + 5 * (2 * 63) ** 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize(
    "changes", [{"top_k": 1}, {"top_p": 1e-9}, {"top_k": 1, "top_p": 0.5}], ids=str
)
def test_one_token_to_draw_from_is_greedy(changes: dict[str, Any], temperature: float) -> None:
    clips = prefixes(5)
    options = DecodeOptions(
        beam_size=1, max_new_tokens=12, temperature=temperature, stop_id=MODEL.stop_id, pad_id=0
    )
    greedy = search(FakeBackend(MODEL), clips, options)
    found = sample_all(clips, temperature=temperature, **changes)
    for answer, expected in zip(found, greedy, strict=True):
        assert answer.steps == expected.steps
        for beam in answer.beams:
            assert beam.tokens == expected.beams[0].tokens
            assert beam.logprobs == pytest.approx(expected.beams[0].logprobs, abs=1e-12)


def test_lowest_temperature_is_greedy() -> None:
    clips = prefixes(3)
    assert [
        {beam.tokens for beam in answer.beams}
        for answer in sample_all(clips, temperature=MIN_TEMPERATURE)
    ] == [{beam.tokens for beam in answer.beams} for answer in sample_all(clips, top_k=1)]


@pytest.mark.parametrize(
    ("top_p", "allowed"),
    [(1e-9, 1), (0.25, 1), (0.26, 2), (0.5, 2), (0.51, 3), (0.75, 3), (0.76, 4), (1.0, 4)],
)
def test_top_p_takes_the_fewest_that_reach_it(top_p: float, allowed: int) -> None:
    """Four equal tokens have masses that floats represent exactly; lower ids come first."""
    assert set(draw(np.zeros(4, np.float32), top_p=top_p)) == set(range(allowed))


@pytest.mark.parametrize("top_k", [1, 2, 3, 4, 5])
def test_top_k_of_equal_tokens_takes_the_lower_ids(top_k: int) -> None:
    logits = np.array([-1, 2, 2, 2], np.float32)
    assert set(draw(logits, top_k=top_k, temperature=3.0)) == set([1, 2, 3, 0][:top_k])


@pytest.mark.parametrize("restriction", [{"top_k": 320}, {"top_p": 0.3125}], ids=str)
def test_many_equal_tokens(restriction: dict[str, Any]) -> None:
    """Every fourth token of 1024 is slightly likelier: those, and the 64 lowest ids of the rest."""
    logits = (np.arange(1024) % 4 == 3).astype(np.float32) * 1e-6
    found = {token for seed in range(80) for token in draw(logits, seed=seed, **restriction)}
    ids = np.arange(1024)
    assert found == {*ids[3::4], *ids[ids % 4 != 3][:64]}


def test_top_p_applies_after_top_k() -> None:
    """From 0.4, 0.3, 0.2 and 0.1, top-k leaves 4/7 and 3/7: the first alone reaches 0.55."""
    logits = np.log([0.3, 0.4, 0.1, 0.2]).astype(np.float32)
    assert set(draw(logits, top_k=2, top_p=0.55)) == {1}
    assert set(draw(logits, top_k=2, top_p=0.6)) == {0, 1}
    assert set(draw(logits, top_p=0.55)) == {0, 1}


@pytest.mark.parametrize(
    "restriction", [{}, {"top_k": 4}, {"top_p": 1.0}, {"top_p": 0.999}], ids=str
)
def test_probability_zero_is_never_drawn(restriction: dict[str, Any]) -> None:
    logits = np.array([-np.inf, 0, -np.inf, -np.inf, 0, -np.inf], np.float32)
    assert set(draw(logits, **restriction)) == {1, 4}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_logits_are_refused(value: float) -> None:
    logits = np.array([0, value, 0, 0], np.float32)
    with pytest.raises(ValueError, match=r"without a finite maximum: clip 0, sample 0"):
        draw(logits)
    with pytest.raises(ValueError, match="clip 0, sample 0"):
        draw(np.full(4, -np.inf, np.float32))


def test_finished_rows_are_not_read() -> None:
    """Token 1 ends the answer; logits after it do not matter, but logits elsewhere do."""
    nan = [float("nan")] * 4
    model = ScriptedModel({(): [0.5, 0.5, 0, 0], (1,): nan, (1, 3): nan, (0,): [0, 0, 1, 0]})
    options = replace(OPTIONS, samples=8, stop_id=1, pad_id=3, max_new_tokens=3)
    with np.errstate(divide="ignore"):  # the script's own zeros
        (answer,) = sample(FakeBackend(model), [NOTHING], options)
    assert {beam.tokens[:2] for beam in answer.beams} == {(1,), (0, 2)}
    with np.errstate(divide="ignore"), pytest.raises(ValueError, match="clip 0, sample"):
        sample(FakeBackend(model), [NOTHING], replace(options, stop_id=-1))


def test_log_probs_are_those_of_the_full_distribution() -> None:
    clips = prefixes(4, seed=7)
    answers = sample_all(clips, temperature=0.7, top_k=5, top_p=0.9)
    for answer, prefix in zip(answers, clips, strict=True):
        for beam in answer.beams:
            own = log_probs(MODEL, prefix, beam.tokens, 0.7)
            # Differences of sums of up to 100: float64 leaves 13 decimals.
            assert beam.logprobs == pytest.approx(own, abs=1e-12, rel=0)
            assert beam.score == pytest.approx(np.mean(own), rel=1e-12)


def test_best_first() -> None:
    for answer in sample_all(prefixes(6), samples=9):
        scores = [beam.score for beam in answer.beams]
        assert scores == sorted(scores, reverse=True)
        assert len(set(scores)) > 5


def test_other_rows_of_the_batch_change_nothing() -> None:
    """Samples are the same alone, in batches, in another order, and with more samples per clip."""
    clips = prefixes(8, seed=1)
    assert len({len(clip) for clip in clips}) > 3
    alone = [sample_all([clip])[0] for clip in clips]
    assert sample_all(clips) == alone  # to the last bit
    assert sample_all(clips[::-1]) == alone[::-1]
    for one, three in zip(sample_all(clips, samples=1), alone, strict=True):
        assert len(one.beams) == 1
        assert one.beams[0] in three.beams


def test_a_longer_limit_keeps_the_beginning() -> None:
    """``max_new_tokens`` cuts an answer; it does not change what is sampled."""
    clips = prefixes(4)
    for short, long in zip(
        sample_all(clips, samples=1, max_new_tokens=3), sample_all(clips, samples=1), strict=True
    ):
        assert short.beams[0].tokens == long.beams[0].tokens[:3]


def test_seeds() -> None:
    clips = prefixes(2)
    assert sample_all(clips, seed=5) == sample_all(clips, seed=5)
    assert sample_all(clips, seed=5) != sample_all(clips, seed=6)
    assert len({beam.tokens for beam in sample_all(clips)[0].beams}) == 3


def test_answers_end_at_the_stop_token() -> None:
    """No forward pass runs after the last row has ended."""
    clips = prefixes(6, seed=4)
    backend = FakeBackend(MODEL)
    answers = sample(backend, clips, OPTIONS)
    assert backend.forwards == max(answer.steps for answer in answers)
    ends = Counter(
        (beam.tokens[-1] == MODEL.stop_id, MODEL.stop_id in beam.tokens[:-1])
        for answer in answers
        for beam in answer.beams
    )
    assert set(ends) == {(True, False), (False, False)}
    for answer in answers:
        assert answer.steps == max(len(beam.tokens) for beam in answer.beams)


def test_a_stop_test_finishes_a_row_like_the_stop_token() -> None:
    clips = prefixes(4, seed=6)
    unstopped = replace(OPTIONS, stop_id=-1)
    stop = MODEL.stop_id
    answers = sample(
        FakeBackend(MODEL), clips, unstopped, is_finished=lambda tokens: tokens[-1] == stop
    )
    assert answers == sample_all(clips)
    assert answers != sample(FakeBackend(MODEL), clips, unstopped)


def test_no_rows_no_forward_pass() -> None:
    backend = FakeBackend(MODEL)
    assert sample(backend, [], OPTIONS) == []
    assert backend.forwards == 0


def test_positions() -> None:
    clips = [np.zeros((length, WIDTH), np.float32) for length in (2, 8)]
    sample(FakeBackend(MODEL, n_positions=20), clips, OPTIONS)
    with pytest.raises(UsageError, match=r"of 8 rows and max_new_tokens 12 .* 19 positions"):
        sample(FakeBackend(MODEL, n_positions=19), clips, OPTIONS)


def test_more_samples_than_tokens() -> None:
    (answer,) = sample_all(prefixes(1), samples=MODEL.vocab_size + 1)
    assert len(answer.beams) == MODEL.vocab_size + 1
