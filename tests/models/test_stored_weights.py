"""Stored weights: which are rounded, by how much, and which models are refused."""

import re

import numpy as np
import pytest
import torch
from rounding import rounded
from torch import Tensor

from pengi_rt.errors import CheckpointError
from pengi_rt.models.pengi import Pengi
from pengi_rt.models.stored_weights import (
    FRONT_END,
    quantize,
    store_weights,
    to_half,
    to_int8,
    widen_weights,
)

NAME = "decoder.h.0.attn.c_attn.weight"
PROJECTION = "decoder.h.0.mlp.c_proj.weight"


def test_matrices_are_rounded_and_the_rest_is_untouched(tiny_model: Pengi) -> None:
    state = tiny_model.state_dict()
    stored = to_half(state)
    assert list(stored) == list(state)
    for name, tensor in state.items():
        if tensor.ndim < 2 or name.startswith(FRONT_END):
            assert stored[name] is tensor, name
        else:
            expected = tensor.numpy().astype(np.float16)  # rounds to nearest, ties to even
            np.testing.assert_array_equal(stored[name].numpy(), expected, err_msg=name)
    kept = sum(tensor.nbytes for tensor in stored.values() if tensor.dtype != torch.float16)
    assert kept < 0.4 * sum(tensor.nbytes for tensor in state.values())
    assert {name for name in state if name.startswith(FRONT_END)} >= {
        FRONT_END + "stft_real",
        FRONT_END + "stft_imag",
        FRONT_END + "mel_bank",
    }


def test_rounding_twice_changes_nothing(tiny_model: Pengi) -> None:
    once = rounded(tiny_model)
    twice = rounded(once)
    original = tiny_model.state_dict()
    for name, tensor in once.state_dict().items():
        assert tensor.dtype == original[name].dtype
        assert twice.state_dict()[name].equal(tensor), name
    assert not once.decoder.wte.weight.equal(tiny_model.decoder.wte.weight)


def test_bfloat16_rounds_to_nearest_even() -> None:
    """The midpoint of 1 and 1 + 2**-7 rounds down, the next one up to 1 + 2**-6."""
    between = torch.tensor([[1 + 2**-8, 1 + 3 * 2**-8, 3e38, -2e-38]])
    stored = to_half({NAME: between}, torch.bfloat16)[NAME]
    assert stored.dtype == torch.bfloat16
    assert stored[0, :2].tolist() == [1, 1 + 2**-6]
    assert bool(((stored.float() - between).abs() <= between.abs() * 2**-8).all())


def test_bfloat16_holds_values_beyond_float16() -> None:
    for scale in (1e-12, 1e6, 1e-37):
        values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * scale
        refusal({NAME: values})
        to_half({NAME: values}, torch.bfloat16)


def test_beyond_bfloat16() -> None:
    """The largest float32 numbers would round to infinity."""
    with pytest.raises(
        CheckpointError, match=r"up to 3\.4e\+38, but bfloat16 ends at 3\.3895e\+38: "
    ):
        to_half({NAME: torch.tensor([[3.4e38]])}, torch.bfloat16)


@pytest.mark.parametrize("value", [65_519.0, -65_504.0])
def test_the_largest_float16_is_not_refused(value: float) -> None:
    """65,519 rounds down to 65,504, the largest float16."""
    stored = to_half({NAME: torch.tensor([[value, 1.0]])})
    assert stored[NAME][0, 0] == np.sign(value) * 65_504


@pytest.mark.parametrize("value", [65_520.0, -1e6, 3e38])
def test_values_beyond_float16_are_refused(value: float) -> None:
    message = refusal({NAME: torch.tensor([[0.5, value]])})
    assert message.startswith(
        f"{NAME} has values up to {abs(value):.4g}, but float16 ends at 65504"
    )


@pytest.mark.parametrize("scale", [1e-7, 1e-12, 1e-30, 1e-42])
def test_a_tensor_that_would_underflow_is_refused(scale: float) -> None:
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * scale
    assert " of its norm in float16" in refusal({NAME: values})


def test_a_few_tiny_values_are_accepted(tiny_model: Pengi) -> None:
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 0.02
    values[::2] *= 1e-9
    assert to_half({NAME: values})[NAME].count_nonzero() <= values.numel() // 2
    zeros = torch.zeros(3, 3)
    assert to_half({NAME: zeros})[NAME].equal(zeros.half())


def test_vectors_and_counters_have_no_limits() -> None:
    state = {"a.bias": torch.tensor([1e30, 1e-30]), "a.num_batches_tracked": torch.tensor(10**9)}
    assert to_half(state) == state


def refusal(state: dict[str, Tensor]) -> str:
    with pytest.raises(CheckpointError, match="store this model in float32") as caught:
        to_half(state)
    assert str(caught.value).isprintable()
    return str(caught.value)


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_int8_is_within_half_a_step() -> None:
    weight = random(33, 64)
    weight[4] = 0
    values, scale = quantize(weight, dim=1)
    assert values.dtype == torch.int8
    assert values.abs().amax(1).tolist() == [127 if row != 4 else 0 for row in range(33)]
    error = (values * scale[:, None] - weight).abs()
    assert bool((error <= scale[:, None] * 0.5001).all())


def test_int8_is_for_matrices_of_the_decoder_and_no_others(tiny_model: Pengi) -> None:
    state = tiny_model.state_dict()
    small = to_int8(state)
    names = {name for name, tensor in small.items() if tensor.dtype == torch.int8}
    layers = tiny_model.config.decoder.n_layer
    assert names == {"decoder.wte.weight"} | {
        f"decoder.h.{layer}.{part}.weight"
        for layer in range(layers)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert small.keys() - state.keys() == {f"{name}.scale" for name in names}
    half = to_half(state)
    for name in state.keys() - names:
        assert small[name].dtype == half[name].dtype
        assert small[name].equal(half[name]), name
    for name in names:
        rows, columns = small[name].shape
        # An output channel is a column of GPT-2's matrices, and a row of the table.
        shape = (rows, 1) if "wte" in name else (1, columns)
        assert small[f"{name}.scale"].shape == shape
        assert small[f"{name}.scale"].dtype == torch.float32


def test_rounding_to_int8_again_finds_the_same_values(tiny_model: Pengi) -> None:
    """The same int8, with scales within a bit: a rounded matrix's largest value is 127 steps."""
    once = to_int8(tiny_model.state_dict())
    twice = to_int8(widen_weights(once))
    assert once.keys() == twice.keys()
    for name, tensor in once.items():
        if name.endswith(".scale"):
            torch.testing.assert_close(twice[name], tensor, rtol=2**-23, atol=0)
        else:
            assert twice[name].equal(tensor), name


def test_the_rounded_int8_model_is_the_product(tiny_model: Pengi) -> None:
    small = store_weights(tiny_model.state_dict(), "int8")
    twin = rounded(tiny_model, "int8").state_dict()
    product = small[PROJECTION].float() * small[f"{PROJECTION}.scale"]
    assert twin[PROJECTION].equal(product)
    assert not twin[PROJECTION].equal(tiny_model.state_dict()[PROJECTION])


@pytest.mark.parametrize("scale", [3e38, 1e-30, 1e-36, 1e-38, 1e-43])
def test_int8_of_any_range(scale: float) -> None:
    """Values too small for a scale become 0 and never wrap around."""
    weight = random(8, 5).clamp(-1, 1) * scale
    values, steps = quantize(weight, dim=0)
    assert steps.isfinite().all()
    assert bool((values.sign() * weight.sign() >= 0).all())
    assert bool(((values * steps - weight).abs() <= weight.abs().max()).all())
    assert bool(values.any()) == (scale > 2e-36)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_int8_refuses_nan_and_infinity(value: float) -> None:
    weight = random(4, 4)
    weight[1, 2] = value
    with pytest.raises(
        CheckpointError, match=re.escape(f"{PROJECTION} holds infinity or NaN, which")
    ):
        to_int8({PROJECTION: weight})
