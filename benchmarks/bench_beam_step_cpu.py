"""The beam step with base's vocabulary: native against NumPy, and PyTorch if it is installed.

``gb_per_s`` is the rate at which the fastest round reads the logits. They are in the cache, as they
are after the decoder has just written them.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from pytest_benchmark.fixture import BenchmarkFixture

from pengi_rt.kernels.beam_step_cpu import F32, BeamState, beam_step_cpu, beam_step_cpu_reference

VOCAB = 50_257
BEAMS = 5
OPTIONS: dict[str, Any] = {"beam_size": BEAMS, "temperature": 1.0, "stop_id": 220, "pad_id": 0}

Step = Callable[[F32, BeamState], NDArray[np.int64]]


def native(logits: F32, state: BeamState) -> NDArray[np.int64]:
    step = beam_step_cpu(logits, state, **OPTIONS)
    return step.sources * VOCAB + step.tokens


def numpy_reference(logits: F32, state: BeamState) -> NDArray[np.int64]:
    step = beam_step_cpu_reference(logits, state, **OPTIONS)
    return step.sources * VOCAB + step.tokens


def torch_topk(logits: F32, state: BeamState) -> NDArray[np.int64]:
    """The obvious PyTorch version: float32, and without the bookkeeping of the other two."""
    import torch

    log_probs = torch.from_numpy(logits).log_softmax(-1)
    scores = torch.from_numpy(state.scores.astype(np.float32))[..., None]
    lengths = torch.from_numpy(state.lengths)[..., None]
    averages = (scores + log_probs) / (lengths + 1)
    return averages.flatten(1).topk(BEAMS).indices.numpy()


@pytest.mark.parametrize("clips", [1, 8])
@pytest.mark.parametrize("step", [native, numpy_reference, torch_topk])
def test_beam_step(benchmark: BenchmarkFixture, step: Step, clips: int) -> None:
    if step is torch_topk:
        pytest.importorskip("torch").set_num_threads(1)
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 3, (clips, BEAMS, VOCAB)).astype(np.float32)
    shape = (clips, BEAMS)
    state = BeamState(
        -generator.exponential(20.0, shape), np.full(shape, 8, np.int32), np.zeros(shape, np.bool_)
    )
    np.testing.assert_array_equal(step(logits, state), numpy_reference(logits, state))

    benchmark.group = f"beam step, {clips} clips of {BEAMS} beams"
    benchmark(step, logits, state)
    if benchmark.stats is not None:
        benchmark.extra_info["gb_per_s"] = logits.nbytes / benchmark.stats.stats.min / 1e9
