"""Where a log says more of its ranker than of its viewers: the place on the screen, and what was shown at all.

The third such bias, that long videos are watched longer, is the business of `watch_time.duration_quantile`.
"""

import numpy as np
import torch
from torch import Tensor, nn


class PositionBias(nn.Module):
    """A shallow tower beside the network that is given the position alone; its logits are added in training (Zhao et al.,
    RecSys 2019) and left out at serving, which then answers as if every video stood at `reference`.

    positions  how many have a bias of their own; further ones share the last
    logits     columns of the network
    dropout    share of training rows whose position is withheld, so that the network cannot lean on the tower; of these rows it
               learns the bias again, so as little as it can do with
    """

    def __init__(self, *, positions: int, logits: int, dropout: float = 0.0, reference: int = 0) -> None:
        super().__init__()
        if not 0 <= reference < positions:
            raise ValueError(f"reference position {reference} is not among the {positions} positions from 0")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"position dropout is {dropout}, expected a share in [0, 1)")
        self.table = nn.Parameter(torch.zeros(positions + 1, logits))  # the last row is for positions that are not known
        self.dropout, self.reference = dropout, reference

    def forward(self, position: Tensor) -> Tensor:
        """(N,) int64, from 0, -1 where not known > (N, logits) to add. Of the reference position it is 0, always."""
        last = len(self.table) - 1
        known = position >= 0
        if self.training and self.dropout:
            known &= torch.rand(position.shape, device=position.device) >= self.dropout
        rows = torch.where(known, position.clamp(0, last - 1), torch.full_like(position, last))
        return self.table[rows] - self.table[self.reference]


class InversePropensity(nn.Module):
    """Weights that undo what the logging policy preferred to show, mean 1 over the training rows that it is made of
    (self-normalised; Swaminathan & Joachims, 2015).

    propensities  (N,) probability with which the policy showed this video here, nan where it was not logged: weight 1
    most          clipped at so many times the median weight: less variance for some bias

    Raises ValueError for a propensity outside (0, 1].
    """

    def __init__(self, *, propensities: np.ndarray, most: float) -> None:
        super().__init__()
        logged = np.asarray(propensities, np.float64)
        logged = logged[~np.isnan(logged)]
        outside = logged[~((logged > 0) & (logged <= 1))]
        if len(outside):
            raise ValueError(f"a shown video has the propensity {outside[0]:g}, expected one in (0, 1]; null means not logged")
        if not most >= 1.0:
            raise ValueError(f"weights are clipped at {most} times their median, expected 1 or more")
        self.highest = float(most * np.median(1.0 / logged)) if len(logged) else 1.0
        self.mean = float(np.minimum(1.0 / logged, self.highest).mean()) if len(logged) else 1.0

    def forward(self, propensity: Tensor) -> Tensor:
        """(N,) > weights (N,)."""
        clipped = propensity.reciprocal().clamp(max=self.highest) / self.mean
        return torch.where(propensity.isnan(), torch.ones_like(propensity), clipped)


def effective_rows(weights: np.ndarray) -> float:
    """How many equally weighted rows tell as much (Kish, 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum()) if len(weights) else 0.0


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Self-normalised mean of row losses (N,) or (N, T) under `weights` (N,): scalar or (T,)."""
    return torch.tensordot(weights, losses, dims=1) / weights.sum()
