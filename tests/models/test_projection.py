"""The projection against its formula."""

import torch
from torch.nn import functional as F

from pengi_rt.models.projection import DROPOUT, Projection


def test_is_layer_norm_of_a_residual() -> None:
    torch.manual_seed(0)
    module = Projection(6, 9).eval()
    torch.nn.init.normal_(module.layer_norm.weight)
    torch.nn.init.normal_(module.layer_norm.bias)
    x = torch.randn(4, 6)
    first = x @ module.linear1.weight.T
    second = F.gelu(first, approximate="none") @ module.linear2.weight.T
    norm = module.layer_norm
    expected = F.layer_norm(first + second, (9,), norm.weight, norm.bias, 1e-5)
    torch.testing.assert_close(module(x), expected)


def test_has_no_biases_and_drops_only_in_training() -> None:
    module = Projection(6, 9)
    assert set(module.state_dict()) == {
        "linear1.weight",
        "linear2.weight",
        "layer_norm.weight",
        "layer_norm.bias",
    }
    assert module.drop.p == DROPOUT == 0.5
    x = torch.ones(1, 6)
    assert torch.equal(module.eval()(x), module(x))
