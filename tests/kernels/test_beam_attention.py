"""Attention of a decode step: every beam sees its own history, whatever slots hold it."""

from collections.abc import Callable

import pytest
from triton_interpreter import check_guards, guarded, poisoned, programs_backwards

# isort: split
import torch
from kernel_close import assert_kernel_close
from torch import Tensor

from pengi_rt.kernels.beam_attention import Segments, beam_attention, beam_attention_reference

HALF, BRAIN, SINGLE = torch.float16, torch.bfloat16, torch.float32


def random_histories(clips: int, beams: int, slots: int, generator: torch.Generator) -> Tensor:
    """An ancestry table as beam steps write it; entries that no step reads are invalid."""
    table = torch.full((slots + 1, clips, beams, slots), -1, dtype=torch.int32)
    for t in range(slots):
        sources = torch.randint(beams, (clips, beams), generator=generator)
        for clip in range(clips):
            table[t + 1, clip, :, :t] = table[t, clip, sources[clip], :t]
            table[t + 1, clip, :, t] = sources[clip].int()
    return table


def make_case(
    lengths: list[int],
    positions: list[int],
    *,
    beams: int = 3,
    heads: int = 2,
    slots: int = 4,
    width: int = 16,
    dtype: torch.dtype = SINGLE,
) -> tuple[Tensor, Segments]:
    """Queries and segments; keys and values are NaN wherever no row may look."""
    generator = torch.Generator().manual_seed(sum(lengths) + width)
    clips, longest = len(lengths), max(*lengths, 1)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    table = random_histories(clips, beams, slots, generator)
    prefix = random(2, clips, heads, longest, width)
    generated = torch.full((2, clips, beams, heads, slots, width), torch.nan, dtype=dtype)
    for clip, (length, t) in enumerate(zip(lengths, positions, strict=True)):
        prefix[:, clip, :, length:] = torch.nan
        for beam in range(beams):
            for i, slot in enumerate([*table[t, clip, beam, :t].tolist(), beam]):
                generated[:, clip, slot, :, i] = random(2, heads, width)
    segments = Segments(
        guarded(prefix[0]),
        guarded(prefix[1]),
        guarded(torch.tensor(lengths, dtype=torch.int32)),
        guarded(generated[0]),
        guarded(generated[1]),
        guarded(table),
        guarded(torch.tensor(positions, dtype=torch.int32)),
    )
    return guarded(random(clips * beams, heads * width) * 2), segments


def exact(segments: Segments) -> Segments:
    return Segments(*(x.double() if x.is_floating_point() else x for x in segments))


def check(q: Tensor, segments: Segments) -> None:
    found = beam_attention(q, segments, out=poisoned(*q.shape, dtype=q.dtype))
    check_guards(found)
    truth = beam_attention_reference(q.double(), exact(segments))
    assert_kernel_close(found, truth, beam_attention_reference(q, segments))


@pytest.mark.parametrize("dtype", [SINGLE, HALF, BRAIN])
@pytest.mark.parametrize("width", [16, 24, 32, 64])
def test_head_widths(width: int, dtype: torch.dtype) -> None:
    check(*make_case([5, 3], [2, 0], width=width, dtype=dtype))


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("beams", [1, 2, 5, 16, 33])
def test_beams(beams: int, dtype: torch.dtype) -> None:
    check(*make_case([4], [3], beams=beams, heads=1, dtype=dtype))


@pytest.mark.parametrize("dtype", [SINGLE, BRAIN])
def test_several_tiles_of_both_segments(dtype: torch.dtype) -> None:
    """Blocks of 128 keys (32 in float32), neither a multiple of the 5 slots per position."""
    prefix, t = (40, 9) if dtype == SINGLE else (130, 27)
    check(*make_case([prefix, 1], [t, 1], beams=5, heads=1, slots=t + 1, dtype=dtype))


def test_no_prefix() -> None:
    check(*make_case([0, 2], [0, 3], heads=3))
    check(*make_case([0], [3]))


def test_slots_of_one_position_in_two_tiles() -> None:
    """Blocks of 32 keys end after slot 5 of position 2; there is no prefix."""
    check(*make_case([0], [3], beams=13, heads=1))


def test_rows_with_one_history_agree() -> None:
    """Beams 0 and 2 have the same parents and queries, but are in different rows.

    Both equal the true result up to rounding, but not each other exactly: the keys they see lie in
    different places of the tile, so that the sums over them add in another order.
    """
    q, segments = make_case([3], [2], beams=3)
    segments.ancestry[2, 0, 2] = segments.ancestry[2, 0, 0]
    for tensor in (segments.keys, segments.values):
        tensor[0, 2, :, 2] = tensor[0, 0, :, 2]
    q[2] = q[0]
    found = beam_attention(q, segments)
    truth = beam_attention_reference(q.double(), exact(segments))
    native = beam_attention_reference(q, segments)
    assert_kernel_close(found[2], truth[0], native[0])
    assert_kernel_close(found[0], truth[2], native[2])
    assert (found[0] - found[1]).abs().max() > 0.1


def test_rows_do_not_depend_on_their_neighbors() -> None:
    """To the last bit: other beams' queries, and keys that only they wrote, affect no sum."""
    q, segments = make_case([3], [2], beams=3)
    segments.ancestry[2, 0] = torch.tensor([[0, 0, -1, -1], [1, 1, -1, -1], [0, 2, -1, -1]])
    for tensor in (segments.keys, segments.values):
        tensor[0, :, :, :3] = torch.randn(3, 2, 3, 16, generator=torch.manual_seed(1))
    before = beam_attention(q, segments)
    q[1] = -3 * q[1]
    for tensor in (segments.keys, segments.values):
        tensor[0, 1, :, :3] = 5 - tensor[0, 1, :, :3]
    after = beam_attention(q, segments)
    assert torch.equal(before[::2], after[::2])
    assert not torch.equal(before[1], after[1])


def test_programs_do_not_depend_on_each_other() -> None:
    q, segments = make_case([5, 3], [2, 0], dtype=HALF)
    with programs_backwards():
        backwards = beam_attention(q, segments)
    assert torch.equal(beam_attention(q, segments), backwards)


def _refusals() -> dict[str, tuple[str, Callable[[], object]]]:
    q, segments = make_case([5, 3], [2, 0])
    many, crowd = make_case([1], [0], beams=65, heads=1, slots=1)
    change = segments._replace
    return {
        "strided q": (
            "q must be .*strided",
            lambda: beam_attention(q.mT.contiguous().mT, segments),
        ),
        "rows": ("q must be .*\\[6, 32\\]", lambda: beam_attention(q[:4], segments)),
        "dtype": ("prefix_keys must be .*float16", lambda: beam_attention(q.half(), segments)),
        "double": ("q must be floats", lambda: beam_attention(q.double(), exact(segments))),
        "65 beams": (r"beams must be in \[1, 64\], got 65", lambda: beam_attention(many, crowd)),
        "strided keys": (
            "keys must be .*strided",
            lambda: beam_attention(q, change(keys=segments.keys.mT.contiguous().mT)),
        ),
        "lengths": (
            "prefix_lengths must be .*int32",
            lambda: beam_attention(q, change(prefix_lengths=segments.prefix_lengths.long())),
        ),
        "ancestry": (
            r"ancestry must be .*\[5, 2, 3, 4\]",
            lambda: beam_attention(q, change(ancestry=segments.ancestry[1:])),
        ),
        "out": ("out must be", lambda: beam_attention(q, segments, out=q.half())),
    }


@pytest.mark.parametrize("case", list(_refusals()))
def test_refusals(case: str) -> None:
    message, call = _refusals()[case]
    with pytest.raises(ValueError, match=message):
        call()
