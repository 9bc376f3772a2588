"""The host's part of an answer: everything that the engine does except run the model.

The backend answers at once, with beams as a search on the device leaves them. Recordings are arrays
at the model's rate; reading and resampling files comes on top. If a GPU makes 5 000 captions per
second, the host has 200 us for each, and the device idles while the host works.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import pengi_rt
from pengi_rt.backends.protocol import F32, I64, Encoded, SearchTrace
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.pengi import PengiConfig, pengi_config
from pengi_rt.decoding.backtrack import read_hypotheses
from pengi_rt.engine import Engine
from pengi_rt.session.session import Session

BEAMS, STEPS = 5, 20
BATCHES = (1, 64)


class Instant:
    """A backend that searches on its own, with traces drawn beforehand."""

    name = "instant"
    precision = "fp32"

    def __init__(self, config: PengiConfig) -> None:
        self.config = config
        self.encoders = self.device_search = self
        self.answers = {clips: searched(config.decoder.vocab_size, clips) for clips in BATCHES}

    def encode_text(self, ids: I64) -> Encoded:
        shape = (len(ids), self.config.prompt_rows(ids.shape[1]), self.config.decoder.n_embd)
        return Encoded(np.zeros((len(ids), self.config.d_proj), np.float32), np.zeros(shape, "f4"))

    def search_audio(self, windows: F32, text_prefix: F32, options: DecodeOptions) -> SearchTrace:
        return self.answers[len(windows)]

    def search_new_prompt(
        self, windows: F32, ids: I64, suffix: F32, options: DecodeOptions
    ) -> tuple[Encoded, SearchTrace]:
        return self.encode_text(ids), self.answers[len(windows)]

    def close(self) -> None:
        """Do nothing: there is nothing to release."""


def searched(vocab: int, clips: int) -> SearchTrace:
    """Random beams that no stop token has finished."""
    generator = np.random.default_rng(0)
    shape = (STEPS, clips, BEAMS)
    return SearchTrace(
        tokens=generator.integers(0, vocab, shape).astype(np.int32),
        sources=generator.integers(0, BEAMS, shape).astype(np.int32),
        lengths=np.broadcast_to(np.arange(1, STEPS + 1, dtype=np.int32)[:, None, None], shape),
        averages=-np.sort(generator.exponential(2.0, shape), axis=2),
        done=np.zeros(clips, np.int32),
    )


@pytest.fixture(scope="module")
def engine(bench_plan: Path) -> Iterator[Engine]:
    with pengi_rt.load(bench_plan, threads=1) as loaded:
        backend: Any = Instant(pengi_config(loaded.config))
        yield Engine(Session(loaded.plan, backend))


@pytest.mark.parametrize("clips", BATCHES)
def test_engine(benchmark: BenchmarkFixture, engine: Engine, clips: int) -> None:
    """From arrays to results with their text."""
    config = engine.config
    generator = np.random.default_rng(clips)
    noise = generator.uniform(-0.3, 0.3, config.clip_samples).astype(np.float32)
    recordings = [(noise, config.sample_rate)] * clips

    def call() -> list[Any]:
        return engine.generate(
            recordings, "a", batch_size=clips, beam_size=BEAMS, max_new_tokens=STEPS
        )

    assert len(call()) == clips
    benchmark.group = f"host, {clips} clips"
    benchmark(call)
    note(benchmark, clips)


@pytest.mark.parametrize("clips", BATCHES)
def test_read_out(benchmark: BenchmarkFixture, engine: Engine, clips: int) -> None:
    """Only tracing the beams back to their tokens."""
    found = engine.backend.answers[clips]  # type: ignore[attr-defined]
    assert len(read_hypotheses(found, STEPS)) == clips
    benchmark.group = f"host, {clips} clips"
    benchmark(read_hypotheses, found, STEPS)
    note(benchmark, clips)


def note(benchmark: BenchmarkFixture, clips: int) -> None:
    if benchmark.stats is not None:
        benchmark.extra_info["us_per_caption"] = benchmark.stats.stats.min / clips * 1e6
