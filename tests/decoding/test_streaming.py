"""Streaming: the same tokens as a search, with each forward pass run only on demand."""

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
from fake_backend import WIDTH, FakeBackend, ToyModel
from toy_paths import prefixes

from pengi_rt.config.decode import DecodeOptions, SampleOptions
from pengi_rt.decoding.beam import search
from pengi_rt.decoding.sampling import sample
from pengi_rt.decoding.streaming import stream_tokens
from pengi_rt.errors import UsageError

MODEL = ToyModel()
GREEDY = DecodeOptions(
    beam_size=1, max_new_tokens=12, temperature=0.8, stop_id=MODEL.stop_id, pad_id=0
)
SAMPLED = SampleOptions(
    samples=1,
    max_new_tokens=12,
    temperature=0.8,
    top_k=20,
    top_p=0.95,
    seed=3,
    stop_id=MODEL.stop_id,
    pad_id=0,
)
CLIPS = prefixes(8, seed=2)


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_stream_equals_the_search(options: DecodeOptions | SampleOptions) -> None:
    """Tokens and log-probabilities match to the last bit, for answers that stop or do not."""
    backend = FakeBackend(MODEL)
    if isinstance(options, DecodeOptions):
        answers = search(backend, CLIPS, options)
    else:
        answers = sample(backend, CLIPS, options)
    lengths = [answer.steps for answer in answers]
    assert min(lengths) < max(lengths) == options.max_new_tokens
    for prefix, answer in zip(CLIPS, answers, strict=True):
        tokens = list(stream_tokens(FakeBackend(MODEL), prefix, options))
        assert tuple(token.id for token in tokens) == answer.beams[0].tokens
        assert tuple(token.logprob for token in tokens) == answer.beams[0].logprobs


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_one_forward_pass_per_token(options: DecodeOptions | SampleOptions) -> None:
    backend = FakeBackend(MODEL)
    tokens = stream_tokens(backend, CLIPS[0], replace(options, stop_id=-1))
    assert backend.forwards == 0
    for count in range(1, 13):
        next(tokens)
        assert backend.forwards == count
    assert next(tokens, None) is None
    assert backend.forwards == 12


def test_the_last_token() -> None:
    tokens = [token.id for token in stream_tokens(FakeBackend(MODEL), CLIPS[0], GREEDY)]
    third = replace(GREEDY, stop_id=tokens[2])
    assert [token.id for token in stream_tokens(FakeBackend(MODEL), CLIPS[0], third)] == tokens[:3]
    ended = stream_tokens(
        FakeBackend(MODEL),
        CLIPS[0],
        GREEDY,
        is_finished=lambda seen: tuple(seen) == tuple(tokens[:2]),
    )
    assert [token.id for token in ended] == tokens[:2]


def test_two_streams_of_one_backend() -> None:
    """A stream keeps its state in its own cache, also between tokens."""
    backend = FakeBackend(MODEL)
    first, second = (stream_tokens(backend, prefix, GREEDY) for prefix in CLIPS[:2])
    together = list(zip(first, second, strict=False))
    assert len(together) > 2
    for index, prefix in enumerate(CLIPS[:2]):
        alone = stream_tokens(FakeBackend(MODEL), prefix, GREEDY)
        assert [pair[index] for pair in together] == list(islice(alone, len(together)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            replace(GREEDY, beam_size=3),
            "ranked only when all of them are finished.*beam_size 1, got 3",
        ),
        (
            replace(SAMPLED, samples=2),
            "ranked only when all of them are finished.*samples 1, got 2",
        ),
        (replace(GREEDY, max_new_tokens=60), "exceed the decoder's 64 positions"),
    ],
)
def test_refused_by_the_call(options: DecodeOptions | SampleOptions, message: str) -> None:
    backend = FakeBackend(MODEL)
    with pytest.raises(UsageError, match=message) as caught:
        stream_tokens(backend, np.zeros((8, WIDTH), np.float32), options)
    assert "\n" not in str(caught.value)
    assert backend.forwards == 0
