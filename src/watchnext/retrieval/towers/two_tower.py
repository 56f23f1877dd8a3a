"""Two-tower model: query and video vectors in one space, compared by inner product."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.attention import History, InterestAttention, PooledAttention
from watchnext.nn.cross import MLP
from watchnext.nn.embeddings import IdDropout, QueryFeatures, VideoFeatures
from watchnext.nn.encoders import encoder_of
from watchnext.nn.id_tables import FULL


class VideoTower(nn.Module):
    """Encode id, content columns and content vector as unit vectors (N, dimension).

    An input `video_new` (N,) marks videos that are too new to have an id: a learned vector says so, since a video without an id
    may also be an old one that nobody watches.
    """

    def __init__(
        self, *, sizes: InputSizes, features: VideoFeatures, hidden: tuple[int, ...], dimension: int, dropout: float
    ) -> None:
        super().__init__()
        self.features = features
        self.new = nn.Parameter(torch.zeros(features.width))
        self.deep = MLP(inputs=features.width + sizes.video_values, hidden=hidden, dropout=dropout)
        self.out = nn.Linear(hidden[-1], dimension)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        known = self.features(inputs["video_codes"], inputs["video_tags"], inputs["video_vector"])
        if "video_new" in inputs:
            known = known + inputs["video_new"].unsqueeze(-1) * self.new
        parts = [known] + [inputs[name] for name in ("video_values",) if name in inputs]
        return normalize(self.out(self.deep(torch.cat(parts, dim=-1))), dim=-1)


class InOrder(nn.Module):
    """Encode a latest-first history in order: the encoder's state at the last watch (B, D), zeros for an empty history."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, query: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        count = mask.sum(-1, keepdim=True).long()
        # Encoders expect padding last. The repeated entries are after the last watch, so no used state depends on them.
        at = (count - 1 - torch.arange(mask.shape[1], device=mask.device)).clamp(min=0)
        states = self.encoder(history.gather(1, at.unsqueeze(-1).expand_as(history)))
        last = (count - 1).clamp(min=0).unsqueeze(-1).expand(-1, 1, states.shape[-1])
        return states.gather(1, last).squeeze(1) * (count > 0)


class QueryTower(nn.Module):
    """Encode user, context and history as unit vectors (B, dimension), or (B, interests, dimension).

    encoder    history encoder: "attention" pools without order, by user and context; the others are in nn/encoders.py, with
               `blocks` layers
    interests  vectors per viewer; a video is compared with the nearest of them
    """

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
        id_dropout: float,
        encoder: str,
        blocks: int,
        places: int,
        interests: int,
    ) -> None:
        super().__init__()
        self.features = QueryFeatures(sizes=sizes, dimension=embedding, id_dropout=id_dropout)
        self.dropped = IdDropout(column=sizes.video_id, probability=id_dropout)
        self.history = History(sizes=sizes, videos=videos, dimension=dimension)
        if encoder == "attention":
            self.attention = PooledAttention(query=self.features.width, dimension=dimension, heads=heads)
        else:
            self.attention = InOrder(
                encoder_of(encoder, dimension=dimension, heads=heads, blocks=blocks, places=places, dropout=dropout)
            )
        self.interests = InterestAttention(dimension=dimension, interests=interests) if interests > 1 else None
        width = self.features.width + (3 if interests > 1 else 2) * dimension
        self.deep = MLP(inputs=width, hidden=hidden, dropout=dropout)
        self.out = nn.Linear(hidden[-1], dimension)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        query, mask = self.features(inputs), inputs["history_mask"]
        history = self.history({**inputs, "history_codes": self.dropped(inputs["history_codes"])})
        mean = history.sum(1) / mask.sum(-1, keepdim=True).clamp(min=1.0)
        known = torch.cat([query, self.attention(query, history, mask), mean], dim=-1)
        if self.interests is not None:
            interests = self.interests(history, mask)
            known = torch.cat([known.unsqueeze(1).expand(-1, interests.shape[1], -1), interests], dim=-1)
        return normalize(self.out(self.deep(known)), dim=-1)


class TwoTower(nn.Module):
    """Two towers that share the video embeddings between candidates and history.

    id_dropout  probability of masking the viewer's id and the ids of the history in training
    table       builds the table of a video's codes, one of nn/id_tables.py
    """

    def __init__(
        self,
        *,
        sizes: InputSizes,
        embedding: int,
        hidden: tuple[int, ...],
        dimension: int,
        heads: int,
        dropout: float,
        id_dropout: float = 0.0,
        encoder: str = "attention",
        blocks: int = 1,
        places: int = 50,
        interests: int = 1,
        table: partial = FULL,
    ) -> None:
        super().__init__()
        videos = VideoFeatures(sizes=sizes, dimension=embedding, table=table)
        self.video = VideoTower(sizes=sizes, features=videos, hidden=hidden, dimension=dimension, dropout=dropout)
        self.query = QueryTower(
            sizes=sizes,
            videos=videos,
            embedding=embedding,
            hidden=hidden,
            dimension=dimension,
            heads=heads,
            dropout=dropout,
            id_dropout=id_dropout,
            encoder=encoder,
            blocks=blocks,
            places=places,
            interests=interests,
        )


class OneViewer(nn.Module):
    """Wrap a query tower for export and serving: inputs of one viewer > (K, dimension), one row per interest."""

    def __init__(self, query: nn.Module) -> None:
        super().__init__()
        self.query = query

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.query(inputs).flatten(0, -2)
