"""Two towers: a viewer at a moment and a video meet in one space, by inner product."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from watchnext.features.encoding import InputSizes
from watchnext.nn.attention import History, PooledAttention
from watchnext.nn.cross import MLP
from watchnext.nn.embeddings import QueryFeatures, VideoFeatures


class VideoTower(nn.Module):
    """Id, content columns and content vector > unit vectors (N, dimension)."""

    def __init__(
        self, *, sizes: InputSizes, features: VideoFeatures, hidden: tuple[int, ...], dimension: int, dropout: float
    ) -> None:
        super().__init__()
        self.features = features
        self.deep = MLP(inputs=features.width + sizes.video_values, hidden=hidden, dropout=dropout)
        self.out = nn.Linear(hidden[-1], dimension)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        parts = [self.features(inputs["video_codes"], inputs["video_tags"], inputs["video_vector"])]
        parts += [inputs[name] for name in ("video_values",) if name in inputs]
        return normalize(self.out(self.deep(torch.cat(parts, dim=-1))), dim=-1)


class QueryTower(nn.Module):
    """User, context and history > unit vectors (B, dimension)."""

    def __init__(
        self,
        *,
        sizes: InputSizes,
        videos: VideoFeatures,
        embedding: int,
        hidden: tuple[int, ...],
        dimension: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.features = QueryFeatures(sizes=sizes, dimension=embedding)
        self.history = History(sizes=sizes, videos=videos, dimension=dimension)
        self.attention = PooledAttention(query=self.features.width, dimension=dimension, heads=heads)
        self.deep = MLP(inputs=self.features.width + 2 * dimension, hidden=hidden, dropout=dropout)
        self.out = nn.Linear(hidden[-1], dimension)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        query, mask = self.features(inputs), inputs["history_mask"]
        history = self.history(inputs)
        mean = history.sum(1) / mask.sum(-1, keepdim=True).clamp(min=1.0)
        pooled = self.attention(query, history, mask)
        return normalize(self.out(self.deep(torch.cat([query, pooled, mean], dim=-1))), dim=-1)


class TwoTower(nn.Module):
    """The two towers share what they know of a video: its features embed alike as candidate and in the history."""

    def __init__(
        self, *, sizes: InputSizes, embedding: int, hidden: tuple[int, ...], dimension: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        videos = VideoFeatures(sizes=sizes, dimension=embedding)
        self.video = VideoTower(sizes=sizes, features=videos, hidden=hidden, dimension=dimension, dropout=dropout)
        self.query = QueryTower(
            sizes=sizes, videos=videos, embedding=embedding, hidden=hidden, dimension=dimension, heads=heads, dropout=dropout
        )
