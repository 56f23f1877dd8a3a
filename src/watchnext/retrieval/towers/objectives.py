"""Objectives of the two-tower models, as small steps on logits. All are called alike, whatever the negatives."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from watchnext.retrieval.towers.log_partition import log_partition
from watchnext.retrieval.towers.negatives import NegativeSample


class Objective(nn.Module, ABC):
    """A loss with a learned temperature, clamped to [.01, 1], so that an early step cannot make every logit the same."""

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())

    @property
    def scale(self) -> Tensor:
        """What inner products are multiplied by to be logits."""
        return 1.0 / self.log_temperature.exp().clamp(0.01, 1.0)

    @abstractmethod
    def forward(
        self, queries: Tensor, own: Tensor, pool: Tensor, *, drawn: NegativeSample, masked: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Mean loss of `queries` (M, D), whose positives have the vectors `own` (M, D), against the vectors `pool` (N, D) of
        what was drawn. `masked` are pairs that are no negatives: places of queries, ascending, and of videos in the pool."""


class SampledSoftmax(Objective):
    """Softmax over the own positive and a pool that stands for the other videos. With the whole catalogue as pool it is the
    full softmax.

    logQ correction (Bengio & Senecal, 2008; Yi et al., RecSys 2019): a negative's logit has the log of its expected count
    taken off. Deviation: Yi et al. take it off the positive's logit too, though the positive is there for certain and not by
    a draw. Here it is left as it is and its copy in the pool is masked, so the mean of exp(own) + sum exp(negative + log
    weight) is the partition. (The mean of its log, the loss, is low, the less so the larger the pool.) The gradient is that of
    Khrylchenko et al. ("Correcting the LogQ Correction", RecSys 2025), who weigh an example by 1 less the probability of its
    positive; here that is estimated from the same pool.
    """

    def forward(
        self, queries: Tensor, own: Tensor, pool: Tensor, *, drawn: NegativeSample, masked: tuple[Tensor, Tensor]
    ) -> Tensor:
        queries = queries * self.scale
        logits = (queries * own).sum(-1)
        others = log_partition(queries, pool, masked, drawn.log_weights)
        return softplus(others - logits).mean()  # = log(exp(logits) + exp(others)) - logits


class GBCE(Objective):
    """Generalised binary cross-entropy (gSASRec, Petrov & Macdonald, RecSys 2023): the positive's probability to the power
    `beta`, so that a sample of easy negatives does not make every score too sure. `calibration` 0 is plain BCE, 1 undoes the
    sampling.

    Deviations: negatives are shared by the batch, and each weighs what it would stand for among as many uniform ones, 1 on
    average.
    """

    def __init__(self, *, temperature: float, calibration: float) -> None:
        super().__init__(temperature=temperature)
        self.calibration = calibration

    def beta(self, negatives: int, videos: int) -> float:
        """alpha (t (1 - 1/alpha) + 1/alpha), alpha the share of other videos that is sampled."""
        alpha = min(negatives / max(videos - 1, 1), 1.0)
        return alpha * (self.calibration * (1 - 1 / alpha) + 1 / alpha)

    def forward(
        self, queries: Tensor, own: Tensor, pool: Tensor, *, drawn: NegativeSample, masked: tuple[Tensor, Tensor]
    ) -> Tensor:
        queries = queries * self.scale
        weights = drawn.log_weights.to(queries.dtype).exp() * (len(drawn.rows) / drawn.videos)
        negatives = softplus(queries @ pool.T).index_put(masked, queries.new_zeros(())) @ weights
        positive = softplus(-(queries * own).sum(-1))
        return (self.beta(len(drawn.rows), drawn.videos) * positive + negatives).mean()
