"""The reference backend against the model without a cache, which recomputes every row's history.

Tolerance: float32 sums in another order, 5e-5 on logits of order one to ten.
"""

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from lock_step import prefilled
from rounding import rounded

from pengi_rt.backends.protocol import F32, I64
from pengi_rt.backends.torch import TorchBackend
from pengi_rt.decoding.loop import require_decoder
from pengi_rt.errors import PlanError
from pengi_rt.models.pengi import Pengi
from pengi_rt.plan.manifest import TensorRecord
from pengi_rt.plan.reader import Plan

ATOL = 5e-5


@pytest.fixture(scope="module")
def backend(tiny_model: Pengi) -> TorchBackend:
    return TorchBackend(tiny_model)


def recomputed(model: Pengi, prefix: F32, tokens: list[int]) -> F32:
    """Logits after one prefix and some tokens, without a cache."""
    with torch.inference_mode():
        rows = [torch.from_numpy(prefix), model.decoder.wte(torch.tensor(tokens, dtype=torch.long))]
        embeddings = torch.cat(rows)[None]
        hidden, _ = model.decoder(embeddings, torch.arange(embeddings.shape[1]))
        logits: F32 = model.decoder.logits(hidden[0, -1]).numpy()
    return logits


@pytest.mark.parametrize("lengths", [[16], [1], [16, 5, 9], [3, 3]])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_steps_equal_recomputation(
    backend: TorchBackend, tiny_model: Pengi, lengths: list[int], width: int
) -> None:
    generator = np.random.default_rng(width)
    clips, rows, vocabulary = len(lengths), len(lengths) * width, 512
    prefix = generator.normal(size=(clips, max(lengths), 64)).astype(np.float32)
    for clip, length in enumerate(lengths):
        prefix[clip, length:] = np.nan  # padding is never read
    run = prefilled(backend, prefix, lengths, width=width, new_tokens=6)
    logits = run.first
    assert run.cache.width == width
    assert not run.cache.generated.any()
    for clip, length in enumerate(lengths):
        expected = recomputed(tiny_model, prefix[clip, :length], [])
        np.testing.assert_allclose(logits[clip], expected, atol=ATOL)
    histories: list[list[int]] = [[] for _ in range(rows)]
    parents: I64 = np.zeros(rows, np.int64)
    for step in range(1, 7):
        tokens = generator.integers(0, vocabulary, rows)
        logits = run.step(tokens, parents)
        assert (run.cache.generated == step).all()
        histories = [
            [*histories[row // width * width + parents[row]], int(tokens[row])]
            for row in range(rows)
        ]
        for row, history in enumerate(histories):
            clip = row // width
            expected = recomputed(tiny_model, prefix[clip, : lengths[clip]], history)
            np.testing.assert_allclose(logits[row], expected, atol=ATOL)
        parents = generator.integers(0, width, rows)


def test_two_caches_are_independent(backend: TorchBackend) -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(2, 1, 7, 64)).astype(np.float32)
    tokens = np.array([5, 9])
    alone = prefilled(backend, first, width=2, new_tokens=3)
    expected = [alone.step(tokens).copy() for _ in range(2)]
    one = prefilled(backend, first, width=2, new_tokens=3)
    two = prefilled(backend, second, width=2, new_tokens=3)
    for want in expected:
        np.testing.assert_array_equal(one.step(tokens), want)
        two.step(tokens[::-1].copy())


def test_encoders_equal_the_models(backend: TorchBackend, tiny_model: Pengi) -> None:
    wave = np.random.default_rng(0).uniform(-1, 1, (2, 32_000)).astype(np.float32)
    ids = np.array([[510, 3, 4, 511]])
    with torch.inference_mode():
        audio = tiny_model.encode_audio(torch.from_numpy(wave))
        text = tiny_model.encode_text(torch.from_numpy(ids))
    for ours, theirs in (
        (backend.encoders.encode_audio(wave), audio),
        (backend.encoders.encode_text(ids), text),
    ):
        for mine, other in zip(ours, theirs, strict=True):
            assert mine.dtype == np.float32
            np.testing.assert_array_equal(mine, other.numpy())


def test_token_embeddings_have_no_positions(backend: TorchBackend, tiny_model: Pengi) -> None:
    ids = np.array([3, 0, 511, 3])
    table = tiny_model.decoder.wte.weight.detach().numpy()
    decoder = require_decoder(backend)
    np.testing.assert_array_equal(decoder.embed_tokens(ids), table[ids])
    assert decoder.embed_tokens(np.zeros(0, np.int64)).shape == (0, 64)


def test_a_plan_gives_the_same_model(tiny_plan: Path, tiny_model: Pengi) -> None:
    with Plan.open(tiny_plan) as plan:
        backend = TorchBackend.from_plan(plan)
    for name, tensor in tiny_model.state_dict().items():
        assert backend.encoders.model.state_dict()[name].equal(tensor), name
    # The weights are copies: they stay when the plan is closed.
    wave = np.zeros((1, 32_000), np.float32)
    expected = TorchBackend(tiny_model).encoders.encode_audio(wave)
    np.testing.assert_array_equal(backend.encoders.encode_audio(wave).prefix, expected.prefix)


def test_an_fp16_plan_gives_the_rounded_model(half_plan: Path, tiny_model: Pengi) -> None:
    with Plan.open(half_plan) as plan:
        backend = TorchBackend.from_plan(plan)
    expected = rounded(tiny_model).state_dict()
    for name, tensor in backend.encoders.model.state_dict().items():
        assert tensor.dtype == expected[name].dtype
        assert tensor.equal(expected[name]), name


@pytest.mark.parametrize(
    ("name", "dtype", "message"),
    [
        ("decoder.ln_f.bias", "uint8", r"is uint8, but the config needs float32; export"),
        ("decoder.ln_f.bias", "int8", r"is int8, but the config needs float32; export"),
        (
            "audio_encoder.mel.bn.num_batches_tracked",
            "float32",
            r"is torch\.float32, but the config needs torch\.int64; export",
        ),
    ],
)
def test_a_tensor_of_another_type_is_refused(
    tiny_plan: Path, name: str, dtype: str, message: str
) -> None:
    with Plan.open(tiny_plan) as plan:
        tensors = cast("dict[str, TensorRecord]", plan.manifest.tensors)
        tensors[name] = replace(tensors[name], dtype=dtype)
        with pytest.raises(PlanError, match=message):
            TorchBackend.from_plan(plan)


def test_a_plan_without_a_tensor_is_refused(tiny_plan: Path) -> None:
    with Plan.open(tiny_plan) as plan:
        del plan.manifest.tensors["decoder.ln_f.bias"]  # type: ignore[attr-defined]
        with pytest.raises(PlanError, match=r"no tensor 'decoder\.ln_f\.bias'"):
            TorchBackend.from_plan(plan)


def test_arrays_need_not_be_contiguous(backend: TorchBackend) -> None:
    wave = np.random.default_rng(1).uniform(-1, 1, (2, 32_000)).astype(np.float32)
    strided = np.repeat(wave, 2, axis=1)[:, ::2]
    assert not strided.flags.c_contiguous
    expected = backend.encoders.encode_audio(wave).prefix
    np.testing.assert_allclose(backend.encoders.encode_audio(strided).prefix, expected, atol=ATOL)
