"""HTSAT against its definition, token by token: windows, shifts, biases, merges."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor, nn

from pengi_rt.config.parts import HTSATConfig
from pengi_rt.config.pengi import PengiConfig
from pengi_rt.models.htsat import (
    HTSAT,
    PatchEmbed,
    PatchMerging,
    SwinBlock,
    WindowAttention,
    relative_position_index,
    shift_mask,
    unfold,
)
from pengi_rt.models.mel import LogMel

CONFIG = PengiConfig.preset("tiny").htsat


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize("window", [1, 2, 8])
def test_relative_position_index(window: int) -> None:
    index = relative_position_index(window)
    cells = list(itertools.product(range(window), repeat=2))
    for (i, (y, x)), (j, (v, u)) in itertools.product(enumerate(cells), repeat=2):
        assert index[i, j] == (y - v + window - 1) * (2 * window - 1) + (x - u + window - 1)


@pytest.mark.parametrize(("resolution", "window", "shift"), [(16, 8, 4), (8, 4, 2), (32, 8, 4)])
def test_the_mask_separates_tokens_that_only_the_roll_made_neighbors(
    resolution: int, window: int, shift: int
) -> None:
    """Two tokens of a rolled window may attend unless one wrapped around the image's edge."""
    mask = shift_mask(resolution, window, shift)
    side = resolution // window
    assert mask.shape == (side**2, window**2, window**2)

    def wrapped(place: int) -> bool:
        return place + shift >= resolution

    cells = list(itertools.product(range(window), repeat=2))
    for index, (row, column) in enumerate(itertools.product(range(side), repeat=2)):
        for (i, (y, x)), (j, (v, u)) in itertools.product(enumerate(cells), repeat=2):
            apart = wrapped(row * window + y) != wrapped(row * window + v) or wrapped(
                column * window + x
            ) != wrapped(column * window + u)
            assert mask[index, i, j] == (-100.0 if apart else 0.0)


def test_no_shift_needs_no_mask() -> None:
    assert torch.equal(shift_mask(8, 8, 0), torch.zeros(1, 1, 1))


def block_by_hand(block: SwinBlock, x: Tensor, window: int, heads: int) -> Tensor:
    """One image [R, R, C]: tokens attend, one at a time, to the tokens of their window."""
    size, dim, shift, depth = len(x), x.shape[2], block.shift, x.shape[2] // heads
    y = block.norm1(x)
    q, k, v = (part.unflatten(2, (heads, depth)) for part in block.attn.qkv(y).chunk(3, dim=2))
    table = block.attn.relative_position_bias_table
    out = torch.zeros(size, size, heads, depth)
    # In rolled coordinates, (a, b) holds token ((a + shift) % size, (b + shift) % size).
    places = [((a + shift) % size, a // window, a + shift >= size) for a in range(size)]
    for a, b in itertools.product(range(size), repeat=2):
        (row, wa, ra), (column, wb, rb) = places[a], places[b]
        for head in range(heads):
            scores, values = [], []
            for c, d in itertools.product(range(size), repeat=2):
                (other_row, wc, rc), (other_column, wd, rd) = places[c], places[d]
                if (wa, wb) != (wc, wd):
                    continue
                bias = table[(a - c + window - 1) * (2 * window - 1) + b - d + window - 1, head]
                score = q[row, column, head] @ k[other_row, other_column, head] * depth**-0.5
                scores.append(score + bias - 100.0 * float((ra, rb) != (rc, rd)))
                values.append(v[other_row, other_column, head])
            weights = torch.stack(scores).softmax(0)
            out[row, column, head] = weights @ torch.stack(values)
    x = x + block.attn.proj(out.reshape(size, size, dim))
    result: Tensor = x + block.mlp(block.norm2(x))
    return result


@pytest.mark.parametrize("shifted", [False, True])
def test_block_equals_the_definition(shifted: bool) -> None:
    """Both float32, sums in another order: 1e-5 on values of order one."""
    config = HTSATConfig(spec_size=64, embed_dim=8, window_size=4)
    block = SwinBlock(config, 8, 2, 8, shifted=shifted)
    torch.nn.init.normal_(block.attn.relative_position_bias_table)
    assert block.shift == (2 if shifted else 0)
    x = torch.randn(2, 8, 8, 8)
    with torch.inference_mode():
        ours = block(x)
        for image, result in zip(x, ours, strict=True):
            torch.testing.assert_close(
                result, block_by_hand(block, image, 4, 2), atol=1e-5, rtol=1e-5
            )


def test_one_window_over_everything_is_not_shifted() -> None:
    assert SwinBlock(CONFIG, 48, 2, 8, shifted=True).shift == 0
    assert SwinBlock(CONFIG, 24, 1, 16, shifted=True).shift == 4


def test_bias_folds_into_one_constant() -> None:
    attention = WindowAttention(24, 2, 8, 16, 4)
    assert attention.bias().shape == (4, 2, 64, 64)
    assert WindowAttention(24, 2, 8, 16, 0).bias().shape == (1, 2, 64, 64)


def test_windows_come_back_where_they_were() -> None:
    attention = WindowAttention(6, 1, 4, 12, 0)
    x = torch.randn(3, 12, 12, 6)
    windows = attention._partition(x)
    assert windows.shape == (3, 9, 16, 6)
    assert torch.equal(windows[1, 5, 6], x[1, 4 + 1, 8 + 2])
    assert torch.equal(attention._reverse(windows), x)


def test_merging_takes_neighbors_in_the_released_order() -> None:
    merge = PatchMerging(3)
    x = torch.randn(2, 4, 6, 3)
    four = torch.cat(
        [x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], dim=-1
    )
    # PatchMerging is for square images; the order does not depend on it.
    square = x[:, :, :4]
    torch.testing.assert_close(merge(square), merge.reduction(merge.norm(four[:, :, :2])))
    assert merge.reduction.bias is None


def test_patches_are_row_major() -> None:
    embed = PatchEmbed(CONFIG)
    image = torch.randn(2, 1, 64, 64)
    tokens = embed(image)
    assert tokens.shape == (2, 16, 16, 24)
    patch = image[1, 0, 12:16, 20:24]
    assert embed.proj.bias is not None
    by_hand = embed.norm((embed.proj.weight[:, 0] * patch).sum((1, 2)) + embed.proj.bias)
    torch.testing.assert_close(tokens[1, 3, 5], by_hand, atol=1e-5, rtol=1e-5)


def test_result_is_the_mean_of_the_normed_tokens() -> None:
    model = HTSAT(CONFIG).eval()
    image = torch.randn(3, 1, 64, 64)
    tokens = model.patch_embed(image)
    for layer in model.layers:
        tokens = layer(tokens)
    expected = model.norm(tokens.flatten(1, 2)).mean(1)
    assert expected.shape == (3, CONFIG.num_features)
    torch.testing.assert_close(model(image), expected)


def test_a_step_is_one_column_of_one_strip() -> None:
    tokens = torch.randn(2, 6, 6, 5)
    steps = unfold(tokens, 3)
    assert steps.shape == (2, 3 * 6, 2 * 5)
    for strip, column, band in itertools.product(range(3), range(6), range(2)):
        expected = tokens[:, strip * 2 + band, column]
        assert torch.equal(steps[:, strip * 6 + column, band * 5 : band * 5 + 5], expected)
    assert torch.equal(unfold(tokens, 1), tokens.transpose(1, 2).flatten(2))


def test_steps_follow_the_recording() -> None:
    """Bins that rise with time, folded and averaged over patches, unfold into rising steps."""
    config = PengiConfig.preset("tiny")
    module = LogMel(config).eval()
    rising = torch.arange(float(config.mel_frames))[None, :, None].expand(1, -1, 16)
    tokens = torch.nn.functional.avg_pool2d(module.fold(rising), 8)[:, 0, :, :, None]
    steps = unfold(tokens, config.strips)
    assert steps.shape == (1, 32, 2)
    assert (steps.diff(dim=1) > 0).all()
    # All 32 steps are equally long; only the bicubic ends are not straight.
    torch.testing.assert_close(
        steps[:, 1:-1].diff(dim=1), torch.full((1, 29, 2), 200 / 31.9), atol=0.1, rtol=0
    )


def test_time_pooling_joins_the_bands_of_the_normed_tokens() -> None:
    model = HTSAT(dataclasses.replace(CONFIG, pooling="time"), strips=4).eval()
    image = torch.randn(2, 1, 64, 64)
    tokens = model.patch_embed(image)
    for layer in model.layers:
        tokens = layer(tokens)
    tokens = model.norm(tokens)
    assert model.collapse is not None
    weight, bias = model.collapse.weight, model.collapse.bias
    assert weight.shape == (48, 2 * 48)
    result = model(image)
    assert result.shape == (2, 32, 48)
    for step in (0, 7, 8, 31):
        strip, column = divmod(step, 8)
        low, high = tokens[:, 2 * strip, column], tokens[:, 2 * strip + 1, column]
        expected = low @ weight[:, :48].T + high @ weight[:, 48:].T + bias
        torch.testing.assert_close(result[:, step], expected, atol=1e-5, rtol=1e-5)


class Recorded(nn.Module):
    """Doubles its input, and records it."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.inputs.append(x)
        return 2 * x


def test_drop_path_has_both_branches_and_no_state() -> None:
    block = SwinBlock(CONFIG, 24, 2, 16, shifted=True)
    assert isinstance(block.drop_path, nn.Identity)
    x = torch.randn(2, 16, 16, 24)
    names = list(block.state_dict())
    once = block(x)
    recorded = Recorded()
    block.drop_path = recorded
    twice = block(x)
    assert list(block.state_dict()) == names
    attention, mlp = recorded.inputs
    middle = x + 2 * attention
    torch.testing.assert_close(mlp, block.mlp(block.norm2(middle)))
    torch.testing.assert_close(twice, middle + 2 * mlp)
    middle = x + attention
    torch.testing.assert_close(once, middle + block.mlp(block.norm2(middle)))


def test_computed_tables_are_not_stored() -> None:
    names = HTSAT(CONFIG).state_dict()
    assert not [name for name in names if name.endswith((".index", ".mask", "attn_mask"))]
    assert not [name for name in names if name.startswith(("head", "tscam"))]
