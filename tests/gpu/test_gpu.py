"""What only a GPU can show; PENGI_TEST_GPU=1 runs it (benchmarks/GPU.md).

The other tests of kernels and of their backend run on it too then, compiled. Goldens need
PENGI_RT_CHECKPOINTS, the folder with the full-size ``base.pth`` and ``base_no_text_enc.pth``.
"""

import os
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

from triton_interpreter import DEVICE

# isort: split
import numpy as np
import pytest
import torch
from golden import PAIRS, meta, pair, waveform
from golden_beam import assert_golden, decode_options, goldens_of, prefix_of
from lock_step import prefilled
from numpy.typing import NDArray
from torch import Tensor

import pengi_rt
from pengi_rt.backends.protocol import F32
from pengi_rt.backends.triton.audio import AudioEncoding
from pengi_rt.backends.triton.backend import TritonBackend
from pengi_rt.backends.triton.gpt2 import Decoding
from pengi_rt.backends.triton.search import STEPS
from pengi_rt.config.decode import DecodeOptions
from pengi_rt.config.pengi import pengi_config
from pengi_rt.decoding.beam import search
from pengi_rt.export.checkpoint_reader import load_model
from pengi_rt.models.gpt2 import GPT2
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan.builtin import builtin_plan
from pengi_rt.text.prompts import load_tasks
from pengi_rt.training.scenes.held_out import held_out

pytestmark = pytest.mark.gpu

CONFIGS = ("base", "base_no_text_enc")
SCENES = 200
LEAST_EQUAL_CAPTIONS = 0.95
LEAST_EQUAL_TOKENS = 0.98
FACTOR = 2
"""The factor on PyTorch's own error in float16: summation order makes neither one better."""
FREE = DecodeOptions(beam_size=3, max_new_tokens=9, temperature=0.7, stop_id=-1, pad_id=0)
"""Options for the tiny model; no token stops the search, so graphs end where the buffers do."""


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> Pengi:
    folder = os.environ.get("PENGI_RT_CHECKPOINTS")
    if not folder:
        pytest.skip("PENGI_RT_CHECKPOINTS names no folder of full-size checkpoints")
    loaded, _ = load_model(Path(folder) / f"{request.param}.pth")
    return loaded


@pytest.fixture(scope="module")
def exact(model: Pengi) -> Iterator[TritonBackend]:
    backend = TritonBackend(model, device=DEVICE, precision="fp32")
    yield backend
    backend.close()


def test_golden_beams(model: Pengi, exact: TritonBackend) -> None:
    """The tokens equal the released code's in float32, given its prefixes."""
    for golden in goldens_of(model.config.name):
        prefix = [prefix_of(golden)]
        (answer,) = search(exact, prefix, decode_options(golden, 5))
        assert_golden(answer, golden["beam5_ids"], golden["beam5_scores"])
        (answer,) = search(exact, prefix, decode_options(golden, 1))
        assert_golden(answer, golden["greedy_ids"], golden["greedy_score"])


def test_golden_beams_together(model: Pengi, exact: TritonBackend) -> None:
    """All runs of the same options in one batch, prefixes of several lengths among them."""
    usual = decode_options(pair(PAIRS[0]), 5)
    goldens = [
        golden for golden in goldens_of(model.config.name) if decode_options(golden, 5) == usual
    ]
    answers = search(exact, [prefix_of(golden) for golden in goldens], usual)
    for golden, answer in zip(goldens, answers, strict=True):
        assert_golden(answer, golden["beam5_ids"], golden["beam5_scores"])


def test_golden_recordings(model: Pengi, exact: TritonBackend) -> None:
    """From recording to tokens, which must equal the released code's.

    The prefix may be off by ten times what the released code loses to float32.
    """
    for golden in goldens_of(model.config.name):
        run = meta(golden)
        (audio,) = exact.encoders.encode_audio(waveform(run["audio"])[None]).prefix
        lost = run["max_abs_diff_float32_vs_float64"]["m1_out"]
        tolerance = max(10 * lost, 1e-6 * float(np.abs(golden["m1_out"]).max()))
        np.testing.assert_allclose(audio, golden["m1_out"], rtol=0, atol=tolerance)
        prefix = np.concatenate([audio, prefix_of(golden)[len(audio) :]])
        (answer,) = search(exact, [prefix], decode_options(golden, 5))
        assert_golden(answer, golden["beam5_ids"], golden["beam5_scores"])


def test_float16_on_the_goldens(model: Pengi) -> None:
    """Log-probabilities of every answer's tokens, each read in turn, against float64.

    Pooled over the goldens: largest and root mean square error at most twice PyTorch's in float16,
    and the best token is the exact one's in 98 %.
    """
    half = TritonBackend(model, device=DEVICE, precision="fp16")
    decoders = [deepcopy(model.decoder).to(DEVICE, kind) for kind in (torch.float64, torch.half)]
    ours: list[Tensor] = []
    truths: list[Tensor] = []
    natives: list[Tensor] = []
    for golden in goldens_of(model.config.name):
        prefix, best = prefix_of(golden), golden["beam5_ids"][0]
        tokens = best[best >= 0].astype(np.int64)
        ours.append(forced(half, prefix, tokens))
        truth, native = (forced_by_pytorch(decoder, prefix, tokens) for decoder in decoders)
        truths.append(truth)
        natives.append(native)
    found, truth, native = (torch.cat(rows) for rows in (ours, truths, natives))
    error, own = (found - truth).abs(), (native - truth).abs()
    assert error.max() <= FACTOR * own.max()
    assert error.square().mean().sqrt() <= FACTOR * own.square().mean().sqrt()
    equal = found.argmax(1) == truth.argmax(1)
    assert float(equal.double().mean()) >= LEAST_EQUAL_TOKENS, f"{int(equal.sum())}/{len(equal)}"


def forced(backend: TritonBackend, prefix: F32, tokens: NDArray[np.int64]) -> Tensor:
    """Log-probabilities float64 [n, V] before each of ``tokens``, by prefill and steps."""
    run = prefilled(backend, prefix[None], new_tokens=len(tokens))
    rows = [run.first, *(run.step([token]) for token in tokens[:-1])]
    return torch.from_numpy(np.concatenate(rows)).double().log_softmax(1)


@torch.inference_mode()
def forced_by_pytorch(decoder: GPT2, prefix: F32, tokens: NDArray[np.int64]) -> Tensor:
    """The same from the plain model, in its dtype and in one pass."""
    weight = decoder.wte.weight
    known = decoder.wte(torch.from_numpy(tokens[:-1]).to(weight.device))
    x = torch.cat([torch.from_numpy(prefix).to(weight), known])[None]
    hidden, _ = decoder(x, torch.arange(x.shape[1], device=weight.device))
    logits: Tensor = decoder.logits(hidden[0, len(prefix) - 1 :])
    return logits.double().log_softmax(1).cpu()


def test_demo_captions_in_float16() -> None:
    """The best captions of 200 synthetic scenes match float32's in 95 % of cases."""
    if not builtin_plan().is_file():
        pytest.skip("no demo plan is built in")
    clips = [clip.samples for clip in held_out(SCENES, notes=False, tasks=load_tasks())]

    def captions(precision: str) -> list[str]:
        with pengi_rt.load(
            builtin_plan(), backend="triton", device="cuda", precision=precision
        ) as engine:
            rate = pengi_config(engine.config).mel.sample_rate
            answers = engine.generate([(clip, rate) for clip in clips], batch_size=50)
            return [answer.text for answer in answers]

    pairs = list(zip(captions("fp16"), captions("fp32"), strict=True))
    equal = sum(one == other for one, other in pairs)
    assert len(pairs) == SCENES
    assert len({other for _, other in pairs}) > SCENES // 10, "a model that says always the same"
    assert equal >= LEAST_EQUAL_CAPTIONS * SCENES, f"{equal} of {SCENES}"


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_replayed_search_is_the_eager_one(tiny_model: Pengi, precision: str) -> None:
    """Runs twice, to show that the first search does not affect the second."""
    backend = TritonBackend(tiny_model, device=DEVICE, precision=precision)
    prefix, lengths = two_prefixes()
    first, second = (backend.device_search.search_prefix(prefix, lengths, FREE) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
    ((shape, run),) = backend.device_search._runs.items()
    with torch.inference_mode():
        eager = Decoding(backend.decoder.weights, shape)
        eager.put_prefix(torch.from_numpy(prefix), torch.from_numpy(lengths))
        eager.temperature.fill_(FREE.divisor)
        eager.ends.copy_(torch.tensor([FREE.stop_id, FREE.pad_id]))
        eager.prefill()
        eager.first_logits()
        eager.first_choice()
        for _ in range(shape.steps):
            eager.step()
            eager.choose()
    for name in ("tokens", "sources", "lengths", "finished", "position", "done", "broken"):
        replayed = getattr(run.decoding.history, name)
        assert torch.equal(getattr(eager.history, name), replayed), name
    torch.testing.assert_close(eager.history.averages, run.decoding.history.averages)


def two_prefixes() -> tuple[F32, NDArray[np.int64]]:
    values = np.random.default_rng(5).normal(size=(2, 16, 64))
    return values.astype(np.float32), np.array([16, 11])


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_replayed_encoder_is_the_eager_one(tiny_model: Pengi, precision: str) -> None:
    backend = TritonBackend(tiny_model, device=DEVICE, precision=precision)
    wave = np.random.default_rng(5).normal(scale=0.1, size=(2, 32_000)).astype(np.float32)
    first, second = backend.encoders.encode_audio(wave), backend.encoders.encode_audio(wave)
    np.testing.assert_array_equal(first.prefix, second.prefix)
    with torch.inference_mode():
        eager = AudioEncoding(backend.encoders._model, backend.encoders._tables, len(wave))
        eager.load(wave)
        eager.run()
        torch.testing.assert_close(torch.from_numpy(first.prefix), eager.prefix.cpu())
        torch.testing.assert_close(torch.from_numpy(first.embedding), eager.embedding.cpu())


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_prompts_beside_the_audio(tiny_model: Pengi, precision: str) -> None:
    """Two graphs running at once, repeatedly, do not disturb each other's results."""
    backend = TritonBackend(tiny_model, device=DEVICE, precision=precision)
    generator = np.random.default_rng(6)
    nothing = np.empty((0, tiny_model.config.decoder.n_embd), np.float32)
    for turn in range(20):
        ids = np.array([[510, *generator.integers(0, 500, 1 + turn % 12), 511]])
        wave = generator.normal(scale=0.1, size=(3, 32_000)).astype(np.float32)
        text, found = backend.device_search.search_new_prompt(wave, ids, nothing, FREE)
        alone = backend.encoders.encode_text(ids)
        np.testing.assert_array_equal(text.prefix, alone.prefix)
        expected = backend.device_search.search_audio(wave, alone.prefix[0], FREE)
        np.testing.assert_array_equal(found.tokens, expected.tokens)
    with torch.inference_mode():
        padded = np.pad(ids, ((0, 0), (0, 16 - ids.shape[1])), constant_values=511)
        eager = backend.encoders._model.encode_text(torch.from_numpy(padded).to(DEVICE))
    torch.testing.assert_close(torch.from_numpy(alone.prefix), eager.prefix.float().cpu())


@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_nothing_waits_for_the_device_between_steps(tiny_model: Pengi) -> None:
    """PyTorch refuses to synchronize while a search's graphs are being enqueued."""
    backend = TritonBackend(tiny_model, device=DEVICE, precision="fp16")
    expected = backend.device_search.search_prefix(*two_prefixes(), FREE)
    (run,) = backend.device_search._runs.values()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        run.start()
        for _ in range(run.decoding.shape.steps // STEPS):
            run.more()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.cuda.synchronize()
    tokens = run.decoding.history.tokens.cpu().numpy()
    np.testing.assert_array_equal(tokens, expected.tokens)
