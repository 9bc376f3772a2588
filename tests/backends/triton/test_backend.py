"""The GPU backend, in Triton's interpreter or (PENGI_TEST_GPU=1) on a GPU, against the reference.

Tolerances: float32 sums in another order, as in tests/backends/test_torch.py; through HTSAT's
blocks and the logarithm of the front end, 2e-4 on values of order one.
"""

import copy
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lock_step import prefilled
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from triton_interpreter import DEVICE

from pengi_rt.backends.onnx import OnnxBackend
from pengi_rt.backends.protocol import F32
from pengi_rt.backends.torch import TorchBackend
from pengi_rt.backends.triton.backend import TritonBackend
from pengi_rt.backends.triton.text import IDS, TextEncoding
from pengi_rt.config.choices import WeightsName
from pengi_rt.config.decode import DecodeOptions, SampleOptions
from pengi_rt.config.options import GenerateOptions
from pengi_rt.decoding.backtrack import Hypotheses
from pengi_rt.decoding.beam import FusedSearch, fused_search, search
from pengi_rt.decoding.likelihood import likelihoods
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.decoding.sampling import sample
from pengi_rt.decoding.streaming import stream_tokens
from pengi_rt.engine import Engine
from pengi_rt.errors import BackendError, UsageError
from pengi_rt.export.export import export_plan
from pengi_rt.models.gpt2 import GPT2
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.stored_weights import quantize
from pengi_rt.plan.reader import Plan
from pengi_rt.session.session import Session

ATOL = 5e-5
AUDIO_ATOL = 2e-4


@pytest.fixture(scope="module")
def backend(tiny_model: Pengi) -> TritonBackend:
    return TritonBackend(tiny_model, device=DEVICE, precision="fp32")


@pytest.fixture(scope="module")
def reference(tiny_model: Pengi) -> TorchBackend:
    return TorchBackend(tiny_model)


def options(beams: int, tokens: int, stop_id: int = 220, temperature: float = 1.0) -> DecodeOptions:
    return DecodeOptions(
        beam_size=beams, max_new_tokens=tokens, temperature=temperature, stop_id=stop_id, pad_id=0
    )


def prefixes(*lengths: int) -> list[F32]:
    generator = np.random.default_rng(sum(lengths))
    return [generator.normal(size=(length, 64)).astype(np.float32) for length in lengths]


def fused(backend: TritonBackend, chosen: DecodeOptions) -> FusedSearch:
    found = fused_search(backend, chosen)
    assert found is not None
    return found


def same(found: list[Hypotheses], expected: list[Hypotheses]) -> None:
    assert [answer.steps for answer in found] == [answer.steps for answer in expected]
    for one, other in zip(found, expected, strict=True):
        assert [beam.tokens for beam in one.beams] == [beam.tokens for beam in other.beams]
        found_scores, scores = ([beam.score for beam in each.beams] for each in (one, other))
        np.testing.assert_allclose(found_scores, scores, atol=1e-5)


@pytest.mark.parametrize(
    ("lengths", "beams", "tokens"),
    [((16,), 3, 7), ((5, 16), 2, 4), ((7,), 1, 1), ((3, 1, 9), 5, 2)],
)
def test_searches_equal_the_reference(
    backend: TritonBackend,
    reference: TorchBackend,
    lengths: tuple[int, ...],
    beams: int,
    tokens: int,
) -> None:
    clips = prefixes(*lengths)
    assert backend.device_search is not None
    chosen = options(beams, tokens, temperature=0.7)
    same(search(backend, clips, chosen), search(reference, clips, chosen))


def test_clips_that_end_early(backend: TritonBackend, reference: TorchBackend) -> None:
    """Some stop tokens end all beams of a clip before the search is over."""
    clips = prefixes(4, 11)
    free = search(reference, clips, options(2, 6))
    for stop in sorted({token for found in free for beam in found.beams for token in beam.tokens}):
        expected = search(reference, clips, options(2, 6, stop_id=stop))
        if any(answer.steps < 6 for answer in expected):
            break
    else:
        pytest.fail("no token ends a clip early")
    same(search(backend, clips, options(2, 6, stop_id=stop)), expected)


def test_buffers_are_reused(backend: TritonBackend, reference: TorchBackend) -> None:
    """A search does not affect the next one of the same shape."""
    for seed in (6, 8):
        clips = [prefixes(seed)[0][:6]]
        same(search(backend, clips, options(2, 3)), search(reference, clips, options(2, 3)))


def test_search_audio_goes_from_waveforms_to_tokens(
    backend: TritonBackend, reference: TorchBackend
) -> None:
    """Searches reuse the same buffers, the second with fewer rows after the audio."""
    waves = np.random.default_rng(5).normal(scale=0.1, size=(2, 32_000)).astype(np.float32)
    for rows in (prefixes(7)[0], prefixes(5)[0]):
        clips = [
            np.concatenate([heard, rows]) for heard in reference.encoders.encode_audio(waves).prefix
        ]
        expected = search(reference, clips, options(2, 3))
        same(fused(backend, options(2, 3)).search_audio(waves, rows), expected)


def test_search_new_prompt_also_encodes_a_prompt(
    backend: TritonBackend, reference: TorchBackend
) -> None:
    """A shorter prompt follows a longer one in the same buffers, with and without a suffix."""
    waves = np.random.default_rng(5).normal(scale=0.1, size=(2, 32_000)).astype(np.float32)
    tokens = require_decoder(reference).embed_tokens(np.array([3, 500]))
    for ids, suffix in (([510, 5, 6, 7, 8, 511], tokens[:0]), ([510, 9, 511], tokens)):
        prompt = np.array([ids])
        text, expected = (
            backend.encoders.encode_text(prompt),
            reference.encoders.encode_text(prompt),
        )
        found, answers = fused(backend, options(2, 3)).search_new_prompt(waves, prompt, suffix)
        for one, again, other in zip(found, text, expected, strict=True):
            np.testing.assert_array_equal(one, again)
            np.testing.assert_allclose(one, other, atol=ATOL)
        audio = reference.encoders.encode_audio(waves).prefix
        clips = [np.concatenate([heard, expected.prefix[0], suffix]) for heard in audio]
        same(answers, search(reference, clips, options(2, 3)))
    assert [*backend.encoders._texts] == [IDS]


class NoHost(TorchDispatchMode):
    """Refuses what a CUDA graph cannot contain: values that come from the host or go to it."""

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = str(function)
        assert not re.search(r"aten\.(lift_fresh|_local_scalar_dense|nonzero)", name), name
        return function(*args, **(kwargs or {}))


def test_a_prompt_can_be_captured(backend: TritonBackend) -> None:
    """Works even with versions of transformers whose own mask could not be captured."""
    with torch.inference_mode():
        encoding = TextEncoding(backend.encoders._model, IDS, backend.encoders._device)
        with NoHost():  # type: ignore[no-untyped-call]
            encoding.run()
    with pytest.raises(AssertionError, match="lift_fresh"), NoHost():  # type: ignore[no-untyped-call]
        torch.tensor(0.0)


def test_a_search_that_does_not_fit(backend: TritonBackend) -> None:
    wave = np.zeros((1, 32_000), np.float32)
    with pytest.raises(UsageError, match="exceed the decoder's"):
        fused(backend, options(2, 10_000)).search_audio(wave, prefixes(5)[0])
    with pytest.raises(UsageError, match="exceed the decoder's"):
        fused(backend, options(2, 10_000)).search_new_prompt(
            wave, np.array([[510, 511]]), prefixes(5)[0]
        )


def test_steps_with_parents_chosen_by_the_host(
    backend: TritonBackend, reference: TorchBackend
) -> None:
    generator = np.random.default_rng(1)
    prefix = np.stack([prefixes(9)[0], prefixes(8, 9)[1]])
    prefix[1, 5:] = np.nan  # padding is never read
    lengths = np.array([9, 5])
    ours, theirs = (
        prefilled(each, prefix, lengths, width=2, new_tokens=3) for each in (backend, reference)
    )
    np.testing.assert_allclose(ours.first, theirs.first, atol=ATOL)
    parents = np.zeros(4, np.int64)
    for step in range(1, 4):
        tokens = generator.integers(0, 512, 4)
        logits = ours.step(tokens, parents)
        np.testing.assert_allclose(logits, theirs.step(tokens, parents), atol=ATOL)
        assert ours.cache.width == 2
        assert (ours.cache.generated == step).all()
        parents = generator.integers(0, 2, 4)


def test_text_and_tokens(backend: TritonBackend, reference: TorchBackend) -> None:
    ids = np.array([[510, 5, 6, 7, 511], [510, 9, 511, 511, 511]])
    for found, expected in zip(
        backend.encoders.encode_text(ids), reference.encoders.encode_text(ids), strict=True
    ):
        np.testing.assert_allclose(found, expected, atol=ATOL)
    tokens = np.array([3, 500, 3])
    np.testing.assert_array_equal(
        backend.decoder.embed_tokens(tokens), require_decoder(reference).embed_tokens(tokens)
    )


def test_answers_equal_onnx_runtimes(engine: Engine, backend: TritonBackend) -> None:
    """Compared stage by stage, starting from the waveform."""
    assert isinstance(engine.backend, OnnxBackend)
    wave = np.random.default_rng(3).normal(scale=0.1, size=(1, 32_000)).astype(np.float32)
    expected, found = (
        engine.backend.encoders.encode_audio(wave),
        backend.encoders.encode_audio(wave),
    )
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=AUDIO_ATOL)
    ids = engine.prompt_tokenizer.encode("generate audio caption").ids[None]
    clip = np.concatenate([expected.prefix[0], engine.backend.encoders.encode_text(ids).prefix[0]])
    same(search(backend, [clip], options(3, 4)), search(engine.backend, [clip], options(3, 4)))


def test_an_engine_answers_as_on_onnx_runtime(engine: Engine, backend: TritonBackend) -> None:
    ours = Engine(Session(engine.plan, backend))
    wave = np.random.default_rng(4).normal(scale=0.1, size=70_000).astype(np.float32)
    asked = GenerateOptions(beam_size=2, max_new_tokens=3, text="two")
    results = [each.generate((wave, 16_000), "a", options=asked) for each in (ours, engine)]
    windows, expected = (result.windows for result in results)
    assert len(windows) > 1
    assert ours.generate((wave, 16_000), "a", options=asked).windows == windows  # a cached prompt
    for one, other in zip(windows, expected, strict=True):
        assert (one.start, one.end, one.tokens) == (other.start, other.end, other.tokens)


def test_likelihoods_of_labels_equal_onnx_runtimes(
    backend: TritonBackend, reference: TorchBackend
) -> None:
    """More rows than a search has beams, for clips of two lengths."""
    generator = np.random.default_rng(7)
    labels = [[int(first), 5] for first in generator.permutation(500)[:20]] + [[5]]
    found, expected = (
        likelihoods(each, prefixes(4, 6), labels, end=220) for each in (backend, reference)
    )
    np.testing.assert_allclose(found.sums, expected.sums, atol=3 * ATOL)


def test_options_that_need_the_host(backend: TritonBackend, reference: TorchBackend) -> None:
    """Samples, stop strings and streams run step by step, over the same cache."""
    clips = prefixes(4, 6)
    drawing = SampleOptions(
        samples=2,
        max_new_tokens=3,
        temperature=1.5,
        top_k=None,
        top_p=0.9,
        seed=1,
        stop_id=220,
        pad_id=0,
    )
    same(sample(backend, clips, drawing), sample(reference, clips, drawing))
    (best, *_) = search(reference, clips[:1], options(1, 4))
    end = best.beams[0].tokens[1]
    cut = [
        search(each, clips, options(2, 4), is_finished=lambda tokens: end in tokens)
        for each in (backend, reference)
    ]
    same(*cut)
    streamed = [token.id for token in stream_tokens(backend, clips[0], options(1, 4))]
    assert tuple(streamed) == best.beams[0].tokens


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8"])
def test_other_precisions(precision: str, tiny_model: Pengi) -> None:
    """The error (RMS) is at most twice that of PyTorch in the same dtype.

    With int8, both are compared with the model whose weights were rounded.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    small = TritonBackend(tiny_model, device=DEVICE, precision=precision)
    decoder = rounded_to_int8(tiny_model.decoder) if precision == "int8" else tiny_model.decoder
    exact, native = (copy.deepcopy(decoder).to(kind) for kind in (torch.float64, dtype))
    prefix, tokens = prefixes(6)[0], np.array([5, 9])
    run = prefilled(small, prefix[None], width=2, new_tokens=2)
    found = [run.first[0], *run.step(tokens)]
    for logits, said in zip(found, ([], [5], [9]), strict=True):
        truth = recomputed(exact, prefix, said)
        errors = [
            np.sqrt(np.mean((other - truth) ** 2))
            for other in (logits, recomputed(native, prefix, said))
        ]
        assert 0 < errors[0] <= 2 * errors[1]


def recomputed(decoder: GPT2, prefix: F32, tokens: list[int]) -> NDArray[np.float64]:
    """Logits after a prefix and some tokens, in the decoder's dtype."""
    table = decoder.wte.weight
    with torch.inference_mode():
        rows = torch.cat([torch.from_numpy(prefix).to(table.dtype), table[tokens]])[None]
        hidden, _ = decoder(rows, torch.arange(rows.shape[1]))
        logits: NDArray[np.float64] = decoder.logits(hidden[0, -1]).double().numpy()
    return logits


def rounded_to_int8(decoder: GPT2) -> GPT2:
    """A copy whose matrices are rounded to int8, with one scale per output channel."""
    twin = copy.deepcopy(decoder)
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if weight.ndim == 2 and "wpe" not in name:
                dim = 1 if "wte" in name else 0
                values, scale = quantize(weight, dim)
                weight.copy_(values * scale.unsqueeze(dim))
    return twin


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_plans_for_triton_alone(
    weights: WeightsName, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    """Stored weights give the reference's tokens; int8 weights are used without conversion."""
    path = tmp_path / "gpu.plan"
    export_plan(tiny_checkpoint, path, weights=weights, backends=("triton",), threads=1)
    clips = prefixes(4, 6)
    with Plan.open(path) as plan:
        ours = TritonBackend.from_plan(plan, device=DEVICE, precision="fp32")
        expected = search(TorchBackend.from_plan(plan), clips, options(2, 3))
        same(search(ours, clips, options(2, 3)), expected)
        head = TritonBackend.from_plan(plan, device=DEVICE, precision="int8").decoder.weights.head
        table = plan.tensor("decoder.wte.weight")
        if weights == "int8":
            assert head.scale is not None
            np.testing.assert_array_equal(head.weight.cpu().numpy(), table)
            scale = plan.tensor("decoder.wte.weight.scale")[:, 0]
            np.testing.assert_allclose(head.scale.cpu().numpy(), scale, rtol=2**-23)


def test_too_many_beams(backend: TritonBackend) -> None:
    with pytest.raises(BackendError, match="at most 16 beams, got 17"):
        search(backend, prefixes(3), options(17, 2))


@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")  # NumPy's, when interpreted
def test_logits_that_are_nan(tiny_model: Pengi) -> None:
    broken = copy.deepcopy(tiny_model)
    with torch.no_grad():
        broken.decoder.ln_f.bias[0] = torch.nan
    backend = TritonBackend(broken, device=DEVICE, precision="fp32")
    with pytest.raises(ValueError, match="NaN or without a finite maximum: clip 0"):
        search(backend, prefixes(3), options(2, 2))


def test_closing_frees_the_weights(tiny_model: Pengi) -> None:
    backend = TritonBackend(tiny_model, device=DEVICE, precision="fp32")
    backend.close()
    backend.close()
    assert not hasattr(backend, "decoder")
    assert not hasattr(backend.device_search, "_weights")
    assert not hasattr(backend.encoders, "_model")
