"""Which videos a positive is told from, and how likely each was to be drawn."""

import torch
from torch import Tensor


class MixedNegatives:
    """In-batch negatives plus `uniform` videos drawn uniformly from the catalogue (mixed negative sampling, Yang et al., WWW
    2020).

    In-batch ones alone are the popular videos and never show the tower the rest of the catalogue.
    """

    def __init__(self, *, uniform: int, seed: int) -> None:
        self.uniform = uniform
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, videos: int) -> Tensor:
        """(uniform,) rows of a catalogue of `videos`."""
        return torch.randint(videos, (self.uniform,), generator=self._generator)

    def log_expected(self, rows: Tensor, *, shares: Tensor, batch: int) -> Tensor:
        """Log of how often each of `rows` (N,) is expected in the pool: batch * share among positives + uniform / videos."""
        expected = batch * shares[rows] + self.uniform / len(shares)
        return expected.clamp(min=1e-10).log()  # clamped at 1e-10, as 1e-6 is wrong above 1M videos


class SharedUniform:
    """One pool of `count` different videos for all queries of a batch, drawn uniformly; null is the whole catalogue."""

    def __init__(self, *, count: int | None, seed: int) -> None:
        self.count = count
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, videos: int) -> Tensor:
        """(N,) different rows of a catalogue of `videos`, ascending; N is `count` less the few drawn twice."""
        if self.count is None or self.count >= videos:
            return torch.arange(videos)
        return torch.randint(videos, (self.count,), generator=self._generator).unique()
