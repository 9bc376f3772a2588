"""The beam search against the released rule, implemented plainly, which recomputes everything."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from fake_backend import WIDTH, FakeBackend, FakeDecoder, ScriptedModel, ToyModel
from toy_paths import log_probs, prefixes

from pengi_rt.backends.protocol import F32, I64, Cache, Encoded, SearchTrace
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.decoding.backtrack import Hypotheses, Hypothesis
from pengi_rt.decoding.beam import search
from pengi_rt.decoding.loop import StopTest
from pengi_rt.errors import UsageError

MODEL = ToyModel()
OPTIONS = DecodeOptions(
    beam_size=5, max_new_tokens=12, temperature=1.0, stop_id=MODEL.stop_id, pad_id=0
)


def released_search(
    model: ToyModel | ScriptedModel, prefix: F32, options: DecodeOptions
) -> tuple[list[tuple[tuple[int, ...], float]], int]:
    """One clip by the published rule (facts: section 9): best answers first, and forward passes."""
    width, vocab = options.beam_size, model.vocab_size
    temperature = options.temperature if options.temperature > 0 else 1.0
    histories: list[list[int]] = [[]]
    scores = np.zeros(1)
    lengths = np.ones(1)
    stopped = np.zeros(1, bool)
    steps = 0
    while steps < options.max_new_tokens:
        logits = np.stack([model.logits(prefix, tokens) for tokens in histories])
        weights = np.exp(logits.astype(np.float64) / temperature)
        log_probs = np.log(weights / weights.sum(axis=1, keepdims=True))
        if steps == 0:
            best = np.argsort(-log_probs[0], kind="stable")[:width]
            source = np.zeros(width, int)
            scores, lengths, stopped = log_probs[0][best], np.ones(width), np.zeros(width, bool)
        else:
            log_probs[stopped] = -np.inf
            log_probs[stopped, options.pad_id] = 0
            lengths[~stopped] += 1
            averages = ((scores[:, None] + log_probs) / lengths[:, None]).reshape(-1)
            flat = np.argsort(-averages, kind="stable")[:width]
            source, best = flat // vocab, flat % vocab
            scores, lengths, stopped = (
                averages[flat] * lengths[source],
                lengths[source],
                stopped[source],
            )
        histories = [[*histories[i], int(token)] for i, token in zip(source, best, strict=True)]
        stopped = stopped | (best == options.stop_id)
        steps += 1
        if stopped.all():
            break
    order = np.argsort(-scores / lengths, kind="stable")
    return [
        (tuple(histories[i][: int(lengths[i])]), float(scores[i] / lengths[i])) for i in order
    ], steps


def assert_released(
    answers: Sequence[Hypotheses], clips: Sequence[F32], options: DecodeOptions
) -> None:
    for answer, prefix in zip(answers, clips, strict=True):
        beams, steps = released_search(MODEL, prefix, options)
        assert [beam.tokens for beam in answer.beams] == [tokens for tokens, _ in beams]
        assert [beam.score for beam in answer.beams] == pytest.approx(
            [score for _, score in beams], rel=1e-12
        )
        assert answer.steps == steps
        for beam in answer.beams:
            assert_log_probs(beam, prefix, options)


def assert_log_probs(beam: Hypothesis, prefix: F32, options: DecodeOptions) -> None:
    """One per token, as the model computes it.

    Differences of sums of up to 100 leave float64 13 decimals.
    """
    own = log_probs(MODEL, prefix, beam.tokens, options.divisor)
    assert beam.logprobs == pytest.approx(own, abs=1e-12, rel=0)
    assert sum(beam.logprobs) / len(beam.tokens) == pytest.approx(beam.score, rel=1e-12)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"beam_size": 1},
        {"beam_size": 2, "temperature": 0.6},
        {"beam_size": 23, "max_new_tokens": 6},  # every token of the vocabulary
        {"temperature": 2.0, "pad_id": 22},
        {"max_new_tokens": 1},
        {"max_new_tokens": 2},
        {"stop_id": 0, "max_new_tokens": 30},  # stop and pad are the same token
        {"stop_id": -1},
    ],
    ids=str,
)
def test_equals_released_rule(changes: dict[str, Any], seed: int) -> None:
    options = replace(OPTIONS, **changes)
    clips = prefixes(4, seed)
    assert_released(search(FakeBackend(MODEL), clips, options), clips, options)


def test_the_random_cases_cover_what_matters() -> None:
    """Clips that end early next to ones that do not, and answers of different lengths."""
    answers = [answer for seed in range(6) for answer in search_all(prefixes(4, seed))]
    steps = {answer.steps for answer in answers}
    assert len(steps) > 3
    assert max(steps) == OPTIONS.max_new_tokens
    lengths = [{len(beam.tokens) for beam in answer.beams} for answer in answers]
    assert sum(len(each) > 1 for each in lengths) > 5


def search_all(clips: Sequence[F32], **changes: Any) -> list[Hypotheses]:
    return search(FakeBackend(MODEL), clips, replace(OPTIONS, **changes))


def test_batches_and_order_change_nothing() -> None:
    clips = prefixes(8, seed=1)
    alone = [search_all([clip])[0] for clip in clips]
    assert search_all(clips) == alone  # scores to the last bit
    assert search_all(clips[::-1]) == alone[::-1]
    assert len(set(alone)) == len(alone)


def test_best_first() -> None:
    for answer in search_all(prefixes(4)):
        scores = [beam.score for beam in answer.beams]
        assert scores == sorted(scores, reverse=True)
        assert len({beam.tokens for beam in answer.beams}) == OPTIONS.beam_size


def test_one_beam_is_greedy() -> None:
    for prefix in prefixes(5, seed=2):
        tokens: list[int] = []
        while len(tokens) < 12 and MODEL.stop_id not in tokens:
            tokens.append(int(MODEL.logits(prefix, tokens).argmax()))
        assert search_all([prefix], beam_size=1)[0].beams[0].tokens == tuple(tokens)


def test_forward_passes() -> None:
    """As many as the longest clip needs: none after its last token or once all clips have ended."""
    clips = prefixes(6, seed=4)
    backend = FakeBackend(MODEL)
    answers = search(backend, clips, OPTIONS)
    assert backend.forwards == max(answer.steps for answer in answers)
    ending = [clip for clip, answer in zip(clips, answers, strict=True) if answer.steps < 12]
    assert ending
    backend = FakeBackend(MODEL)
    search(backend, ending, OPTIONS)
    assert backend.forwards < OPTIONS.max_new_tokens


def test_finished_beam_is_pushed_out_for_good() -> None:
    """The stop token (1) leads after one token, then two continuations of token 2 overtake it."""
    model = ScriptedModel(
        {
            (): [0.05, 0.5, 0.4, 0.05],
            (2,): [0.02, 0.02, 0.94, 0.02],
            (2, 2): [0.49, 0.01, 0.01, 0.49],
        }
    )
    options = replace(OPTIONS, beam_size=2, stop_id=1, max_new_tokens=2)
    prefix = np.zeros((1, WIDTH), np.float32)
    (two,) = search(FakeBackend(model), [prefix], options)
    assert (1,) in [beam.tokens for beam in two.beams]
    (three,) = search(FakeBackend(model), [prefix], replace(options, max_new_tokens=3))
    assert [beam.tokens for beam in three.beams] == [(2, 2, 0), (2, 2, 3)]
    assert three.beams[0].score == pytest.approx(np.log([0.4, 0.94, 0.49]).mean(), rel=1e-6)


def test_every_beam_ends_after_one_token() -> None:
    model = ScriptedModel({(): [0.1, 0.7, 0.1, 0.1]})
    backend = FakeBackend(model)
    prefix = np.zeros((1, WIDTH), np.float32)
    options = replace(OPTIONS, beam_size=1, stop_id=1)
    (answer,) = search(backend, [prefix], options)
    score = answer.beams[0].score
    assert answer == Hypotheses((Hypothesis((1,), score, (score,)),), steps=1)
    assert score == pytest.approx(np.log(0.7), rel=1e-6)
    assert backend.forwards == 1


@pytest.mark.parametrize("temperature", [0.0, -3.0])
def test_temperatures_of_zero_and_below_are_one(temperature: float) -> None:
    clips = prefixes(2)
    assert search_all(clips, temperature=temperature) == search_all(clips)
    assert search_all(clips, temperature=0.5) != search_all(clips)


@pytest.mark.parametrize("wrong", ["tokens", "parents"])
def test_the_toy_model_detects_a_lost_history(wrong: str) -> None:
    """Guards the comparisons above: history must make a difference."""

    @dataclass
    class Forgetful(FakeDecoder):
        def step(self, cache: Cache, tokens: I64, parents: I64) -> F32:
            changed = {"tokens": tokens, "parents": parents}
            changed[wrong] = np.zeros_like(tokens)
            return super().step(cache, changed["tokens"], changed["parents"])

    clips = prefixes(3)
    assert search(FakeBackend(MODEL, decoder=Forgetful(MODEL)), clips, OPTIONS) != search_all(clips)


def test_no_clips_no_forward_pass() -> None:
    backend = FakeBackend(MODEL)
    assert search(backend, [], OPTIONS) == []
    assert backend.forwards == 0


def test_positions() -> None:
    clips = [np.zeros((length, WIDTH), np.float32) for length in (2, 8)]
    search(FakeBackend(MODEL, n_positions=20), clips, OPTIONS)
    backend = FakeBackend(MODEL, n_positions=19)
    with pytest.raises(UsageError, match=r"of 8 rows and max_new_tokens 12 .* 19 positions"):
        search(backend, clips, OPTIONS)
    assert backend.forwards == 0


def test_more_beams_than_tokens() -> None:
    with pytest.raises(UsageError, match="at most the vocabulary's 23 tokens, got 24"):
        search_all(prefixes(1), beam_size=24)


def test_nan_raises() -> None:
    model = ScriptedModel({(2,): [float("nan")] * 4, (): [0.1, 0.1, 0.7, 0.1]})
    with pytest.raises(ValueError, match="clip 0, beam 0"):
        search(
            FakeBackend(model), [np.zeros((1, WIDTH), np.float32)], replace(OPTIONS, beam_size=2)
        )


def test_a_beam_of_probability_zero_is_minus_infinity() -> None:
    """Three beams where only one is possible: impossible beams stay impossible, without NaN."""
    model = ScriptedModel({(): [1, 0, 0, 0]})
    options = replace(OPTIONS, beam_size=3, max_new_tokens=3, stop_id=0)
    with np.errstate(divide="ignore"):  # the script's own zeros
        (answer,) = search(FakeBackend(model), [np.zeros((1, WIDTH), np.float32)], options)
    no = -np.inf
    assert answer.beams == (
        Hypothesis((0,), 0.0, (0.0,)),
        Hypothesis((1, 0), no, (no, no)),
        Hypothesis((1, 1, 0), no, (no, no, no)),
    )


def ends_with(*endings: tuple[int, ...]) -> StopTest:
    return lambda tokens: any(tuple(tokens[-len(ending) :]) == ending for ending in endings)


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_a_stop_test_for_one_token_equals_the_stop_token(beam_size: int) -> None:
    """The hook does everything that the model's own stop token would do."""
    clips = prefixes(6, seed=3)
    unstopped = replace(OPTIONS, beam_size=beam_size, stop_id=-1)
    ended = ends_with((MODEL.stop_id,))
    answers = search(FakeBackend(MODEL), clips, unstopped, is_finished=ended)
    assert answers == search_all(clips, beam_size=beam_size)
    assert answers != search(FakeBackend(MODEL), clips, unstopped)


def test_a_stop_test_for_two_tokens() -> None:
    """Two tokens in the middle of the first clip's best answer end the answer right there."""
    clips = prefixes(4)
    options = replace(OPTIONS, beam_size=1)
    (long, *_) = search(FakeBackend(MODEL), clips, options)
    ended = ends_with(long.beams[0].tokens[1:3])
    (short, *_) = search(FakeBackend(MODEL), clips, options, is_finished=ended)
    assert short.beams[0].tokens == long.beams[0].tokens[:3]
    assert short.beams[0].logprobs == long.beams[0].logprobs[:3]
    assert short.beams[0].score == pytest.approx(sum(long.beams[0].logprobs[:3]) / 3)
    assert (short.steps, long.steps > 3) == (3, True)


def test_the_stop_test_sees_only_unfinished_beams() -> None:
    """The hook sees each beam's whole history, and never one that has already ended."""
    seen: list[tuple[int, ...]] = []

    def over(tokens: Sequence[int]) -> bool:
        return len(tokens) == 4 and tokens[-1] % 2 == 0

    def ended(tokens: Sequence[int]) -> bool:
        seen.append(tuple(tokens))
        return over(tokens)

    clips = prefixes(1, seed=2)
    (answer,) = search(FakeBackend(MODEL), clips, OPTIONS, is_finished=ended)
    assert len(set(seen)) == len(seen)
    assert not any(
        MODEL.stop_id in tokens or over(tokens[:4]) for tokens in seen if len(tokens) > 4
    )
    assert {len(beam.tokens) for beam in answer.beams if over(beam.tokens)} == {4}
    for beam in answer.beams:
        assert_log_probs(beam, clips[0], OPTIONS)
        assert beam.tokens in seen or beam.tokens[-1] == MODEL.stop_id


def test_the_host_steps_when_options_need_it() -> None:
    """A backend that searches on its device cannot call back between steps."""

    class Device:
        def search_prefix(self, prefix: F32, lengths: I64, options: DecodeOptions) -> SearchTrace:
            raise InterruptedError

        def search_audio(
            self, windows: F32, text_prefix: F32, options: DecodeOptions
        ) -> SearchTrace:
            raise NotImplementedError

        def search_new_prompt(
            self, windows: F32, ids: I64, suffix: F32, options: DecodeOptions
        ) -> tuple[Encoded, SearchTrace]:
            raise NotImplementedError

    clips, backend = prefixes(2), FakeBackend(MODEL)
    backend.device_search = Device()
    with pytest.raises(InterruptedError):
        search(backend, clips, OPTIONS)
    usual = search_all(clips)
    assert search(backend, clips, OPTIONS, is_finished=lambda _: False) == usual
