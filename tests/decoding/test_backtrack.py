"""Reading out a search, compared with walking back from every beam separately."""

import numpy as np
import pytest

from pengi_rt.backends.protocol import SearchTrace
from pengi_rt.decoding.backtrack import Hypotheses, Hypothesis, read_hypotheses


def searched(seed: int, steps: int, clips: int, width: int, done: list[int]) -> SearchTrace:
    """Random beams; after a clip's last step they are garbage, as in a backend's buffers."""
    generator = np.random.default_rng(seed)
    shape = (steps, clips, width)
    averages = -np.sort(generator.exponential(2.0, shape), axis=2)
    averages[generator.random(shape) < 0.1] = -np.inf
    found = SearchTrace(
        tokens=generator.integers(0, 50_257, shape).astype(np.int32),
        sources=generator.integers(0, width, shape).astype(np.int32),
        lengths=generator.integers(1, np.arange(2, steps + 2)[:, None, None], shape, np.int32),
        averages=averages,
        done=np.array(done, np.int32),
    )
    for clip, last in enumerate(done):
        for rows in found[:4] if last else ():
            rows[last:, clip] = 7**9
    return found


def walked(found: SearchTrace, clip: int, steps: int, beam: int) -> Hypothesis:
    """One beam, from its last token to its first."""
    length = int(found.lengths[steps - 1, clip, beam])
    tokens: list[int] = []
    sums: list[float] = []
    place = beam
    for step in reversed(range(steps)):
        tokens.insert(0, int(found.tokens[step, clip, place]))
        sums.insert(0, float(found.averages[step, clip, place]) * (step + 1))
        place = int(found.sources[step, clip, place])
    before = [0.0, *sums]
    logprobs = [
        min(after - known, 0.0) if np.isfinite(after) else -np.inf
        for known, after in zip(before, sums, strict=False)
    ]
    score = float(found.averages[steps - 1, clip, beam])
    return Hypothesis(tuple(tokens[:length]), score, tuple(logprobs[:length]))


@pytest.mark.parametrize(
    ("steps", "width", "done", "most"),
    [
        (1, 1, [0], 1),
        (6, 3, [0, 4, 1, 6], 6),
        (9, 5, [2, 3], 8),
        (9, 2, [9, 0, 7], 5),  # the buffers hold more steps than the options allow
    ],
)
def test_backtracking_equals_following_each_beam(
    steps: int, width: int, done: list[int], most: int
) -> None:
    for seed in range(5):
        found = searched(seed, steps, len(done), width, done)
        answers = read_hypotheses(found, most)
        for clip, (answer, last) in enumerate(zip(answers, done, strict=True)):
            own = min(last or most, most)
            beams = tuple(walked(found, clip, own, beam) for beam in range(width))
            assert answer == Hypotheses(beams, own)
