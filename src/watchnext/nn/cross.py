"""Deep and cross layers."""

import torch
from torch import Tensor, nn


class MLP(nn.Sequential):
    """Linear, GELU and dropout for every width in `hidden`: (N, inputs) > (N, hidden[-1])."""

    def __init__(self, *, inputs: int, hidden: tuple[int, ...], dropout: float) -> None:
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [nn.Linear(inputs, width), nn.GELU(), nn.Dropout(dropout)]
            inputs = width
        super().__init__(*layers)


class CrossNetwork(nn.Module):
    """DCN-V2 (Wang et al., WWW 2021), low rank: x_{l+1} = x_0 * (U_l V_l x_l + b_l) + x_l, (N, D) > (N, D)."""

    def __init__(self, *, inputs: int, layers: int, rank: int) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(inputs, rank, bias=False) for _ in range(layers))
        self.up = nn.ModuleList(nn.Linear(rank, inputs) for _ in range(layers))

    def forward(self, start: Tensor) -> Tensor:
        x = start
        for down, up in zip(self.down, self.up, strict=True):
            x = torch.addcmul(x, start, up(down(x)))
        return x
