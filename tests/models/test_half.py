"""16 bits at rest: what is rounded, by how much, and which models are refused."""

import numpy as np
import pytest
import torch
from rounding import rounded
from torch import Tensor

from pengi_rt.errors import CheckpointError
from pengi_rt.models.half import FRONT_END, halved
from pengi_rt.models.pengi import Pengi

NAME = "decoder.h.0.attn.c_attn.weight"


def test_matrices_are_rounded_and_the_rest_is_untouched(tiny_model: Pengi) -> None:
    state = tiny_model.state_dict()
    stored = halved(state)
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
        FRONT_END + "stft_real", FRONT_END + "stft_imag", FRONT_END + "mel_bank",
    }  # fmt: skip


def test_rounding_twice_changes_nothing(tiny_model: Pengi) -> None:
    once = rounded(tiny_model)
    twice = rounded(once)
    original = tiny_model.state_dict()
    for name, tensor in once.state_dict().items():
        assert tensor.dtype == original[name].dtype
        assert twice.state_dict()[name].equal(tensor), name
    assert not once.decoder.wte.weight.equal(tiny_model.decoder.wte.weight)


def test_bfloat16_rounds_to_nearest_even() -> None:
    """Between 1 and 1 + 2**-7 the middle goes down, between that and 1 + 2**-6 up."""
    between = torch.tensor([[1 + 2**-8, 1 + 3 * 2**-8, 3e38, -2e-38]])
    stored = halved({NAME: between}, torch.bfloat16)[NAME]
    assert stored.dtype == torch.bfloat16
    assert stored[0, :2].tolist() == [1, 1 + 2**-6]
    assert bool(((stored.float() - between).abs() <= between.abs() * 2**-8).all())


def test_what_float16_does_not_hold_bfloat16_does() -> None:
    for scale in (1e-12, 1e6, 1e-37):
        values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * scale
        refusal({NAME: values})
        halved({NAME: values}, torch.bfloat16)


def test_beyond_bfloat16() -> None:
    """The last float32 numbers are nearer to where its next number would be."""
    with pytest.raises(CheckpointError, match=r"up to 3\.4e\+38, bfloat16 ends at 3\.3895e\+38: "):
        halved({NAME: torch.tensor([[3.4e38]])}, torch.bfloat16)


@pytest.mark.parametrize("value", [65_519.0, -65_504.0])
def test_the_largest_float16_is_not_refused(value: float) -> None:
    """65 519 is nearer to 65 504 than to where the next number would be."""
    stored = halved({NAME: torch.tensor([[value, 1.0]])})
    assert stored[NAME][0, 0] == np.sign(value) * 65_504


@pytest.mark.parametrize("value", [65_520.0, -1e6, 3e38])
def test_values_beyond_float16_are_refused(value: float) -> None:
    message = refusal({NAME: torch.tensor([[0.5, value]])})
    assert message.startswith(f"{NAME} has values up to {abs(value):.4g}, float16 ends at 65504")


@pytest.mark.parametrize("scale", [1e-7, 1e-12, 1e-30, 1e-42])
def test_a_tensor_of_which_nothing_would_be_left_is_refused(scale: float) -> None:
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * scale
    assert " of itself in float16" in refusal({NAME: values})


def test_some_tiny_values_among_others_are_no_reason(tiny_model: Pengi) -> None:
    values = torch.randn(64, 64, generator=torch.Generator().manual_seed(0)) * 0.02
    values[::2] *= 1e-9
    assert halved({NAME: values})[NAME].count_nonzero() <= values.numel() // 2
    zeros = torch.zeros(3, 3)
    assert halved({NAME: zeros})[NAME].equal(zeros.half())


def test_vectors_and_counters_have_no_limits() -> None:
    state = {"a.bias": torch.tensor([1e30, 1e-30]), "a.num_batches_tracked": torch.tensor(10**9)}
    assert halved(state) == state


def refusal(state: dict[str, Tensor]) -> str:
    with pytest.raises(CheckpointError, match="store this model in float32") as caught:
        halved(state)
    assert str(caught.value).isprintable()
    return str(caught.value)
