"""Objectives of the two-tower model, as small steps on logits."""

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy


class SampledSoftmax(nn.Module):
    """Softmax over a pool of sampled videos with logQ correction (Yi et al., RecSys 2019), learned temperature.

    Deviation: the temperature is clamped to [.01, 1], so that an early step cannot make every logit the same.
    """

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())

    def forward(self, queries: Tensor, pool: Tensor, *, positives: Tensor, pool_rows: Tensor, log_expected: Tensor) -> Tensor:
        """Mean loss of `queries` (B, D) against `pool` (N, D), N >= B, whose first B are their positives, in order.

        positives (B,) and pool_rows (N,) are video rows; log_expected (N,) the log of how often each was expected in the pool.
        """
        logits = queries @ pool.T / self.log_temperature.exp().clamp(0.01, 1.0) - log_expected
        own = torch.eye(len(queries), len(pool), dtype=torch.bool, device=logits.device)
        # Another copy of the same video in the pool is no negative (an accidental hit).
        hits = (positives[:, None] == pool_rows[None, :]) & ~own
        return cross_entropy(logits.masked_fill(hits, float("-inf")), torch.arange(len(queries), device=logits.device))
