"""The beam step: native equal to NumPy, ties to the lower flat index.

Tokens, sources, lengths and flags must be equal. Scores may differ by 1e-12 relative: both sides
compute in float64, but sum 50 257 exponentials in different orders, which costs a few 1e-16.
"""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from pengi_rt.kernels.beam_step_cpu import (
    F32,
    BeamState,
    BeamStep,
    beam_step_cpu,
    beam_step_cpu_reference,
)

RTOL = 1e-12
VOCAB = 50_257
PLAIN: dict[str, Any] = {"temperature": 1.0, "stop_id": 3, "pad_id": 0}


def random_logits(generator: np.random.Generator, *shape: int, scale: float = 3.0) -> F32:
    return generator.normal(0, scale, shape).astype(np.float32)


def random_state(
    generator: np.random.Generator, clips: int, beams: int, finished: float = 0.3
) -> BeamState:
    lengths = generator.integers(1, 30, (clips, beams)).astype(np.int32)
    return BeamState(
        scores=-generator.exponential(3.0, (clips, beams)) * lengths,
        lengths=lengths,
        finished=generator.random((clips, beams)) < finished,
    )


def state_of(scores: list[float], lengths: list[int], finished: list[bool]) -> BeamState:
    """The state of one clip."""
    return BeamState(
        np.array([scores], np.float64), np.array([lengths], np.int32), np.array([finished])
    )


def row(*logits: float) -> F32:
    """``[1, 1, V]``."""
    return np.array([[logits]], np.float32)


def chosen(step: BeamStep) -> list[tuple[int, int]]:
    """The only clip's ``(source, token)`` pairs, best first."""
    return list(zip(step.sources[0].tolist(), step.tokens[0].tolist(), strict=True))


def types(step: BeamStep) -> list[tuple[str, tuple[int, ...]]]:
    return [(array.dtype.name, array.shape) for array in (*step[:3], *step.state)]


def assert_equal(ours: BeamStep, reference: BeamStep) -> None:
    np.testing.assert_array_equal(ours.sources, reference.sources)
    np.testing.assert_array_equal(ours.tokens, reference.tokens)
    np.testing.assert_array_equal(ours.state.lengths, reference.state.lengths)
    np.testing.assert_array_equal(ours.state.finished, reference.state.finished)
    np.testing.assert_allclose(ours.averages, reference.averages, rtol=RTOL)
    np.testing.assert_allclose(ours.state.scores, reference.state.scores, rtol=RTOL)
    assert types(ours) == types(reference)


@pytest.mark.parametrize(
    ("clips", "beams", "vocab", "beam_size"),
    [
        (1, 1, VOCAB, 5),
        (1, 5, VOCAB, 5),
        (3, 2, VOCAB, 2),
        (1, 1, VOCAB, 1),
        (2, 1, 1, 1),
        (1, 3, 7, 3),
        (1, 3, 2, 3),  # more beams than tokens
        (1, 1, 33, 33),  # every token is chosen
        (2, 7, 63, 7),  # shorter than one vector
        (4, 2, 511, 2),  # one block of the maxima, less one
        (4, 2, 513, 2),
        (1, 64, 1000, 64),
        (2, 5, 1, 5),
        (0, 5, 10, 5),
    ],
)
@pytest.mark.parametrize("temperature", [1.0, 0.37, 8.0])
def test_equals_reference(
    clips: int, beams: int, vocab: int, beam_size: int, temperature: float
) -> None:
    generator = np.random.default_rng([clips, beams, vocab, beam_size])
    logits = random_logits(generator, clips, beams, vocab)
    # As many beams go out as come in, so all may be finished; a first step has not begun.
    state = random_state(generator, clips, beams) if beams == beam_size else BeamState.start(clips)
    options: dict[str, Any] = {
        "beam_size": beam_size,
        "temperature": temperature,
        "stop_id": vocab // 2,
        "pad_id": vocab - 1,
    }
    assert_equal(
        beam_step_cpu(logits, state, **options), beam_step_cpu_reference(logits, state, **options)
    )


@pytest.mark.parametrize("seed", range(20))
def test_equals_reference_along_a_search(seed: int) -> None:
    """Beams finish, are replaced and compete, with a stop token that is often likely."""
    generator = np.random.default_rng(seed)
    options: dict[str, Any] = {"beam_size": 4, "temperature": 1.0, "stop_id": 3, "pad_id": 5}
    state = reference = BeamState.start(3)
    for _ in range(12):
        logits = random_logits(generator, 3, state.scores.shape[1], 40)
        logits[..., 3] += 3
        ours = beam_step_cpu(logits, state, **options)
        theirs = beam_step_cpu_reference(logits, reference, **options)
        assert_equal(ours, theirs)
        state, reference = ours.state, theirs.state
    assert state.finished.any()


@pytest.mark.parametrize("order", ["rising", "falling", "constant", "coarse"])
def test_equals_reference_on_ordered_logits(order: str) -> None:
    logits = np.linspace(-4, 4, 3 * 2000, dtype=np.float32).reshape(1, 3, 2000)
    if order == "falling":
        logits = np.ascontiguousarray(logits[..., ::-1])
    elif order == "constant":
        logits = np.full_like(logits, 1.5)
    elif order == "coarse":  # few values, so nearly everything is a tie within its row
        logits = random_logits(np.random.default_rng(0), 1, 3, 2000).round()
    state = state_of([-1.0, -2.0, -2.5], [1, 2, 2], [False, False, False])
    assert_equal(
        beam_step_cpu(logits, state, beam_size=3, **PLAIN),
        beam_step_cpu_reference(logits, state, beam_size=3, **PLAIN),
    )


@pytest.mark.parametrize("step", [beam_step_cpu, beam_step_cpu_reference])
class TestRule:
    """Cases worked out by hand, for both functions."""

    def test_ties_within_a_beam_go_to_the_lower_token(self, step: Any) -> None:
        result = step(row(0, 1, 0, 1, 1, 0), BeamState.start(1), beam_size=4, **PLAIN)
        assert chosen(result) == [(0, 1), (0, 3), (0, 4), (0, 0)]

    def test_ties_between_beams_go_to_the_lower_beam(self, step: Any) -> None:
        logits = np.tile(row(0, 2, 5, 2), (1, 3, 1))
        state = state_of([-4.0] * 3, [2] * 3, [False] * 3)
        assert chosen(step(logits, state, beam_size=3, **PLAIN)) == [(0, 2), (1, 2), (2, 2)]

    @pytest.mark.parametrize("finished", [0, 1])
    def test_ties_with_a_finished_beam(self, step: Any, finished: int) -> None:
        state = state_of([0.0, 0.0], [0, 0], [False, False])
        state.scores[0, finished] = -np.log(2.0)
        state.lengths[0, finished] = 1
        state.finished[0, finished] = True
        result = step(np.zeros((1, 2, 2), np.float32), state, beam_size=2, **PLAIN)
        assert result.averages[0, 0] == result.averages[0, 1] == -np.log(2.0)
        assert chosen(result) == ([(0, 0), (1, 0)] if finished == 0 else [(0, 0), (0, 1)])

    def test_averages_that_round_to_the_same_are_ties(self, step: Any) -> None:
        """Candidates are ranked by average: next to -5, logits 1e-30 and 3e-30 are equal."""
        result = step(row(5, 1e-30, 3e-30, 2e-30), BeamState.start(1), beam_size=3, **PLAIN)
        assert chosen(result) == [(0, 0), (0, 1), (0, 2)]

    def test_average_not_sum_decides(self, step: Any) -> None:
        """A long beam with a lower sum beats a short one with a lower average."""
        logits = np.tile(row(9, 0, 0, 0), (1, 2, 1))
        state = state_of([-2.0, -3.0], [1, 5], [False, False])
        result = step(logits, state, beam_size=2, **PLAIN)
        assert chosen(result) == [(1, 0), (0, 0)]
        log_prob = -np.log1p(3 * np.exp(-9.0))
        np.testing.assert_allclose(
            result.averages[0], [(-3 + log_prob) / 6, (-2 + log_prob) / 2], rtol=RTOL
        )
        np.testing.assert_allclose(
            result.state.scores, result.averages * result.state.lengths, rtol=RTOL
        )
        assert result.state.lengths.tolist() == [[6, 2]]

    def test_finished_beam_keeps_score_and_length(self, step: Any) -> None:
        logits = np.zeros((1, 2, 4), np.float32)
        state = state_of([-1.0, -8.0], [4, 2], [True, False])
        result = step(logits, state, beam_size=2, temperature=1.0, stop_id=3, pad_id=2)
        assert chosen(result) == [(0, 2), (1, 0)]
        assert result.state.scores[0, 0] == -1.0
        assert result.state.lengths.tolist() == [[4, 3]]
        assert result.state.finished.tolist() == [[True, False]]

    def test_finished_beam_is_pushed_out(self, step: Any) -> None:
        logits = np.tile(row(5, 5, -20, -20), (1, 2, 1))
        state = state_of([-4.0, -1.0], [2, 4], [True, False])
        result = step(logits, state, beam_size=2, **PLAIN)
        assert chosen(result) == [(1, 0), (1, 1)]
        assert not result.state.finished.any()

    def test_stop_token_finishes(self, step: Any) -> None:
        result = step(row(0, 0, 0, 4), BeamState.start(1), beam_size=2, **PLAIN)
        assert chosen(result) == [(0, 3), (0, 0)]
        assert result.state.finished.tolist() == [[True, False]]
        assert result.state.lengths.tolist() == [[1, 1]]

    def test_stop_id_outside_the_vocabulary_never_does(self, step: Any) -> None:
        result = step(
            row(0, 1, 2), BeamState.start(1), beam_size=3, temperature=1.0, stop_id=-1, pad_id=0
        )
        assert not result.state.finished.any()

    def test_finished_rows_are_not_read(self, step: Any) -> None:
        logits = np.zeros((1, 2, 4), np.float32)
        logits[0, 0] = [np.nan, np.inf, -np.inf, 0]
        state = state_of([-1.0, -2.0], [2, 2], [True, False])
        assert chosen(step(logits, state, beam_size=2, **PLAIN)) == [(0, 0), (1, 0)]

    def test_all_finished(self, step: Any) -> None:
        """Nothing changes, except that a score, average times length, may be rounded once."""
        state = state_of([-1.1, -2.3, -4.7], [3, 3, 5], [True] * 3)
        result = step(np.full((1, 3, 9), np.nan, np.float32), state, beam_size=3, **PLAIN)
        assert chosen(result) == [(0, 0), (1, 0), (2, 0)]
        np.testing.assert_array_equal(result.state.lengths, state.lengths)
        np.testing.assert_array_max_ulp(result.state.scores, state.scores, maxulp=1)

    def test_minus_infinity_is_probability_zero(self, step: Any) -> None:
        infinite = -np.inf
        logits = row(infinite, infinite, 1.0, infinite, 2.0)
        result = step(logits, BeamState.start(1), beam_size=4, **PLAIN)
        assert chosen(result) == [(0, 4), (0, 2), (0, 0), (0, 1)]
        assert result.state.scores[0, 2:].tolist() == [infinite, infinite]
        assert np.exp(result.averages[0]).sum() == pytest.approx(1, rel=RTOL)

    def test_beam_of_probability_zero_stays_last(self, step: Any) -> None:
        state = state_of([-1.0, -np.inf], [1, 1], [False, True])
        result = step(np.zeros((1, 2, 1), np.float32), state, beam_size=2, **PLAIN)
        assert chosen(result) == [(0, 0), (1, 0)]
        assert result.state.scores[0, 1] == -np.inf

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    @pytest.mark.parametrize("token", [0, 63, 64, 700, 1000])
    def test_bad_logit_raises(self, step: Any, bad: float, token: int) -> None:
        logits = random_logits(np.random.default_rng(1), 2, 3, 1001)
        logits[1, 2, token] = bad
        state = random_state(np.random.default_rng(2), 2, 3, finished=0)
        with pytest.raises(ValueError, match="clip 1, beam 2"):
            step(logits, state, beam_size=3, **PLAIN)

    def test_row_without_finite_maximum_raises(self, step: Any) -> None:
        with pytest.raises(ValueError, match="finite maximum: clip 0, beam 0"):
            step(row(-np.inf, -np.inf), BeamState.start(1), beam_size=1, **PLAIN)

    def test_too_few_candidates(self, step: Any) -> None:
        state = state_of([-1.0, -2.0], [1, 1], [True, True])
        with pytest.raises(ValueError, match="fewer candidates than beam_size 3: clip 0"):
            step(np.zeros((1, 2, 9), np.float32), state, beam_size=3, **PLAIN)


def test_temperature_divides_exactly() -> None:
    logits = random_logits(np.random.default_rng(0), 1, 5, VOCAB)
    state = random_state(np.random.default_rng(1), 1, 5)
    plain = beam_step_cpu(logits, state, beam_size=5, **PLAIN)
    doubled = beam_step_cpu(logits * 2, state, beam_size=5, **{**PLAIN, "temperature": 2.0})
    np.testing.assert_array_equal(doubled.tokens, plain.tokens)
    np.testing.assert_array_equal(doubled.averages, plain.averages)


@pytest.mark.parametrize("scale", [1e-30, 1e-3, 1.0, 40.0, 1e4, 1e37])
@pytest.mark.parametrize("temperature", [2.0**-126, 0.01, 1.0, 1e10])
def test_log_sum_exp_against_extended_precision(scale: float, temperature: float) -> None:
    """Over every token's log-probability; 1e-13 is some hundred roundings of the largest."""
    logits = random_logits(np.random.default_rng(7), 1, 1, 1999, scale=scale)
    options: dict[str, Any] = {**PLAIN, "temperature": temperature, "beam_size": 1999}
    step = beam_step_cpu(logits, BeamState.start(1), **options)
    exact = logits[0, 0].astype(np.longdouble) / temperature
    exact -= exact.max()
    exact -= np.log(np.exp(exact).sum())
    np.testing.assert_allclose(
        step.averages[0],
        exact[step.tokens[0]].astype(np.float64),
        rtol=1e-13,
        atol=1e-13 * max(1.0, scale / temperature),
    )


def test_exponential_to_the_last_bits() -> None:
    """The larger of two probabilities, -log(1 + exp(-x)): a missing term of the series shows."""
    x = np.linspace(0, 45, 5000, dtype=np.float32)
    logits = np.full((len(x), 1, 64), -np.inf, np.float32)
    logits[:, 0, 10] = 0
    logits[:, 0, 50] = -x
    step = beam_step_cpu(logits, BeamState.start(len(x)), beam_size=1, **PLAIN)
    exact = -np.log1p(np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(step.averages[:, 0], exact, rtol=0, atol=1e-15)


def test_calls_from_several_threads() -> None:
    """The interpreter's lock is released during a step, so steps must share nothing."""
    generator = np.random.default_rng(0)
    inputs = [random_logits(generator, 1, 5, VOCAB) for _ in range(8)]
    state = random_state(generator, 1, 5)

    def step(logits: F32) -> BeamStep:
        return beam_step_cpu(logits, state, beam_size=5, **PLAIN)

    with ThreadPoolExecutor(4) as pool:
        for ours, alone in zip(pool.map(step, inputs), map(step, inputs), strict=True):
            np.testing.assert_array_equal(ours.tokens, alone.tokens)
            np.testing.assert_array_equal(ours.averages, alone.averages)
