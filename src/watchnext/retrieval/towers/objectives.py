"""Objective of the two-tower models, for all kinds of negatives."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from watchnext.retrieval.towers.log_partition import log_partition
from watchnext.retrieval.towers.negatives import NegativeSample


class SampledSoftmax(nn.Module):
    """Softmax over the positive and a pool that represents the other videos. With the whole catalogue as pool it is the full
    softmax.

    logQ correction (Bengio & Senecal, 2008; Yi et al., RecSys 2019): the log of its expected count is subtracted from a
    negative's logit. Deviation: Yi et al. subtract it from the positive's logit too, although the positive is certain and not
    sampled. Here the positive is unchanged and its copy in the pool is masked, so that the expectation of exp(positive) + sum
    exp(negative + log weight) is the partition function. (The mean of its log, the loss, is biased low, less so for larger
    pools.) The gradient is that of Khrylchenko et al. ("Correcting the LogQ Correction", RecSys 2025), who weight an example by
    1 minus the probability of its positive; here that is estimated from the same pool.

    The temperature is learned, and clamped to [.01, 1], so that an early step cannot equalise all logits.
    """

    def __init__(self, *, temperature: float) -> None:
        super().__init__()
        self.log_temperature = nn.Parameter(torch.tensor(float(temperature)).log())

    @property
    def scale(self) -> Tensor:
        """Return the factor from inner products to logits."""
        return 1.0 / self.log_temperature.exp().clamp(0.01, 1.0)

    def forward(
        self, queries: Tensor, positives: Tensor, pool: Tensor, *, drawn: NegativeSample, masked: tuple[Tensor, Tensor]
    ) -> Tensor:
        """Average the loss of `queries` (M, D) with the positive vectors `positives` (M, D) against the vectors `pool` (N, D)
        of the sample. `masked` are pairs to exclude as negatives: query positions, ascending, and pool positions."""
        queries = queries * self.scale
        logits = (queries * positives).sum(-1)
        others = log_partition(queries, pool, masked, drawn.log_weights)
        return softplus(others - logits).mean()  # = log(exp(logits) + exp(others)) - logits
