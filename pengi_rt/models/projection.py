"""The projection into the joint space: linear, GELU, linear, residual, LayerNorm."""

from torch import Tensor, nn

DROPOUT = 0.5  # in training, as released


class Projection(nn.Module):
    """Maps [..., inputs] to [..., d_proj]. The linear layers have no bias."""

    def __init__(self, inputs: int, d_proj: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(inputs, d_proj, bias=False)
        self.linear2 = nn.Linear(d_proj, d_proj, bias=False)
        self.act = nn.GELU()
        self.drop = nn.Dropout(DROPOUT)
        self.layer_norm = nn.LayerNorm(d_proj)

    def forward(self, x: Tensor) -> Tensor:
        first = self.linear1(x)
        projected: Tensor = self.layer_norm(first + self.drop(self.linear2(self.act(first))))
        return projected
