"""Embed codes, tags and values as vectors."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.id_tables import FULL, Table


class IdDropout(nn.Module):
    """Replace the code in `column` of codes (..., F) by 0 (unknown) at random, per row, in training, so that a model learns to
    work without an id (DropoutNet, Volkovs et al., NeurIPS 2017). With `column` None, codes pass unchanged."""

    def __init__(self, *, column: int | None, probability: float) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"id dropout is {probability}, expected at least 0 and below 1")
        self.column, self.probability = column, probability

    def forward(self, codes: Tensor) -> Tensor:
        if not self.training or self.column is None or not self.probability:
            return codes
        codes = codes.clone()
        codes[..., self.column] *= torch.rand(codes.shape[:-1], device=codes.device) >= self.probability
        return codes


class CodeEmbeddings(nn.Module):
    """Embed F categorical features in one table: codes (..., F) > (..., F * dimension). Code 0 (missing, unseen, rare) is
    learned too. `table` builds one of nn/id_tables.py."""

    def __init__(self, *, sizes: tuple[int, ...], dimension: int, table: partial = FULL) -> None:
        super().__init__()
        starts = [sum(sizes[:column]) for column in range(len(sizes))]
        self.register_buffer("starts", torch.tensor(starts, dtype=torch.int32), persistent=False)
        # Start near zero, so that rare values contribute little until they are trained.
        self.table: Table = table(rows=max(sum(sizes), 1), dimension=dimension, std=0.01)
        self.width = len(sizes) * dimension

    def forward(self, codes: Tensor) -> Tensor:
        return self.table(codes + self.starts).flatten(-2)


class TagEmbeddings(nn.Module):
    """Average the embeddings of a video's tags: codes (..., tags), 0 is padding > (..., dimension); zeros without tags."""

    def __init__(self, *, size: int, dimension: int) -> None:
        super().__init__()
        self.table = nn.Embedding(size, dimension, padding_idx=0)
        nn.init.normal_(self.table.weight, std=0.01)
        with torch.no_grad():
            self.table.weight[0] = 0.0
        self.width = dimension

    def forward(self, codes: Tensor) -> Tensor:
        counts = (codes > 0).sum(-1, keepdim=True).clamp(min=1)
        return self.table(codes).sum(-2) / counts


class VideoFeatures(nn.Module):
    """Concatenate a video's code embeddings, tags and content vector (..., width). Shared by candidates and history.

    table  builds the table of the codes, including the id
    """

    def __init__(self, *, sizes: InputSizes, dimension: int, table: partial = FULL) -> None:
        super().__init__()
        self.codes = CodeEmbeddings(sizes=sizes.video_codes, dimension=dimension, table=table)
        self.tags = TagEmbeddings(size=sizes.tags, dimension=dimension)
        self.width = self.codes.width + self.tags.width + sizes.vector

    def forward(self, codes: Tensor, tags: Tensor, vector: Tensor) -> Tensor:
        return torch.cat([self.codes(codes), self.tags(tags), vector], dim=-1)


class QueryFeatures(nn.Module):
    """Concatenate embeddings of user and context codes with user and as-of values (B, width)."""

    def __init__(self, *, sizes: InputSizes, dimension: int, id_dropout: float = 0.0) -> None:
        super().__init__()
        self.dropped = IdDropout(column=sizes.user_id, probability=id_dropout)
        self.codes = CodeEmbeddings(sizes=sizes.user_codes + sizes.context_codes, dimension=dimension)
        self.width = self.codes.width + sizes.user_values + sizes.query_values

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        codes = [self.dropped(inputs["user_codes"])] + [inputs[name] for name in ("context_codes",) if name in inputs]
        parts = [self.codes(torch.cat(codes, dim=-1))]
        # Exported networks omit empty inputs.
        return torch.cat(parts + [inputs[name] for name in ("user_values", "query_values") if name in inputs], dim=-1)
