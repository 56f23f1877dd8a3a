"""Negative sampling: the pool of negatives of a batch and its importance weights."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from watchnext.nn.trainable import NothingToLearnError


@dataclass(frozen=True)
class NegativeSample:
    """Pool that represents a catalogue of `videos`, shared by all queries of a batch.

    rows         (N,) int64 distinct video rows, ascending
    log_weights  (N,) float32 importance weights: the expected sum of exp(logit + log weight) over the pool is the sum of
                 exp(logit) over the catalogue
    """

    rows: Tensor
    log_weights: Tensor
    videos: int

    def to(self, device: torch.device) -> "NegativeSample":
        """Return the pool on a device, where the vectors of its videos are."""
        return replace(self, rows=self.rows.to(device), log_weights=self.log_weights.to(device))

    def hits(self, positives: Tensor) -> tuple[Tensor, Tensor]:
        """Return accidental hits, the positives (M,) of M queries in the pool: (query positions ascending, pool positions)."""
        at = torch.searchsorted(self.rows, positives).clamp(max=len(self.rows) - 1)
        queries = (self.rows[at] == positives).nonzero().squeeze(1)
        return queries, at[queries]


class Negatives:
    """Mix in-batch, uniform and popularity-based negatives in one pool (mixed negative sampling, Yang et al., WWW 2020). The
    cost depends on the number of samples only, not on the catalogue.

    counts    (V,) number of times each video is a positive in training
    in_batch  use the batch's positives as negatives of each other
    uniform   number of uniform samples; None, or at least V, is the whole catalogue without sampling
    popular   number of samples with probability proportional to counts^power
    power     .75 as in word2vec (Mikolov et al., NeurIPS 2013)

    A member has weight copies / expected copies. The in-batch expectation covers the other positives only, because a query's
    own positive is masked; the sum is therefore unbiased. Videos that no sample can reach (without uniform samples: those that
    are never positive) are not represented. Samples come from torch's global generator.
    """

    def __init__(self, *, counts: Tensor, in_batch: bool, uniform: int | None, popular: int = 0, power: float = 0.75) -> None:
        if uniform == 0 and not popular and not in_batch:
            raise ValueError(
                "uniform is 0, popular is 0 and in_batch is false, expected at least one kind of negatives; "
                "set uniform, popular or in_batch (uniform null is the whole catalogue)"
            )
        if popular and not counts.sum():
            raise NothingToLearnError(f"popular is {popular}, but no video has a positive; set popular to 0")
        self.counts, self.in_batch, self.uniform, self.popular, self.power = counts, in_batch, uniform, popular, power
        self._total = max(float(counts.sum()), 1.0)
        self._until = counts.double().pow(power).mul(counts > 0).cumsum(0) if popular else torch.zeros(1)

    def draw(self, positives: Tensor) -> NegativeSample:
        """Draw the pool of a batch with the positive rows (M,). Both are in the memory of the processor, as the counts are."""
        videos = len(self.counts)
        if self.uniform is None or self.uniform >= videos:
            return NegativeSample(torch.arange(videos), torch.zeros(videos), videos)
        parts = [torch.randint(videos, (self.uniform,)), self._popular()]
        rows, copies = torch.cat([positives, *parts] if self.in_batch else parts).unique(return_counts=True)
        # Clamped at 1e-10, as 1e-6 is wrong above 1M videos. Only a batch of one has expectation 0, and its pool is masked.
        return NegativeSample(rows, (copies / self.expected(rows, len(positives)).clamp(min=1e-10)).log().float(), videos)

    def expected(self, rows: Tensor, batch: int) -> Tensor:
        """Compute the expected copies of `rows` (N,) in a pool of `batch` positives, float64."""
        counts = self.counts[rows].double()
        result = torch.full_like(counts, self.uniform / len(self.counts))
        if self.popular:
            result += self.popular * counts.pow(self.power) * (counts > 0) / self._until[-1]
        return result + (batch - 1) * counts / self._total if self.in_batch else result

    def _popular(self) -> Tensor:
        at = torch.rand(self.popular, dtype=torch.float64) * self._until[-1]
        return torch.searchsorted(self._until, at, right=True).clamp(max=len(self.counts) - 1)
