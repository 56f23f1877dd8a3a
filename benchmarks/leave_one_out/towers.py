"""Sequential two-tower model for a log of ids: every position of a history predicts the next video."""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from watchnext.nn.encoders import encoder_of
from watchnext.nn.id_tables import FULL, FullTable, Table


class SequenceTowers(nn.Module):
    """Video tower: a table of vectors. Query tower: an encoder over the same vectors of the history.

    table       builds one of nn/id_tables.py
    sparse      the table's gradient holds only the rows that a batch used; rowwise.py steps on those
    gain        length of a video's vector at the encoder input, in units of sqrt(dimension)
    places      last watches that the encoder reads
    """

    def __init__(
        self,
        *,
        videos: int,
        dimension: int,
        encoder: str,
        heads: int,
        blocks: int,
        places: int,
        gain: float,
        dropout: float,
        table: partial = FULL,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.videos, self.dimension, self.places = videos, dimension, places
        # The last row is padding. Encoders are causal, so no loss depends on it and it is not trained.
        self.table: Table = table(rows=videos + 1, dimension=dimension, std=dimension**-0.5)
        for embedding in filter(lambda module: isinstance(module, nn.Embedding), self.table.modules()):
            embedding.sparse = sparse
        self.encoder = encoder_of(encoder, dimension=dimension, heads=heads, blocks=blocks, places=places, dropout=dropout)
        self.length, self.dropout = gain * dimension**0.5, nn.Dropout(dropout)

    @torch.no_grad()
    def start_from(self, vectors: Tensor) -> None:
        """Initialise the table with video vectors (V, D). Raises ValueError for a table whose rows share vectors."""
        if not isinstance(self.table, FullTable):
            raise ValueError(
                f"rows of a {type(self.table).__name__} share vectors and cannot start from given ones; set module.start=null"
            )
        self.table.weight[: len(vectors)] = vectors

    def video(self, rows: Tensor) -> Tensor:
        """Compute unit vectors (..., D) of video rows (...)."""
        return normalize(self.table(rows), dim=-1)

    def queries(self, histories: Tensor) -> Tensor:
        """Compute query vectors (B, H, D) of each position of histories (B, H), oldest first, padded with `videos`."""
        watched = normalize(self.table(histories), dim=-1) * self.length
        return normalize(self.encoder(self.dropout(watched)), dim=-1)

    def query(self, histories: Tensor, lengths: Tensor) -> Tensor:
        """Compute query vectors (B, D) at the last watch of each history; an empty history uses its padding."""
        return self.queries(histories)[torch.arange(len(histories)), (lengths - 1).clamp(min=0)]
