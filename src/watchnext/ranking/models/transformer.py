"""Transformer over a viewer's history and each candidate."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.attention import FAR, History
from watchnext.nn.embeddings import VideoFeatures


class BehaviourTransformer(nn.Module):
    """Apply `blocks` of self-attention over history and candidate, as in the Behavior Sequence Transformer (Chen et al.,
    DLP-KDD 2019): candidate features (C, V) > candidate states (C, width).

    Deviations: watches do not attend to the candidate, so that their states are computed once per request; pre-norm; the gap of
    each watch replaces a learned position; only the candidate's state is returned.
    """

    def __init__(
        self, *, sizes: InputSizes, videos: VideoFeatures, dimension: int, heads: int, blocks: int, dropout: float
    ) -> None:
        super().__init__()
        if dimension % heads:
            raise ValueError(f"{heads} heads do not divide the dimension {dimension}; choose a divisor")
        self.history = History(sizes=sizes, videos=videos, dimension=dimension)
        self.candidate = nn.Linear(videos.width, dimension)
        self.blocks = nn.ModuleList(_CandidateBlock(dimension=dimension, heads=heads, dropout=dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(dimension)
        self.width = dimension

    def forward(self, video: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Accept viewer inputs with C rows, or one row shared by all candidates."""
        watched, candidate = self.history(inputs), self.candidate(video)
        barred = (1.0 - inputs["history_mask"]) * FAR
        for index, block in enumerate(self.blocks):
            seen = block.before_attention(watched)
            candidate = block.of_candidate(candidate, seen, barred)
            if index + 1 < len(self.blocks):  # watch states are not used after the last block
                watched = block.of_history(watched, seen, barred)
        return self.norm(candidate)


class _CandidateBlock(nn.Module):
    """Apply attention and a feed-forward layer, each with a residual; history and candidate share the weights."""

    def __init__(self, *, dimension: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.scale = heads, (dimension // heads) ** -0.5
        self.before_attention, self.before_deep = nn.LayerNorm(dimension), nn.LayerNorm(dimension)
        self.query, self.key, self.value, self.out = (nn.Linear(dimension, dimension) for _ in range(4))
        self.deep = nn.Sequential(nn.Linear(dimension, 2 * dimension), nn.GELU(), nn.Dropout(dropout),
                                  nn.Linear(2 * dimension, dimension))  # fmt: skip
        self.dropout = nn.Dropout(dropout)

    def of_candidate(self, candidate: Tensor, seen: Tensor, barred: Tensor) -> Tensor:
        """Attend from candidates (C, D) to the watches `seen` (B, H, D), masked by `barred` (B, H), and to themselves."""
        itself = self.before_attention(candidate)
        query = self._split(self.query(itself)) * self.scale
        keys, values = self._split(self.key(seen)), self._split(self.value(seen))
        far = (query.unsqueeze(1) * keys).sum(-1) + barred.unsqueeze(-1)
        near = (query * self._split(self.key(itself))).sum(-1).unsqueeze(1)
        weights = torch.cat([far, near], dim=1).softmax(1)  # (C, H + 1, heads)
        attended = (weights[:, :-1].unsqueeze(-1) * values).sum(1) + weights[:, -1].unsqueeze(-1) * self._split(
            self.value(itself)
        )
        return self._after(candidate, attended.flatten(-2))

    def of_history(self, watched: Tensor, seen: Tensor, barred: Tensor) -> Tensor:
        """Attend among the watches (B, H, D)."""
        query, keys, values = (self._split(part(seen)).transpose(1, 2) for part in (self.query, self.key, self.value))
        logits = query @ keys.transpose(-1, -2) * self.scale + barred[:, None, None]
        return self._after(watched, (logits.softmax(-1) @ values).transpose(1, 2).flatten(-2))

    def _split(self, states: Tensor) -> Tensor:
        return states.unflatten(-1, (self.heads, -1))

    def _after(self, states: Tensor, attended: Tensor) -> Tensor:
        states = states + self.dropout(self.out(attended))
        return states + self.dropout(self.deep(self.before_deep(states)))
