"""The device's beam search equals the CPU's, token for token.

Both rank by averages in float64, but a row's log-sum-exp comes from float32 sums here: scores may
differ by 1e-6, and no case below depends on a difference that small, except ties, which are exact.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from triton_interpreter import DEVICE, check_guards, guarded, poisoned, programs_backwards

from pengi_rt.kernels.beam_history import BeamHistory
from pengi_rt.kernels.beam_step import beam_step
from pengi_rt.kernels.beam_step_cpu import (
    F32,
    BeamState,
    BeamStep,
    beam_step_cpu,
    update_ancestry,
)
from pengi_rt.kernels.beam_step_reference import beam_step_reference
from pengi_rt.kernels.embed_rows import Embeddings
from pengi_rt.kernels.top_tokens import TopTokens, top_tokens, top_tokens_reference
from pengi_rt.kernels.vocab_tiles import TILE, VocabTiles, vocab_tiles_reference

WIDTH = 20
POSITIONS = 12
TOLERANCE = 1e-6


def poisoned_like(buffers: Any) -> Any:
    """The same buffers, guarded and uninitialized."""
    return type(buffers)(*(poisoned(*buffer.shape, dtype=buffer.dtype) for buffer in buffers))


@dataclass
class Search:
    """One search on the device, stepped with logits like the CPU's."""

    clips: int
    beams: int
    vocab: int
    steps: int
    temperature: float = 1.0
    stop_id: int = 3
    pad_id: int = 5
    reference: bool = False
    embeddings: Embeddings | None = None

    def __post_init__(self) -> None:
        self.history: BeamHistory = poisoned_like(
            BeamHistory.empty(self.steps, self.clips, self.beams, "cpu")
        )
        generator = torch.Generator().manual_seed(self.vocab)
        self.embeddings = self.embeddings or Embeddings(
            guarded(torch.randn(self.vocab, WIDTH, generator=generator)),
            guarded(torch.randn(POSITIONS, WIDTH, generator=generator)),
            guarded(torch.arange(4, 4 + self.clips, dtype=torch.int32)),
        )
        self.residual = poisoned(self.clips * self.beams, WIDTH)
        self.row = 0

    def step(self, logits: F32) -> None:
        """One step with logits [B, W, V]; W is 1 in the first step."""
        row, merge = (top_tokens, beam_step)
        if self.reference:
            row, merge = (top_tokens_reference, beam_step_reference)
        temperature = guarded(torch.tensor([self.temperature], dtype=torch.float64))
        rows = torch.from_numpy(logits).reshape(-1, self.vocab).to(DEVICE)
        empty = VocabTiles.empty(len(rows), self.vocab, self.beams, "cpu")
        tiles = vocab_tiles_reference(rows, temperature, poisoned_like(empty))
        best = poisoned_like(TopTokens.empty(len(rows), self.beams, "cpu"))
        row(tiles, temperature, self.vocab, best)
        ends = guarded(torch.tensor([self.stop_id, self.pad_id], dtype=torch.int32))
        assert self.embeddings is not None
        merge(best, self.history, ends, self.embeddings, self.residual, first=self.row == 0)
        check_guards(*best, *self.history, self.residual)
        self.row += 1

    def cpu(self, logits: F32, state: BeamState) -> BeamStep:
        return beam_step_cpu(
            logits,
            state,
            beam_size=self.beams,
            temperature=self.temperature,
            stop_id=self.stop_id,
            pad_id=self.pad_id,
        )

    def found(self) -> BeamStep:
        """The beams written by the last step."""
        row = {
            name: buffer[self.row - 1].cpu().numpy()
            for name, buffer in self.history._asdict().items()
            if buffer.ndim > 1
        }
        state = BeamState(row["scores"], row["lengths"], row["finished"].astype(np.bool_))
        return BeamStep(row["sources"], row["tokens"], row["averages"], state)


def assert_same(found: BeamStep, expected: BeamStep) -> None:
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    np.testing.assert_array_equal(found.sources, expected.sources)
    np.testing.assert_array_equal(found.state.lengths, expected.state.lengths)
    np.testing.assert_array_equal(found.state.finished, expected.state.finished)
    np.testing.assert_allclose(found.averages, expected.averages, rtol=TOLERANCE, atol=TOLERANCE)
    np.testing.assert_allclose(found.state.scores, expected.state.scores, rtol=TOLERANCE, atol=1e-5)


def random_logits(generator: np.random.Generator, search: Search, *, coarse: bool = False) -> F32:
    beams = 1 if search.row == 0 else search.beams
    shape = (search.clips, beams, search.vocab)
    logits = generator.normal(0, 3, shape).astype(np.float32)
    if coarse:  # few distinct values, so nearly every row is full of ties
        logits = logits.round()
        logits[logits == 0] = np.where(generator.random((logits == 0).sum()) < 0.5, 0.0, -0.0)
    logits[..., search.stop_id] += 5
    return logits


def run(search: Search, seed: int, *, coarse: bool = False) -> list[BeamStep]:
    """Compare all its steps with the CPU's, and check the history they leave."""
    generator = np.random.default_rng(seed)
    state = BeamState.start(search.clips)
    ancestry = np.zeros((search.clips, search.beams, search.steps), np.int32)
    expected = []
    for row in range(search.steps + 1):
        logits = random_logits(generator, search, coarse=coarse)
        expected.append(search.cpu(logits, state))
        search.step(logits)
        assert_same(search.found(), expected[-1])
        state = expected[-1].state
        if row:
            update_ancestry(ancestry, expected[-1].sources, row - 1)
            found = search.history.ancestry[row, :, :, :row].cpu().numpy()
            np.testing.assert_array_equal(found, ancestry[..., :row])
        assert search.history.position.tolist() == [row] * search.clips
    assert search.history.broken.tolist() == [0] * search.clips
    assert search.history.done.tolist() == done(expected)
    return expected


def done(steps: list[BeamStep]) -> list[int]:
    """Tokens when each clip first finished, 0 if it never did."""
    over = np.stack([step.state.finished.all(axis=1) for step in steps])
    tokens: list[int] = np.where(over.any(axis=0), over.argmax(axis=0) + 1, 0).tolist()
    return tokens


@pytest.mark.parametrize(
    ("clips", "beams", "vocab", "steps", "temperature"),
    [
        (2, 1, 53, 3, 1.0),
        (1, 2, 672, 3, 0.37),
        (3, 3, 53, 3, 1.0),
        (1, 4, 512, 3, 8.0),
        (2, 5, 512, 3, 1.0),
        (1, 16, 53, 1, 1.0),
    ],
)
def test_kernels_search_like_the_cpu(
    clips: int, beams: int, vocab: int, steps: int, temperature: float
) -> None:
    run(Search(clips, beams, vocab, steps, temperature), seed=vocab)


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("coarse", [False, True])
def test_reference_searches_like_the_cpu(seed: int, coarse: bool) -> None:
    """Beams finish, are replaced and compete, often to the end."""
    generator = np.random.default_rng(seed)
    beams = int(generator.choice([1, 2, 3, 4, 5, 16]))
    vocab = int(generator.choice([53, 512, 672]))
    temperature = float(generator.choice([0.37, 1.0, 2.5]))
    clips = int(generator.integers(1, 4))
    search = Search(clips, beams, vocab, 9, temperature, reference=True)
    run(search, seed, coarse=coarse)


def test_the_searches_above_end() -> None:
    """Otherwise finished clips would go untested."""
    search = Search(3, 3, 53, 9, reference=True)
    steps = run(search, 0)
    finished = np.stack([step.state.finished for step in steps])
    assert np.count_nonzero(done(steps)) > 0
    assert finished[-1].any()
    assert (finished[:-1] & ~finished[1:]).any()  # pushed out


@pytest.mark.parametrize("seed", range(3))
def test_ties_within_a_row_go_to_the_lower_token(seed: int) -> None:
    run(Search(2, 4, 300, 3), seed, coarse=True)


@pytest.mark.parametrize("reference", [False, True])
def test_ties_between_beams_go_to_the_lower_beam(reference: bool) -> None:
    """Beams with the same score, length and logits; half of them finished with that score."""
    search = Search(2, 4, 53, 2, reference=reference)
    state = start(search, [[-4.0] * 4] * 2, [[2] * 4] * 2, [[0] * 4, [0, 1, 0, 1]])
    logits = np.broadcast_to(np.array([0, 2, 5, 2] + [-9] * 49, np.float32), (2, 4, 53)).copy()
    logits[1, :, 2] = 90  # certain: log-probability 0, so the average equals the finished beams'
    state.lengths[1] = state.lengths[1] - ~state.finished[1]
    search.history.lengths[0] = torch.from_numpy(state.lengths)
    search.step(logits)
    assert_same(search.found(), search.cpu(logits, state))
    assert search.found().sources.tolist() == [[0, 1, 2, 3]] * 2
    assert search.found().tokens.tolist() == [[2, 2, 2, 2], [2, 5, 2, 5]]


def start(search: Search, scores: Any, lengths: Any, finished: Any) -> BeamState:
    """Put the search into the given state, after its first step."""
    state = BeamState(
        np.array(scores, np.float64), np.array(lengths, np.int32), np.array(finished, np.bool_)
    )
    search.history.scores[0] = torch.from_numpy(state.scores)
    search.history.lengths[0] = torch.from_numpy(state.lengths)
    search.history.finished[0] = torch.from_numpy(state.finished)
    for place in (search.history.position, search.history.done, search.history.broken):
        place.zero_()
    search.row = 1
    return state


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize(
    ("scores", "lengths", "finished"),
    [
        ([-4.0, -1.0], [2, 4], [1, 0]),  # the finished one is pushed out
        ([-1.0, -8.0], [4, 2], [1, 0]),  # it stays
        ([-1.0, -8.0], [4, 2], [1, 1]),  # nothing remains to be done
        ([-1.0, -0.5], [4, 2], [1, 1]),  # except to put the better one first
        ([-np.inf, -8.0], [1, 2], [0, 0]),  # probability 0
        ([-np.inf, -np.inf], [1, 2], [0, 0]),
    ],
)
def test_finished_and_impossible_beams(
    reference: bool, scores: list[float], lengths: list[int], finished: list[int]
) -> None:
    search = Search(1, 2, 53, 1, reference=reference)
    state = start(search, [scores], [lengths], [finished])
    logits = np.zeros((1, 2, 53), np.float32)
    logits[..., 7] = 4
    search.step(logits)
    assert_same(search.found(), search.cpu(logits, state))


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("allowed", [1, 2, 200])
def test_tokens_of_probability_zero(reference: bool, allowed: int) -> None:
    """Whole tiles have probability 0, and fewer tokens may be left than there are beams."""
    search = Search(1, 3, 300, 1, reference=reference)
    logits = np.full((1, 1, 300), -np.inf, np.float32)
    logits[..., 299 - np.arange(allowed)] = np.linspace(0, 3, allowed)
    search.step(logits)
    assert_same(search.found(), search.cpu(logits, BeamState.start(1)))


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("temperature", [2.0**-126, 1e-3, 1e6, 1e300])
def test_extreme_temperatures(reference: bool, temperature: float) -> None:
    """From float32's smallest to beyond its largest; logits decrease, so ties are as on the CPU."""
    search = Search(1, 3, 200, 0, temperature, reference=reference)
    logits = np.linspace(9, -9, 200, dtype=np.float32).reshape(1, 1, 200)
    logits[..., 150:] = -np.inf
    search.step(logits)
    assert_same(search.found(), search.cpu(logits, BeamState.start(1)))


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, None])
@pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # NumPy's warning about NaN, in the interpreter
def test_broken_logits_mark_their_clip_for_good(reference: bool, value: float | None) -> None:
    search = Search(3, 2, 300, 2, reference=reference)
    generator = np.random.default_rng(0)
    search.step(random_logits(generator, search))
    assert search.history.broken.tolist() == [0, 0, 0]
    logits = random_logits(generator, search)
    if value is None:
        logits[1, 1] = -np.inf
    else:
        logits[1, 1, 140] = value
    search.step(logits)
    assert search.history.broken.tolist() == [0, 1, 0]
    assert 0 <= search.found().tokens.min() <= search.found().tokens.max() < 300
    search.step(random_logits(generator, search))
    assert search.history.broken.tolist() == [0, 1, 0]


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_rows_of_finished_beams_are_not_read(reference: bool) -> None:
    search = Search(1, 2, 53, 1, reference=reference)
    state = start(search, [[-1.0, -8.0]], [[4, 2]], [[1, 0]])
    logits = random_logits(np.random.default_rng(0), search)
    expected = search.cpu(logits, state)
    logits[0, 0] = np.nan
    search.step(logits)
    assert_same(search.found(), expected)
    assert search.history.broken.tolist() == [0]


def test_a_new_search_forgets_the_old_one() -> None:
    search = Search(2, 2, 53, 2)
    for place in (search.history.position, search.history.done, search.history.broken):
        place.fill_(2)
    search.step(random_logits(np.random.default_rng(0), search))
    places = search.history.position, search.history.done, search.history.broken
    assert [place.tolist() for place in places] == [[0, 0], [0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int8])
@pytest.mark.parametrize("reference", [False, True])
def test_next_residual(dtype: torch.dtype, reference: bool) -> None:
    """It belongs to the row's token and its clip's position, which stops at the last one."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(53, WIDTH, generator=generator)
    scale = None
    if dtype == torch.int8:
        scale = tokens.abs().amax(1) / 127
        tokens = (tokens / scale[:, None]).round()
    kind = torch.float16 if dtype == torch.int8 else dtype
    wte = tokens.to(dtype)
    wpe = torch.randn(POSITIONS, WIDTH, generator=generator).to(kind)
    prefixes = torch.tensor([4, POSITIONS - 1], dtype=torch.int32)
    given = [guarded(wte), guarded(wpe), guarded(prefixes)]
    embeddings = Embeddings._make([*given, None if scale is None else guarded(scale)])
    search = Search(2, 3, 53, 1, reference=reference, embeddings=embeddings)
    numbers = np.random.default_rng(0)
    for row, places in enumerate(([4, POSITIONS - 1], [5, POSITIONS - 1])):
        search.step(random_logits(numbers, search))
        chosen = torch.from_numpy(search.found().tokens).long()
        expected: Tensor = wte[chosen].float()
        if scale is not None:
            expected = expected * scale[chosen][..., None]
        expected = expected + wpe[places].float()[:, None]
        found = search.residual.view(2, 3, WIDTH).cpu()
        torch.testing.assert_close(found, expected, rtol=0, atol=0 if scale is None else 1e-6)
        assert search.row == row + 1


def test_programs_do_not_depend_on_each_other() -> None:
    searches = [Search(3, 3, 300, 2) for _ in range(2)]
    for search, backwards in zip(searches, (False, True), strict=True):
        generator = np.random.default_rng(0)
        for _ in range(3):
            logits = random_logits(generator, search)
            if backwards:
                with programs_backwards():
                    search.step(logits)
            else:
                search.step(logits)
    for one, other in zip(searches[0].history, searches[1].history, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))
    assert torch.equal(searches[0].residual, searches[1].residual)


def test_a_row_of_many_tiles() -> None:
    """More candidates than a program compares at a time: 171 tiles of 16."""
    vocab = 170 * TILE + 5
    logits = np.random.default_rng(0).normal(0, 3, (1, 1, vocab)).astype(np.float32).round(1)
    search = Search(1, 16, vocab, 0)
    search.step(logits)
    assert_same(search.found(), search.cpu(logits, BeamState.start(1)))


@pytest.mark.parametrize("step", [beam_step, beam_step_reference])
def test_refusals(step: Any) -> None:
    search = Search(2, 3, 53, 1)
    best = TopTokens.empty(2, 3, DEVICE)
    ends = torch.zeros(2, dtype=torch.int32, device=DEVICE)
    arguments = (best, search.history, ends, search.embeddings, search.residual)
    with pytest.raises(ValueError, match=r"best\.log_probs must be contiguous .*\[6, 3\]"):
        step(*arguments)
    with pytest.raises(ValueError, match="ends must be"):
        step(*arguments[:2], ends.long(), *arguments[3:], first=True)
    with pytest.raises(ValueError, match="residual must be"):
        step(*arguments[:4], search.residual.T, first=True)
    narrow = search.history._replace(lengths=search.history.lengths.long())
    with pytest.raises(ValueError, match=r"history\.lengths must be"):
        step(best, narrow, *arguments[2:], first=True)
    with pytest.raises(ValueError, match="1 to 16 beams"):
        step(best, BeamHistory.empty(1, 2, 17, DEVICE), *arguments[2:], first=True)
