"""Piecewise-linear encoding of numbers."""

import torch
from torch import Tensor, nn

# In standard deviations of the scaled values; denser where most values lie.
BORDERS = (-6.0, -2.0, -1.3, -0.8, -0.4, 0.0, 0.4, 0.8, 1.3, 2.0, 6.0)


class PiecewiseLinear(nn.Module):
    """Encode values (N, F) > (N, pieces * F): the part of each interval that lies below the value, 0 to 1.

    Piecewise-linear encoding (Gorishniy et al., NeurIPS 2022). Deviation: all values share the borders, because they are
    already scaled, instead of per-feature quantiles.
    """

    def __init__(self, *, values: int) -> None:
        super().__init__()
        borders = torch.tensor(BORDERS)
        self.register_buffer("start", borders[:-1, None], persistent=False)
        self.register_buffer("scale", 1.0 / borders.diff()[:, None], persistent=False)
        self.width = values * (len(BORDERS) - 1)

    def forward(self, values: Tensor) -> Tensor:
        return ((values.unsqueeze(-2) - self.start) * self.scale).clamp(0.0, 1.0).flatten(-2)
