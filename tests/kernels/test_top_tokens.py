"""The best tokens of a row and their log-probabilities, against float64 over the whole row."""

from typing import Any

import pytest
from triton_interpreter import DEVICE, check_guards, guarded, poisoned, programs_backwards

# isort: split
import torch
from torch import Tensor

from pengi_rt.kernels.top_tokens import TopTokens, top_tokens, top_tokens_reference
from pengi_rt.kernels.vocab_tiles import TILE, VocabTiles, vocab_tiles_reference

TOLERANCE = 1e-6
"""Tolerance of a log-probability: the sums over tiles are float32."""


def temperature_of(value: float) -> Tensor:
    return guarded(torch.tensor([value], dtype=torch.float64))


def tiles_of(logits: Tensor, beams: int, temperature: float) -> VocabTiles:
    """Guarded tiles of float32 ``logits`` [M, V]."""
    empty = VocabTiles.empty(len(logits), logits.shape[1], beams, "cpu")
    tiles = vocab_tiles_reference(logits, torch.tensor([temperature], dtype=torch.float64), empty)
    return VocabTiles._make(map(guarded, tiles))


def best_of(
    logits: Tensor, beams: int, temperature: float = 1.0, function: Any = top_tokens
) -> TopTokens:
    tiles = tiles_of(logits, beams, temperature)
    empty = TopTokens.empty(len(logits), beams, "cpu")
    out = TopTokens._make([poisoned(*x.shape, dtype=x.dtype) for x in empty])
    assert function(tiles, temperature_of(temperature), logits.shape[1], out) is out
    check_guards(*tiles, *out)
    return TopTokens._make([x.cpu() for x in out])


@pytest.mark.parametrize("function", [top_tokens, top_tokens_reference])
@pytest.mark.parametrize("temperature", [0.37, 1.0])
@pytest.mark.parametrize(
    ("rows", "vocab", "beams"),
    [
        (1, 1, 1),
        (3, 53, 3),
        (2, TILE + 1, 5),
        (1, 170 * TILE + 5, 16),  # more candidates than a program compares at a time
    ],
)
def test_equals_log_softmax(
    rows: int, vocab: int, beams: int, temperature: float, function: Any
) -> None:
    logits = 3 * torch.randn(rows, vocab, generator=torch.Generator().manual_seed(vocab))
    best = best_of(logits, beams, temperature, function)
    expected = (logits.double() / temperature).log_softmax(-1).topk(beams)
    assert torch.equal(best.tokens.long(), expected.indices)
    torch.testing.assert_close(best.log_probs, expected.values, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("function", [top_tokens, top_tokens_reference])
def test_ties_go_to_the_lower_token(function: Any) -> None:
    logits = torch.zeros(1, 2 * TILE + 3)
    logits[0, [7, TILE + 7]] = 1.0
    assert best_of(logits, 5, function=function).tokens.tolist() == [[7, TILE + 7, 0, 1, 2]]


@pytest.mark.parametrize("function", [top_tokens, top_tokens_reference])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # NumPy's warning about NaN, in the interpreter
def test_a_broken_logit_breaks_its_row_alone(value: float, function: Any) -> None:
    logits = torch.randn(2, TILE + 9, generator=torch.Generator().manual_seed(0))
    logits[1, TILE + 2] = value
    best = best_of(logits, 3, function=function)
    assert best.log_probs[0].isfinite().all()
    assert best.log_probs[1].isnan().all()


def test_programs_do_not_depend_on_each_other() -> None:
    logits = torch.randn(4, 300, generator=torch.Generator().manual_seed(0))
    forwards = best_of(logits, 3)
    with programs_backwards():
        backwards = best_of(logits, 3)
    assert torch.equal(forwards.log_probs, backwards.log_probs)
    assert torch.equal(forwards.tokens, backwards.tokens)


@pytest.mark.parametrize("function", [top_tokens, top_tokens_reference])
def test_refusals(function: Any) -> None:
    tiles, out = tiles_of(torch.zeros(2, 53), 3, 1.0), TopTokens.empty(2, 3, DEVICE)
    temperature = temperature_of(1.0)
    with pytest.raises(ValueError, match="temperature must be"):
        function(tiles, temperature.float(), 53, out)
    with pytest.raises(ValueError, match=r"out\.log_probs must be contiguous .*\[2, 3\]"):
        function(tiles, temperature, 53, TopTokens.empty(3, 3, DEVICE))
    with pytest.raises(ValueError, match=r"out\.tokens must be"):
        function(tiles, temperature, 53, out._replace(tokens=out.tokens.long()))
    with pytest.raises(ValueError, match="1 to 2 beams"):
        function(tiles, temperature, 2, out)
