"""Objectives of the two-tower models, with one signature for all kinds of negatives."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from watchnext.retrieval.towers.log_partition import log_partition
from watchnext.retrieval.towers.negatives import NegativeSample


class Objective(nn.Module, ABC):
    """Loss with a learned temperature, clamped to [.01, 1], so that an early step cannot equalise all logits."""

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())

    @property
    def scale(self) -> Tensor:
        """Return the factor from inner products to logits."""
        return 1.0 / self.log_temperature.exp().clamp(0.01, 1.0)

    @abstractmethod
    def forward(
        self, queries: Tensor, positives: Tensor, pool: Tensor, *, drawn: NegativeSample, masked: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Average the loss of `queries` (M, D) with the positive vectors `positives` (M, D) against the vectors `pool` (N, D)
        of the sample. `masked` are pairs to exclude as negatives: query positions, ascending, and pool positions."""


class SampledSoftmax(Objective):
    """Softmax over the positive and a pool that represents the other videos. With the whole catalogue as pool it is the full
    softmax.

    logQ correction (Bengio & Senecal, 2008; Yi et al., RecSys 2019): the log of its expected count is subtracted from a
    negative's logit. Deviation: Yi et al. subtract it from the positive's logit too, although the positive is certain and not
    sampled. Here the positive is unchanged and its copy in the pool is masked, so that the expectation of exp(positive) + sum
    exp(negative + log weight) is the partition function. (The mean of its log, the loss, is biased low, less so for larger
    pools.) The gradient is that of Khrylchenko et al. ("Correcting the LogQ Correction", RecSys 2025), who weight an example by
    1 minus the probability of its positive; here that is estimated from the same pool.
    """

    def forward(
        self, queries: Tensor, positives: Tensor, pool: Tensor, *, drawn: NegativeSample, masked: tuple[Tensor, Tensor]
    ) -> Tensor:
        queries = queries * self.scale
        logits = (queries * positives).sum(-1)
        others = log_partition(queries, pool, masked, drawn.log_weights)
        return softplus(others - logits).mean()  # = log(exp(logits) + exp(others)) - logits


class GBCE(Objective):
    """Generalised binary cross-entropy (gSASRec, Petrov & Macdonald, RecSys 2023): the positive's probability to the power
    `beta`, so that sampled easy negatives do not cause overconfidence. `calibration` 0 is plain BCE, 1 fully corrects the
    sampling.

    Deviations: negatives are shared by the batch and weighted relative to uniform sampling, 1 on average.
    """

    def __init__(self, *, temperature: float, calibration: float) -> None:
        super().__init__(temperature=temperature)
        self.calibration = calibration

    def beta(self, negatives: int, videos: int) -> float:
        """Compute alpha (t (1 - 1/alpha) + 1/alpha), where alpha is the sampled share of the other videos."""
        alpha = min(negatives / max(videos - 1, 1), 1.0)
        return alpha * (self.calibration * (1 - 1 / alpha) + 1 / alpha)

    def forward(
        self, queries: Tensor, positives: Tensor, pool: Tensor, *, drawn: NegativeSample, masked: tuple[Tensor, Tensor]
    ) -> Tensor:
        queries = queries * self.scale
        weights = drawn.log_weights.to(queries.dtype).exp() * (len(drawn.rows) / drawn.videos)
        negatives = softplus(queries @ pool.T).index_put(masked, queries.new_zeros(())) @ weights
        positive = softplus(-(queries * positives).sum(-1))
        return (self.beta(len(drawn.rows), drawn.videos) * positive + negatives).mean()
