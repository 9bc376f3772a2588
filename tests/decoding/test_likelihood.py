"""Likelihoods of candidates against the same model run on every token's whole history."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_backend import WIDTH, FakeBackend, FakeDecoder, ScriptedModel, ToyModel

from pengi_rt.backends.onnx import OnnxBackend
from pengi_rt.backends.protocol import F32, F64, I64, Backend, Cache
from pengi_rt.backends.torch import TorchBackend
from pengi_rt.config.pengi import pengi_config
from pengi_rt.decoding.likelihood import MAX_ROWS, MAX_WIDTH, Likelihoods, likelihoods
from pengi_rt.errors import UsageError
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan.reader import Plan

Tokens = tuple[int, ...]

MODEL = ToyModel(vocab_size=150)
END = MODEL.stop_id


def prefixes(count: int, seed: int = 0, width: int = WIDTH) -> list[F32]:
    """Random prefixes of different lengths."""
    generator = np.random.default_rng(seed)
    return [
        generator.normal(size=(length, width)).astype(np.float32)
        for length in generator.integers(1, 9, count)
    ]


def random_candidates(seed: int, count: int = 40, tokens: int = 4) -> list[Tokens]:
    """Candidates from few tokens, so that many share a beginning or are another's beginning."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 6, count)
    drawn = [tuple(generator.integers(0, tokens, length).tolist()) for length in lengths]
    return list(dict.fromkeys(drawn))


def brute_force(
    model: ToyModel | ScriptedModel, prefix: F32, candidate: Tokens, end: int | None
) -> float:
    """Token by token, recomputing the history for each."""
    tokens = candidate if end is None else (*candidate, end)
    total = 0.0
    for place, token in enumerate(tokens):
        logits = model.logits(prefix, tokens[:place]).astype(np.float64)
        total += float(np.log(np.exp(logits[token]) / np.exp(logits).sum()))
    return total


def assert_brute_force(
    found: Likelihoods, clips: Sequence[F32], candidates: Sequence[Tokens], end: int | None
) -> None:
    expected = [[brute_force(MODEL, clip, each, end) for each in candidates] for clip in clips]
    np.testing.assert_allclose(found.sums, expected, rtol=1e-12)
    assert found.sums.dtype == np.float64
    assert found.counts.tolist() == [len(each) + (end is not None) for each in candidates]


@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize("seed", range(5))
def test_random_candidates(seed: int, end: int | None) -> None:
    clips, candidates = prefixes(3, seed), random_candidates(seed)
    found = likelihoods(FakeBackend(MODEL), clips, candidates, end=end)
    assert_brute_force(found, clips, candidates, end)


@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize(
    "candidates",
    [
        [(7,)],
        [(7, 8, 9)],
        [(7, 8), (7,)],  # "car horn", "car"
        [(7, 8), (7,), (7, 8, 9), (8, 7)],
        [(7,), (8,), (9, 10, 11, 12, 13, 14)],
        [(END,), (END, END), (7, END), (7,)],  # the end token is an ordinary token
        [(0, 0), (0,), (0, 0, 0)],  # as in idle rows
        [(7, 8, 1), (9, 8, 1), (9, 8, 2)],  # equal tokens after different ones
    ],
    ids=str,
)
def test_difficult_tries(candidates: list[Tokens], end: int | None) -> None:
    clips = prefixes(2)
    found = likelihoods(FakeBackend(MODEL), clips, candidates, end=end)
    assert_brute_force(found, clips, candidates, end)


@dataclass
class Counting(FakeDecoder):
    """Records the clips and rows of every call."""

    prefilled: list[int] = field(default_factory=list)
    stepped: list[int] = field(default_factory=list)

    def prefill(self, cache: Cache, slots: I64, prefix: F32, lengths: I64) -> F32:
        self.prefilled.append(len(prefix))
        return super().prefill(cache, slots, prefix, lengths)

    def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
        self.stepped.append(tokens.size)
        return super().step(cache, tokens, parents)


@pytest.mark.parametrize(("end", "steps"), [(None, 4), (END, 5)])
def test_one_prefill_and_one_step_per_level(end: int | None, steps: int) -> None:
    """For any number of candidates; the rows are the nodes of the widest level."""
    candidates = [*random_candidates(0), (1, 2, 3, 1, 2), (9, 9, 9, 9, 9)]
    sequences = [each if end is None else (*each, end) for each in candidates]
    inner = [{each[:depth] for each in sequences if len(each) > depth} for depth in range(6)]
    decoder = Counting(MODEL)
    backend = FakeBackend(MODEL, decoder=decoder)
    likelihoods(backend, prefixes(2), candidates, end=end)
    assert decoder.prefilled == [2]
    assert decoder.stepped == [2 * max(map(len, inner))] * steps
    assert backend.forwards == 1 + steps


def test_single_tokens_need_no_step() -> None:
    decoder = Counting(MODEL)
    backend = FakeBackend(MODEL, decoder=decoder)
    candidates = [(token,) for token in range(150)]
    found = likelihoods(backend, prefixes(2), candidates, end=None)
    assert (decoder.prefilled, decoder.stepped) == ([2], [])
    np.testing.assert_allclose(np.exp(found.sums).sum(axis=1), 1, rtol=1e-12)


@pytest.mark.parametrize("end", [None, END])
def test_more_candidates_than_rows(end: int | None) -> None:
    """In any order: 147 first tokens, and as many second tokens after one more first token."""
    after = [(149, token, token // 2) for token in range(147)]
    candidates = [*((token, 1) for token in range(147)), *after]
    np.random.default_rng(0).shuffle(candidates)
    clips, decoder = prefixes(3), Counting(MODEL)
    backend = FakeBackend(MODEL, decoder=decoder)
    found = likelihoods(backend, clips, candidates, end=end)
    assert_brute_force(found, clips, candidates, end)
    assert sum(decoder.prefilled) > 2 * len(clips)
    assert max(decoder.stepped) <= MAX_ROWS
    assert len(decoder.stepped) <= 3 * len(decoder.prefilled)


def test_a_trie_wider_than_the_maximum_is_split() -> None:
    candidates = [(token, 1) for token in range(MAX_WIDTH)]
    decoder = Counting(MODEL)
    backend = FakeBackend(MODEL, decoder=decoder)
    found = likelihoods(backend, prefixes(1), candidates, end=None)
    assert (decoder.prefilled, decoder.stepped) == ([1], [MAX_WIDTH])
    assert_brute_force(found, prefixes(1), candidates, None)
    likelihoods(backend, prefixes(1), [*candidates, (MAX_WIDTH, 1)], end=None)
    assert (decoder.prefilled[1:], decoder.stepped[1:]) == ([2], [2 * 33])


def test_batches_and_order_change_nothing() -> None:
    clips = prefixes(9, seed=1)
    candidates = [*random_candidates(1), *((token, 1) for token in range(5, 60))]
    sums = likelihoods(FakeBackend(MODEL), clips, candidates, end=END).sums
    assert len(np.unique(sums)) == sums.size
    for clip, expected in zip(clips, sums, strict=True):
        alone = likelihoods(FakeBackend(MODEL), [clip], candidates, end=END).sums
        np.testing.assert_array_equal(alone[0], expected)  # to the last bit
    turned = likelihoods(FakeBackend(MODEL), clips[::-1], candidates[::-1], end=END).sums
    np.testing.assert_array_equal(turned, sums[::-1, ::-1])
    one = likelihoods(FakeBackend(MODEL), clips, candidates[7:8], end=END).sums
    np.testing.assert_array_equal(one[:, 0], sums[:, 7])


def test_means_are_per_token() -> None:
    candidates = [(7,), (7, 8, 9)]
    found = likelihoods(FakeBackend(MODEL), prefixes(2), candidates, end=END)
    np.testing.assert_array_equal(found.means, found.sums / np.array([2, 4]))


def test_probabilities_of_all_answers_sum_to_one() -> None:
    """Probabilities of all finished answers of up to two tokens and all longer ones sum to 1."""
    model = ScriptedModel({(): [0.1, 0.2, 0.3, 0.4], (1,): [0.7, 0.1, 0.1, 0.1]})
    answers = [(first,) for first in range(1, 4)]
    backend, clips = FakeBackend(model), prefixes(1)
    ended = likelihoods(backend, clips, answers, end=0).sums[0]
    np.testing.assert_allclose(np.exp(ended), [0.2 * 0.7, 0.3 / 4, 0.4 / 4], rtol=1e-6)
    longer = [(first, second) for first in range(1, 4) for second in range(1, 4)]
    open_ = likelihoods(backend, clips, [(0,), *longer], end=None).sums[0]
    assert np.exp(ended).sum() + np.exp(open_).sum() == pytest.approx(1, rel=1e-6)


@pytest.mark.filterwarnings("ignore:divide by zero")  # the script's own log
def test_probability_zero_is_minus_infinity() -> None:
    model = ScriptedModel({(): [0.5, 0.5, 0, 0], (1,): [0, 0, 0, 1.0]})
    found = likelihoods(
        FakeBackend(model), prefixes(1), [(0,), (2,), (2, 1), (1, 3), (1, 0)], end=None
    )
    half = np.log(0.5)
    np.testing.assert_allclose(found.sums, [[half, -np.inf, -np.inf, half, -np.inf]], rtol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    class Loud(ToyModel):
        def logits(self, prefix: F32, tokens: Sequence[int]) -> F32:
            return np.array([3e38, 3e38, -3e38], np.float32)

    found = likelihoods(FakeBackend(Loud(vocab_size=3)), prefixes(1), [(0, 1), (1,)], end=None)
    np.testing.assert_allclose(found.sums, [[2 * np.log(0.5), np.log(0.5)]], rtol=1e-12)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("place", [(), (2,), (2, 1)])
def test_broken_logits_name_clip_and_candidate(place: Tokens, value: float) -> None:
    """Unread logits may be anything: rows after token 0 are idle or a candidate's end."""

    class Broken(ToyModel):
        def logits(self, prefix: F32, tokens: Sequence[int]) -> F32:
            logits = super().logits(prefix, tokens)
            second = np.array_equal(prefix, clips[1])
            if tuple(tokens[:1]) == (0,) or (second and tuple(tokens) == place):
                logits[5] = value
            return logits

    clips = prefixes(3, seed=3)
    candidates = [(3, 4), (0,), (2, 1, 5), (2, 1, 4)]
    first = 0 if place == () else 2
    with pytest.raises(ValueError, match=rf"finite maximum: clip 1, candidate {first}$") as caught:
        likelihoods(FakeBackend(Broken()), clips, candidates, end=None)
    assert not isinstance(caught.value, UsageError)
    likelihoods(FakeBackend(Broken()), clips[::2], candidates, end=None)


@pytest.mark.parametrize(
    ("candidates", "end", "message"),
    [
        ([], END, r"no candidates .* at least one$"),
        ([(1,), ()], END, r"^candidate 1 has no tokens: "),
        ([(1, 2), (1,), (1, 2)], END, r"^candidates 0 and 2 are the same: "),
        ([(1,), (2, 150)], END, r"^candidate 1: tokens must be in \[0, 149\], got 150$"),
        ([(-1,)], END, r"^candidate 0: tokens must be in \[0, 149\], got -1$"),
        ([(1,)], 150, r"^end: tokens must be in \[0, 149\], got 150$"),
        ([(1,)], -1, r"^end: tokens must be in \[0, 149\], got -1$"),
    ],
)
@pytest.mark.parametrize("clips", [0, 2])
def test_refused(candidates: list[Tokens], end: int, message: str, clips: int) -> None:
    backend = FakeBackend(MODEL)
    with pytest.raises(UsageError, match=message) as caught:
        likelihoods(backend, prefixes(clips), candidates, end=end)
    assert "\n" not in str(caught.value)
    assert backend.forwards == 0


def test_positions() -> None:
    clips = [np.zeros((length, WIDTH), np.float32) for length in (2, 8)]
    candidates = [(1,), (1, 2, 3), (4,)]
    likelihoods(FakeBackend(MODEL, n_positions=12), clips, candidates, end=END)
    likelihoods(FakeBackend(MODEL, n_positions=11), clips, candidates, end=None)
    backend = FakeBackend(MODEL, n_positions=11)
    with pytest.raises(
        UsageError, match=r"8 rows and the 4 tokens of candidate 1 exceed .* 11 pos"
    ):
        likelihoods(backend, clips, candidates, end=END)
    assert backend.forwards == 0


def test_no_clips() -> None:
    backend = FakeBackend(MODEL)
    found = likelihoods(backend, [], [(1,), (1, 2)], end=END)
    assert found.sums.shape == found.means.shape == (0, 2)
    assert found.counts.tolist() == [2, 3]
    assert backend.forwards == 0


@pytest.mark.parametrize("wrong", ["tokens", "parents"])
def test_the_toy_model_detects_a_lost_history(wrong: str) -> None:
    """Guards the comparisons above: history must make a difference."""

    @dataclass
    class Forgetful(FakeDecoder):
        def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
            changed = {"tokens": tokens, "parents": parents}
            changed[wrong] = np.zeros_like(tokens)
            return super().step(cache, changed["tokens"], changed["parents"])

    clips, candidates = prefixes(2), random_candidates(0)
    found, other = (
        likelihoods(backend, clips, candidates, end=END).sums
        for backend in (FakeBackend(MODEL, decoder=Forgetful(MODEL)), FakeBackend(MODEL))
    )
    assert np.abs(found - other).max() > 0.1


@pytest.fixture(scope="module", params=["torch", "onnx"])
def backend(request: pytest.FixtureRequest, tiny_model: Pengi, tiny_plan: Path) -> Backend:
    if request.param == "torch":
        return TorchBackend(tiny_model)
    return OnnxBackend(Plan.open(tiny_plan), threads=1)


@pytest.fixture(scope="module")
def exact(tiny_model: Pengi) -> Pengi:
    """The same weights in float64."""
    model = Pengi(tiny_model.config)
    model.load_state_dict(tiny_model.state_dict())
    return model.double().eval()


def full_forward(model: Pengi, prefix: F32, sequence: Tokens) -> F64:
    """The log-probability of every token, by one pass over prefix and tokens without a cache."""
    with torch.inference_mode():
        tokens = torch.tensor(sequence)
        rows = torch.cat([torch.from_numpy(prefix).double(), model.decoder.wte(tokens)])[None]
        hidden, _ = model.decoder(rows, torch.arange(rows.shape[1]))
        before = hidden[0, len(prefix) - 1 : -1]
        log_probs = model.decoder.logits(before).log_softmax(dim=-1)
        found: F64 = log_probs.gather(1, tokens[:, None])[:, 0].numpy()
    return found


@pytest.mark.parametrize("ended", [False, True])
def test_equals_a_full_forward_pass_in_float64(
    backend: Backend, exact: Pengi, *, ended: bool
) -> None:
    """Tolerance: 5e-5 per token, the error of float32 logits of order ten elsewhere; seen: 1.3e-5.

    A wrong position, parent or pad is off by more than 0.1.
    """
    end = pengi_config(backend.config).stop_id if ended else None
    generator = np.random.default_rng(0)
    words = [*random_candidates(2, count=30), *((int(t), 9) for t in generator.permutation(512))]
    candidates = list(dict.fromkeys(words))[:90]  # wider than one trie
    width = pengi_config(backend.config).decoder.n_embd
    clips = [generator.normal(size=(length, width)).astype(np.float32) for length in (16, 3, 9)]
    found = likelihoods(backend, clips, candidates, end=end)
    for clip, sums in zip(clips, found.sums, strict=True):
        for candidate, total, count in zip(candidates, sums, found.counts, strict=True):
            sequence = candidate if end is None else (*candidate, end)
            expected = full_forward(exact, clip, sequence)
            assert len(expected) == count
            assert total == pytest.approx(expected.sum(), abs=5e-5 * count)


def test_real_backends_alone_and_in_batches(backend: Backend) -> None:
    """Same tolerance as above, since products of other shapes add in another order."""
    candidates = random_candidates(3)
    clips = prefixes(4, seed=2, width=pengi_config(backend.config).decoder.n_embd)
    found = likelihoods(backend, clips, candidates, end=pengi_config(backend.config).stop_id)
    for clip, sums in zip(clips, found.sums, strict=True):
        alone = likelihoods(backend, [clip], candidates, end=pengi_config(backend.config).stop_id)
        np.testing.assert_allclose(alone.sums[0], sums, atol=5e-4)
        assert (alone.sums[0].argsort() == sums.argsort()).all()
    assert np.ptp(found.sums, axis=0).min() > 0.01  # clips differ
