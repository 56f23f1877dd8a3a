"""Correct position bias and selection bias of the log.

`watch_time.duration_quantile` corrects duration bias.
"""

import numpy as np
import torch
from torch import Tensor, nn


class PositionBias(nn.Module):
    """Shallow tower that reads only the position; its logits are added in training and omitted in serving (Zhao et al., RecSys
    2019). Serving then predicts as if every video stood at `reference`.

    positions  positions with a bias of their own; further ones share the last
    logits     columns of the network
    dropout    share of training rows whose position is masked, so that the network does not rely on the tower; these rows
               teach the network the bias again, so keep it small
    """

    def __init__(self, *, positions: int, logits: int, dropout: float = 0.0, reference: int = 0) -> None:
        super().__init__()
        if not 0 <= reference < positions:
            raise ValueError(f"reference position is {reference}, expected 0 to {positions - 1}")
        if not 0.0 <= dropout < 1.0:
            raise ValueError(f"position dropout is {dropout}, expected a share in [0, 1)")
        self.table = nn.Parameter(torch.zeros(positions + 1, logits))  # the last row is for unknown positions
        self.dropout, self.reference = dropout, reference

    def forward(self, position: Tensor) -> Tensor:
        """Return logits to add (N, logits) for positions (N,) int64 from 0, -1 unknown; 0 at the reference position."""
        last = len(self.table) - 1
        known = position >= 0
        if self.training and self.dropout:
            known &= torch.rand(position.shape, device=position.device) >= self.dropout
        rows = torch.where(known, position.clamp(0, last - 1), torch.full_like(position, last))
        return self.table[rows] - self.table[self.reference]


class InversePropensity(nn.Module):
    """Inverse propensity weights, self-normalised to mean 1 over the training rows (Swaminathan & Joachims, 2015).

    propensities  (N,) probability that the policy showed this video here; nan if not logged: weight 1
    most          clip, as a multiple of the median weight: less variance for some bias

    Raises ValueError for a propensity outside (0, 1], and for rows of which none has one.
    """

    def __init__(self, *, propensities: np.ndarray, most: float) -> None:
        super().__init__()
        logged = np.asarray(propensities, np.float64)
        logged = logged[~np.isnan(logged)]
        outside = logged[~((logged > 0) & (logged <= 1))]
        if len(outside):
            raise ValueError(f"propensity is {outside[0]:g}, expected a value in (0, 1], or null if not logged")
        if len(propensities) and not len(logged):
            raise ValueError(
                f"none of {len(propensities):,} training impressions has a propensity, expected that of the policy in the "
                "log's column `propensity`; add it, or train without model.module.inverse_propensity"
            )
        if not most >= 1.0:
            raise ValueError(f"inverse_propensity is {most}, expected a clip of at least 1 times the median weight")
        self.highest = float(most * np.median(1.0 / logged)) if len(logged) else 1.0
        self.mean = float(np.minimum(1.0 / logged, self.highest).mean()) if len(logged) else 1.0

    def forward(self, propensity: Tensor) -> Tensor:
        """Return the weights (N,) of propensities (N,)."""
        clipped = propensity.reciprocal().clamp(max=self.highest) / self.mean
        return torch.where(propensity.isnan(), torch.ones_like(propensity), clipped)


def effective_rows(weights: np.ndarray) -> float:
    """Compute the effective sample size of weighted rows (Kish, 1965)."""
    return float(weights.sum() ** 2 / np.square(weights).sum()) if len(weights) else 0.0


def weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    """Average row losses (N,) or (N, T) under `weights` (N,), self-normalised: scalar or (T,)."""
    return torch.tensordot(weights, losses, dims=1) / weights.sum()
