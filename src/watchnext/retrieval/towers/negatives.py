"""Which videos a positive is told from, and how much of the catalogue each of them stands for."""

from dataclasses import dataclass

import torch
from torch import Tensor

from watchnext.nn.training import NothingToLearnError


@dataclass(frozen=True)
class NegativeSample:
    """A pool that stands for a catalogue of `videos`, shared by all queries of a batch.

    rows         (N,) int64 different video rows, ascending
    log_weights  (N,) float32: a member stands for exp of it videos, so that the sum of exp(logit + log weight) over the pool
                 is, in expectation over draws, the sum of exp(logit) over the catalogue
    """

    rows: Tensor
    log_weights: Tensor
    videos: int

    def hits(self, positives: Tensor) -> tuple[Tensor, Tensor]:
        """Where the positives (M,) of M queries stand in the pool: (query places ascending, pool places), as they are no
        negatives there (accidental hits)."""
        at = torch.searchsorted(self.rows, positives).clamp(max=len(self.rows) - 1)
        queries = (self.rows[at] == positives).nonzero().squeeze(1)
        return queries, at[queries]


class Negatives:
    """Draws from the batch, the whole catalogue and its popular part, as one pool (mixed negative sampling, Yang et al., WWW
    2020). A pool costs what its draws cost, however large the catalogue.

    counts    (V,) how often each video is a positive in training
    in_batch  the batch's positives are negatives of each other
    uniform   draws in which every video is as likely; null is the whole catalogue, each video once, and nothing is drawn. So
              it is where the draws would be as many as the videos.
    popular   draws in which a video is as likely as counts^power
    power     .75 as in word2vec (Mikolov et al., NeurIPS 2013)

    A member weighs copies / expected copies. Of the batch, the expected ones are those of the other positives: a query's own is
    masked, so the sum over all but its own positive is without bias too. What no draw can reach (without uniform ones: a video
    that is never a positive) the pool does not stand for. Draws come from torch's global generator.
    """

    def __init__(self, *, counts: Tensor, in_batch: bool, uniform: int | None, popular: int = 0, power: float = 0.75) -> None:
        if uniform == 0 and not popular and not in_batch:
            raise ValueError("negatives of no kind: set uniform, popular or in_batch (uniform null is the whole catalogue)")
        if popular and not counts.sum():
            raise NothingToLearnError(f"{popular} popular negatives of a catalogue without a positive; set popular to 0")
        self.counts, self.in_batch, self.uniform, self.popular, self.power = counts, in_batch, uniform, popular, power
        self._total = max(float(counts.sum()), 1.0)
        self._until = counts.double().pow(power).mul(counts > 0).cumsum(0) if popular else torch.zeros(1)

    def draw(self, positives: Tensor) -> NegativeSample:
        """The pool of a batch with these positive rows (M,)."""
        videos = len(self.counts)
        if self.uniform is None or self.uniform >= videos:
            return NegativeSample(torch.arange(videos), torch.zeros(videos), videos)
        parts = [torch.randint(videos, (self.uniform,)), self._popular()]
        rows, copies = torch.cat([positives, *parts] if self.in_batch else parts).unique(return_counts=True)
        # Clamped at 1e-10, as 1e-6 is wrong above 1M videos. Only a batch of one expects nothing, and its pool is masked.
        return NegativeSample(rows, (copies / self.expected(rows, len(positives)).clamp(min=1e-10)).log().float(), videos)

    def expected(self, rows: Tensor, batch: int) -> Tensor:
        """How often each of `rows` (N,) is expected in a pool of `batch` positives, float64."""
        counts = self.counts[rows].double()
        found = torch.full_like(counts, self.uniform / len(self.counts))
        if self.popular:
            found += self.popular * counts.pow(self.power) * (counts > 0) / self._until[-1]
        return found + (batch - 1) * counts / self._total if self.in_batch else found

    def _popular(self) -> Tensor:
        at = torch.rand(self.popular, dtype=torch.float64) * self._until[-1]
        return torch.searchsorted(self._until, at, right=True).clamp(max=len(self.counts) - 1)
