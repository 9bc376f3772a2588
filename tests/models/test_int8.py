"""Int8: which matrices, how far they move, and that rounding them again changes nothing."""

import re

import pytest
import torch
from rounding import rounded

from pengi_rt.errors import CheckpointError
from pengi_rt.models.at_rest import stored, widened
from pengi_rt.models.half import halved
from pengi_rt.models.int8 import as_int8, quantised
from pengi_rt.models.pengi import Pengi

NAME = "decoder.h.0.mlp.c_proj.weight"


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_within_half_a_step() -> None:
    weight = random(33, 64)
    weight[4] = 0
    values, scale = quantised(weight, dim=1)
    assert values.dtype == torch.int8
    assert values.abs().amax(1).tolist() == [127 if row != 4 else 0 for row in range(33)]
    error = (values * scale[:, None] - weight).abs()
    assert bool((error <= scale[:, None] * 0.5001).all())


def test_matrices_of_the_decoder_and_no_others(tiny_model: Pengi) -> None:
    state = tiny_model.state_dict()
    small = as_int8(state)
    names = {name for name, tensor in small.items() if tensor.dtype == torch.int8}
    layers = tiny_model.config.decoder.n_layer
    assert names == {"decoder.wte.weight"} | {
        f"decoder.h.{layer}.{part}.weight"
        for layer in range(layers)
        for part in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    }
    assert small.keys() - state.keys() == {f"{name}.scale" for name in names}
    half = halved(state)
    for name in state.keys() - names:
        assert small[name].dtype == half[name].dtype
        assert small[name].equal(half[name]), name
    for name in names:
        rows, columns = small[name].shape
        # An output channel is a column of GPT-2's matrices, a row of the table.
        shape = (rows, 1) if "wte" in name else (1, columns)
        assert small[f"{name}.scale"].shape == shape
        assert small[f"{name}.scale"].dtype == torch.float32


def test_rounding_again_finds_the_same_values(tiny_model: Pengi) -> None:
    """The same int8, and scales within a bit: a rounded matrix's largest value is 127 steps."""
    once = as_int8(tiny_model.state_dict())
    twice = as_int8(widened(once))
    assert once.keys() == twice.keys()
    for name, tensor in once.items():
        if name.endswith(".scale"):
            torch.testing.assert_close(twice[name], tensor, rtol=2**-23, atol=0)
        else:
            assert twice[name].equal(tensor), name


def test_the_rounded_model_is_the_product(tiny_model: Pengi) -> None:
    small = stored(tiny_model.state_dict(), "int8")
    twin = rounded(tiny_model, "int8").state_dict()
    product = small[NAME].float() * small[f"{NAME}.scale"]
    assert twin[NAME].equal(product)
    assert not twin[NAME].equal(tiny_model.state_dict()[NAME])


@pytest.mark.parametrize("scale", [3e38, 1e-30, 1e-36, 1e-38, 1e-43])
def test_any_range(scale: float) -> None:
    """What is too small for a scale becomes 0: it never wraps around."""
    weight = random(8, 5).clamp(-1, 1) * scale
    values, steps = quantised(weight, dim=0)
    assert steps.isfinite().all()
    assert bool((values.sign() * weight.sign() >= 0).all())
    assert bool(((values * steps - weight).abs() <= weight.abs().max()).all())
    assert bool(values.any()) == (scale > 2e-36)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_is_refused(value: float) -> None:
    weight = random(4, 4)
    weight[1, 2] = value
    with pytest.raises(CheckpointError, match=re.escape(f"{NAME} holds infinity or NaN, which")):
        as_int8({NAME: weight})
