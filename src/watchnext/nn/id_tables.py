"""Embedding tables for ids: integers (...) below `rows` > vectors (..., dimension). One interface, three memory costs.

Every table takes `rows`, `dimension` and `std`, the initial standard deviation; further options belong to the recipe.
"""

from functools import partial

import torch
from torch import Tensor, nn


class FullTable(nn.Embedding):
    """One vector per row: 4 * rows * dimension bytes."""

    def __init__(self, *, rows: int, dimension: int, std: float) -> None:
        super().__init__(rows, dimension)
        nn.init.normal_(self.weight, std=std)


class QuotientRemainderTable(nn.Module):
    """Product of two shared vectors per id: 4 * (ceil(rows / collisions) + collisions) * dimension bytes.

    Compositional embeddings (Shi et al., KDD 2020) of the quotient and the remainder by ceil(rows / collisions): no two rows
    share both, so every row has its own vector, unlike with hashing. Up to `collisions` rows share a remainder. Deviation:
    quotients start at .5 to 1.5 of either sign, so that rows with the same remainder start different.
    """

    def __init__(self, *, rows: int, dimension: int, std: float, collisions: int) -> None:
        super().__init__()
        _require(collisions=collisions)
        self.width = -(-rows // collisions)
        self.remainders = FullTable(rows=self.width, dimension=dimension, std=std)
        self.quotients = FullTable(rows=collisions, dimension=dimension, std=1.0)
        with torch.no_grad():
            sizes = torch.empty_like(self.quotients.weight).uniform_(0.5, 1.5)
            self.quotients.weight.copy_(sizes.copysign(self.quotients.weight))

    def forward(self, rows: Tensor) -> Tensor:
        return self.remainders(rows % self.width) * self.quotients(rows // self.width)


class HashedTable(nn.Module):
    """Sum of `hashes` out of `buckets` shared vectors: 4 * buckets * dimension bytes for any number of rows.

    Hash embeddings (Svenstrup et al., NeurIPS 2017). Deviation: no per-id weights, whose memory would grow with the rows;
    each term has a hashed sign instead (Weinberger et al., ICML 2009). Rows with equal hashes share a vector: about 1 pair in
    (2 * buckets) ** hashes.
    """

    def __init__(self, *, rows: int, dimension: int, std: float, buckets: int, hashes: int = 2) -> None:
        super().__init__()
        _require(rows=rows, buckets=buckets, hashes=hashes)
        self.buckets = buckets
        # Constants instead of random numbers: a row has the same buckets in every process.
        factors = [_odd(number) for number in range(hashes)]
        self.register_buffer("factors", torch.tensor(factors, dtype=torch.int64), persistent=False)
        self.table = FullTable(rows=buckets, dimension=dimension, std=std * hashes**-0.5)

    def forward(self, rows: Tensor) -> Tensor:
        mixed = (rows.long().unsqueeze(-1) + 1) * self.factors  # wraps at 64 bits
        mixed = (mixed ^ (mixed >> 29)) * GOLDEN
        signs = 1.0 - 2.0 * ((mixed >> 32) & 1)
        return (self.table(((mixed >> 33) & 0x7FFFFFFF) % self.buckets) * signs.unsqueeze(-1)).sum(-2)


Table = FullTable | QuotientRemainderTable | HashedTable
FULL = partial(FullTable)
GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # 2**64 over the golden ratio (Knuth), as a signed number


def _odd(number: int) -> int:
    """Return a fixed odd signed 64-bit number by the mixing of SplitMix64 (Steele et al., OOPSLA 2014)."""
    word = (number + 1) * 0x9E3779B97F4A7C15 % 2**64
    word = (word ^ word >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ word >> 27) * 0x94D049BB133111EB % 2**64
    return ((word ^ word >> 31) | 1) - 2**63


def _require(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}, expected at least 1")
