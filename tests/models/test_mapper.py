"""The mapping networks against PyTorch's own attention, and the differences between kinds."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pengi_rt.config.parts import MapperConfig
from pengi_rt.errors import UsageError
from pengi_rt.models.mapper import MapperLayer, MLPMapper, TransformerMapper, make_mapper

CONFIG = MapperConfig(prefix_length=5, constant_length=3, num_layers=2, num_heads=4)
WIDTH, INPUTS = 24, 10


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def layer_by_pytorch(layer: MapperLayer, x: Tensor, heads: int) -> Tensor:
    """``nn.MultiheadAttention`` with the same weights: q without bias, then k and v stacked."""
    attention = nn.MultiheadAttention(x.shape[2], heads, bias=True, batch_first=True)
    own = layer.attn
    with torch.no_grad():
        assert attention.in_proj_weight is not None
        attention.in_proj_weight.copy_(
            torch.cat([own.to_queries.weight, own.to_keys_values.weight])
        )
        attention.in_proj_bias.zero_()
        attention.out_proj.weight.copy_(own.project.weight)
        attention.out_proj.bias.copy_(own.project.bias)
    y = F.layer_norm(x, x.shape[2:], layer.norm1.weight, layer.norm1.bias, 1e-5)
    x = x + attention(y, y, y, need_weights=False)[0]
    y = F.layer_norm(x, x.shape[2:], layer.norm2.weight, layer.norm2.bias, 1e-5)
    hidden = F.relu(F.linear(y, layer.mlp.fc1.weight, layer.mlp.fc1.bias))
    return x + F.linear(hidden, layer.mlp.fc2.weight, layer.mlp.fc2.bias)


@pytest.mark.parametrize(("heads", "length"), [(1, 1), (4, 7), (8, 80)])
def test_layer_equals_pytorchs_attention(heads: int, length: int) -> None:
    layer = MapperLayer(dataclasses.replace(CONFIG, num_heads=heads), WIDTH)
    x = torch.randn(3, length, WIDTH)
    torch.testing.assert_close(layer(x), layer_by_pytorch(layer, x, heads), atol=1e-5, rtol=1e-5)


def test_biases_are_where_the_released_code_has_them() -> None:
    attention = MapperLayer(CONFIG, WIDTH).attn
    assert attention.to_queries.bias is None
    assert attention.to_keys_values.bias is None
    assert attention.project.bias is not None


def test_the_prefix_is_the_output_at_the_learned_rows() -> None:
    mapper = make_mapper(CONFIG, INPUTS, WIDTH)
    assert isinstance(mapper, TransformerMapper)
    assert mapper.linear is not None
    x = torch.randn(2, INPUTS)
    rows = torch.stack(
        [torch.cat([mapper.linear(one).reshape(5, WIDTH), mapper.prefix_const]) for one in x]
    )
    for layer in mapper.layers:
        assert isinstance(layer, MapperLayer)
        rows = layer_by_pytorch(layer, rows, 4)
    torch.testing.assert_close(mapper(x), rows[:, 5:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 5, 9])
def test_sequence_variant_takes_its_rows_as_they_come(length: int) -> None:
    mapper = make_mapper(dataclasses.replace(CONFIG, kind="transformer_seq"), INPUTS, WIDTH)
    assert not [name for name in mapper.state_dict() if name.startswith("linear")]
    assert isinstance(mapper, TransformerMapper)
    x = torch.randn(2, length, WIDTH)
    rows = torch.cat([x, mapper.prefix_const.expand(2, -1, -1)], dim=1)
    for layer in mapper.layers:
        rows = layer(rows)
    assert mapper(x).shape == (2, 3, WIDTH)
    torch.testing.assert_close(mapper(x), rows[:, length:])


def test_time_variant_adds_a_position_to_every_step() -> None:
    config = dataclasses.replace(CONFIG, kind="transformer_time")
    mapper = make_mapper(config, INPUTS, WIDTH, steps=7)
    assert isinstance(mapper, TransformerMapper)
    assert mapper.linear is not None
    assert mapper.position is not None
    assert (mapper.linear.weight.shape, mapper.position.shape) == ((WIDTH, INPUTS), (7, WIDTH))
    nn.init.normal_(mapper.position)
    x = torch.randn(2, 7, INPUTS)
    steps = x @ mapper.linear.weight.T + mapper.linear.bias + mapper.position
    rows = torch.cat([steps, mapper.prefix_const.expand(2, -1, -1)], dim=1)
    for layer in mapper.layers:
        assert isinstance(layer, MapperLayer)
        rows = layer_by_pytorch(layer, rows, 4)
    torch.testing.assert_close(mapper(x), rows[:, 7:], atol=1e-5, rtol=1e-5)
    assert (mapper(x.flip(1)) - mapper(x)).abs().max() > 1e-3, "attention alone knows no order"


def test_mlp() -> None:
    mapper = make_mapper(dataclasses.replace(CONFIG, kind="mlp", prefix_length=4), INPUTS, WIDTH)
    assert isinstance(mapper, MLPMapper)
    x = torch.randn(3, INPUTS)
    hidden = torch.tanh(x @ mapper.fc1.weight.T + mapper.fc1.bias)
    assert hidden.shape == (3, 4 * WIDTH // 2)
    expected = (hidden @ mapper.fc2.weight.T + mapper.fc2.bias).reshape(3, 4, WIDTH)
    torch.testing.assert_close(mapper(x), expected)


def test_width_must_split_into_heads() -> None:
    with pytest.raises(UsageError, match="24 must be a multiple of 7"):
        make_mapper(dataclasses.replace(CONFIG, num_heads=7), INPUTS, WIDTH)
