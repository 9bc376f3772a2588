"""The head's logits are as accurate as PyTorch's, and its candidates are exact."""

from typing import Any, NamedTuple

import pytest
import torch
from kernel_close import assert_kernel_close
from torch import Tensor
from triton_interpreter import DEVICE, check_guards, guarded, poisoned, programs_backwards

from pengi_rt.kernels.add_norm import FUSED_ROWS, Norm, Stream, normalized
from pengi_rt.kernels.lm_head import Head, lm_head, lm_head_reference
from pengi_rt.kernels.vocab_tiles import VocabTiles, unpack_candidates, vocab_tiles_reference

DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class Case(NamedTuple):
    """Guarded arguments of one call."""

    stream: Stream
    norm: Norm
    head: Head
    temperature: Tensor
    hidden: Tensor
    out: VocabTiles
    logits: Tensor

    def call(self, function: Any, *, store: bool = True) -> VocabTiles:
        logits = self.logits if store else None
        result: VocabTiles = function(*self[:4], hidden=self.hidden, out=self.out, logits=logits)
        buffers = [*self.out, self.hidden, self.logits]
        if self.stream.out is not None:
            buffers.append(self.stream.out)
        check_guards(*buffers)
        return result

    def double(self) -> Tensor:
        """The logits in float64."""
        stream = Stream(*(None if x is None else x.double() for x in self.stream))  # type: ignore[arg-type]
        hidden = normalized(stream, Norm(self.norm.weight.double(), self.norm.bias.double()))
        weight = self.head.weight.double()
        return hidden @ (weight if self.head.scale is None else weight * self.head.scale[:, None]).T


def make(
    rows: int,
    width: int,
    vocab: int,
    *,
    dtype: torch.dtype = torch.float32,
    splits: int = 0,
    beam_size: int = 5,
    temperature: float = 1.0,
    quantized: bool = False,
) -> Case:
    """A case whose rows have a large mean, as GPT-2's last ones do."""
    generator = torch.Generator().manual_seed(rows * width + vocab)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    shared = 20 * torch.eye(width)[width // 3] + 3
    stream = Stream(guarded(normal(rows, width) + shared))
    if splits:
        stream = stream._replace(
            bias=guarded(normal(width)),
            partials=guarded(normal(splits, rows, width)),
            out=poisoned(rows, width),
        )
    norm = Norm(guarded(1 + 0.3 * normal(width)), guarded(0.1 * normal(width)))
    weight = normal(vocab, width) / width**0.5
    head = Head(guarded(weight.to(dtype)))
    if quantized:
        scale = weight.abs().amax(1) / 127
        head = Head(guarded((weight / scale[:, None]).round().to(torch.int8)), guarded(scale))
    empty = VocabTiles.empty(rows, vocab, beam_size, "cpu")
    return Case(
        stream,
        norm,
        head,
        guarded(torch.tensor([temperature], dtype=torch.float64)),
        poisoned(rows, width, dtype=dtype),
        VocabTiles._make([poisoned(*x.shape, dtype=x.dtype) for x in empty]),
        poisoned(rows, vocab),
    )


def assert_tiles_of(logits: Tensor, case: Case) -> None:
    """Candidates and maxima are exact; sums of 128 float32 exponentials differ by some roundings,
    and the exponents of a division by the temperature by one of theirs, which are below 100."""
    found = case.out
    empty = VocabTiles.empty(len(logits), logits.shape[1], found.candidates.shape[-1], DEVICE)
    expected = vocab_tiles_reference(logits, case.temperature, empty)
    assert torch.equal(found.candidates, expected.candidates)
    assert torch.equal(found.maxima, expected.maxima)
    torch.testing.assert_close(found.sums, expected.sums, rtol=1e-5, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "width", "vocab", "splits"),
    [
        (1, 64, 512, 0),  # the tiny preset
        (3, 192, 672, 2),  # the demo model
        (5, 300, 53, 3),  # no tile is full, in any direction
        (8, 70, 129, 1),  # one token in the last tile
        (9, 70, 140, 2),  # not fused
        (33, 48, 130, 0),  # several blocks of rows
    ],
)
def test_logits_and_tiles(
    dtype: torch.dtype, rows: int, width: int, vocab: int, splits: int
) -> None:
    case = make(rows, width, vocab, dtype=dtype, splits=splits)
    case.call(lm_head)
    found = case.logits.clone()
    assert_tiles_of(found, case)
    case.call(lm_head_reference)
    assert_kernel_close(found, case.double(), case.logits)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [5, 9])
def test_int8_weights(dtype: torch.dtype, rows: int) -> None:
    case = make(rows, 70, 140, dtype=dtype, quantized=True, splits=1)
    case.call(lm_head)
    found = case.logits.clone()
    assert_tiles_of(found, case)
    case.call(lm_head_reference)
    assert_kernel_close(found, case.double(), case.logits)


@pytest.mark.parametrize("rows", [FUSED_ROWS, FUSED_ROWS + 1])
def test_the_stream_is_summed(rows: int) -> None:
    case = make(rows, 70, 53, splits=3)
    case.call(lm_head)
    assert case.stream.bias is not None
    assert case.stream.partials is not None
    assert case.stream.out is not None
    expected = case.stream.residual + case.stream.bias
    for partial in case.stream.partials:
        expected = expected + partial
    assert torch.equal(case.stream.out, expected)


@pytest.mark.parametrize("temperature", [2.0**-126, 0.37, 8.0, 1e300])
@pytest.mark.parametrize("beam_size", [1, 3, 16])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's warning about infinities
def test_temperatures_and_beams(temperature: float, beam_size: int) -> None:
    """The smallest temperature makes float32 infinities of logits, which must not be divided."""
    case = make(2, 48, 150, temperature=temperature, beam_size=beam_size)
    case.call(lm_head)
    assert_tiles_of(case.logits, case)
    assert case.out.sums.isfinite().all()


def test_logits_are_not_stored_unless_asked_for() -> None:
    case = make(2, 48, 150)
    case.call(lm_head, store=False)
    assert case.logits.isnan().all()
    candidates = case.out.candidates.clone()
    case.call(lm_head)
    assert torch.equal(case.out.candidates, candidates)


def with_logits(wanted: Tensor) -> Case:
    """A case whose logits are ``wanted`` [V] in both rows: one feature is 1, the others 0."""
    vocab = len(wanted)
    case = make(2, 32, vocab)
    weight = torch.zeros(vocab, 32)
    weight[:, 0] = wanted
    norm = Norm(guarded(torch.zeros(32)), guarded(torch.eye(32)[0]))
    return case._replace(norm=norm, head=Head(guarded(weight)))


def test_ties_go_to_the_lower_id() -> None:
    wanted = torch.tensor([0.0, -0.0, 2.0, -1.0]).repeat(40)
    case = with_logits(wanted)
    case.call(lm_head)
    assert_tiles_of(case.logits, case)
    logits, tokens = unpack_candidates(case.out.candidates[0])
    assert tokens.tolist() == [[2, 6, 10, 14, 18], [130, 134, 138, 142, 146]]
    assert (logits == 2).all()
    case = with_logits(torch.tensor([-0.0, 0.0, -3.0, -0.0, 0.0, -1e-30]))
    case.call(lm_head)
    assert unpack_candidates(case.out.candidates[0, 0])[1].tolist() == [0, 1, 3, 4, 5]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's warning about infinities
def test_candidates_order_as_floats_do() -> None:
    wanted = torch.tensor([-3e38, -2.0, -1e-30, 1e-30, 2.0, 3e38])
    case = with_logits(wanted)
    case.call(lm_head)
    logits, tokens = unpack_candidates(case.out.candidates[0, 0])
    assert tokens.tolist() == [5, 4, 3, 2, 1]
    assert torch.equal(logits.cpu(), wanted[tokens.cpu()])


@pytest.mark.parametrize("value", [torch.nan, -torch.nan, torch.inf])
@pytest.mark.filterwarnings(
    "ignore::RuntimeWarning"
)  # NumPy's warning about NaN, in the interpreter
def test_a_broken_logit_breaks_its_tile(value: float) -> None:
    """All features must be infinite, because 0 times infinity is NaN."""
    case = make(3, 32, 300)
    weight = case.head.weight.clone()
    weight[140] = value
    case = case._replace(head=Head(guarded(weight)))
    case.call(lm_head)
    assert case.out.sums.isfinite().tolist() == [[True, False, True]] * 3


def test_programs_do_not_depend_on_each_other() -> None:
    case = make(3, 48, 300, splits=2)
    case.call(lm_head)
    expected = [x.clone() for x in (*case.out, case.logits)]
    with programs_backwards():
        case.call(lm_head)
    for found, before in zip((*case.out, case.logits), expected, strict=True):
        assert torch.equal(found, before)


@pytest.mark.parametrize("function", [lm_head, lm_head_reference])
def test_refusals(function: Any) -> None:
    case = make(2, 32, 140)
    wrong: list[tuple[str, Case]] = [
        ("head.weight must be", case._replace(head=Head(case.head.weight.half()))),
        ("head.weight must be", case._replace(head=Head(case.head.weight, torch.ones(140)))),
        ("temperature must be", case._replace(temperature=torch.ones(1))),
        ("hidden must be", case._replace(hidden=torch.ones(3, 32))),
        ("logits must be", case._replace(logits=torch.ones(2, 139))),
        ("1 to 16 beams", case._replace(out=VocabTiles.empty(2, 140, 17, "cpu"))),
        ("out.maxima must be", case._replace(out=VocabTiles.empty(2, 128, 5, "cpu"))),
        ("stream has bias", case._replace(stream=case.stream._replace(bias=torch.ones(32)))),
    ]
    for message, arguments in wrong:
        with pytest.raises(ValueError, match=message):
            function(
                *arguments[:4], hidden=arguments.hidden, out=arguments.out, logits=arguments.logits
            )
