"""Objectives of the two-tower model, as small steps on logits."""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, softplus

from watchnext.retrieval.partition import hits_of, log_partition


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


class SharedSoftmax(nn.Module):
    """Softmax over the own positive and one pool of distinct videos, drawn uniformly and shared by all queries of a batch.

    Each video of the pool stands for videos / pool of them, which is the logQ correction of a uniform draw; with the whole
    catalogue as pool this is the full softmax. Learned temperature, clamped as above.
    """

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())

    @property
    def scale(self) -> Tensor:
        """What inner products are multiplied by to be logits."""
        return 1.0 / self.log_temperature.exp().clamp(0.01, 1.0)

    def forward(
        self, queries: Tensor, own: Tensor, pool: Tensor, *, positives: Tensor, pool_rows: Tensor, videos: int
    ) -> Tensor:
        """Mean loss of `queries` (M, D) with their positives' vectors `own` (M, D) against `pool` (N, D).

        positives (M,) and pool_rows (N,), all different, are video rows of a catalogue of `videos`.
        """
        queries = queries * self.scale
        logits = (queries * own).sum(-1)
        # A query's own positive in the pool is no negative (an accidental hit).
        others = log_partition(queries, pool, hits_of(positives, pool_rows, videos)) + math.log(videos / len(pool_rows))
        return softplus(others - logits).mean()  # = log(exp(logits) + exp(others)) - logits


class GBCE(nn.Module):
    """Generalised binary cross-entropy (gSASRec, Petrov & Macdonald, RecSys 2023): the positive's probability to the power
    `beta`, so that a sample of easy negatives does not make every score too sure. `calibration` 0 is plain BCE, 1 undoes the
    sampling. Deviation: negatives are shared by the batch. Called as SharedSoftmax.
    """

    def __init__(self, *, temperature: float, calibration: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())
        self.calibration = calibration

    @property
    def scale(self) -> Tensor:
        return 1.0 / self.log_temperature.exp().clamp(0.01, 1.0)

    def beta(self, negatives: int, videos: int) -> float:
        """alpha (t (1 - 1/alpha) + 1/alpha), alpha the share of other videos that is sampled."""
        alpha = min(negatives / max(videos - 1, 1), 1.0)
        return alpha * (self.calibration * (1 - 1 / alpha) + 1 / alpha)

    def forward(
        self, queries: Tensor, own: Tensor, pool: Tensor, *, positives: Tensor, pool_rows: Tensor, videos: int
    ) -> Tensor:
        queries = queries * self.scale
        at, hits = hits_of(positives, pool_rows, videos)
        negatives = softplus(queries @ pool.T).index_put((at, hits), queries.new_zeros(()))
        positive = softplus(-(queries * own).sum(-1))
        return (self.beta(len(pool_rows), videos) * positive + negatives.sum(1)).mean()
