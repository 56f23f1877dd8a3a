"""Attention over a viewer's history."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.embeddings import VideoFeatures

FAR = -1e9  # logit of an empty or masked position


class History(nn.Module):
    """Encode watches as vectors (B, H, dimension): video features plus gap, seconds and outcomes. Empty positions are zeros."""

    def __init__(self, *, sizes: InputSizes, videos: VideoFeatures, dimension: int) -> None:
        super().__init__()
        self.videos = videos
        self.project = nn.Linear(videos.width + sizes.history, dimension)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        watched = self.videos(inputs["history_codes"], inputs["history_tags"], inputs["history_vector"])
        vectors = self.project(torch.cat([watched, inputs["history_values"]], dim=-1))
        return vectors * inputs["history_mask"].unsqueeze(-1)


class PooledAttention(nn.Module):
    """Pool a history by attention from a query: (B, Q), (B, H, D), mask (B, H) > (B, D). An empty history gives the bias."""

    def __init__(self, *, query: int, dimension: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(query, dimension)
        self.key = nn.Linear(dimension, dimension)
        self.out = nn.Linear(dimension, dimension)

    def forward(self, query: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        rows, places, width = history.shape
        head = width // self.heads
        q = self.query(query).view(-1, self.heads, 1, head)
        k = self.key(history).view(rows, places, self.heads, head).transpose(1, 2)
        v = history.view(rows, places, self.heads, head).transpose(1, 2)
        logits = (q * k).sum(-1) / head**0.5
        weights = logits.masked_fill(mask.unsqueeze(1) < 0.5, FAR).softmax(-1)
        return self.out((weights.unsqueeze(-1) * v).sum(2).reshape(-1, width))


class InterestAttention(nn.Module):
    """Pool a history into K interests: (B, H, D), mask (B, H) > (B, K, D), each by attention from a learned query (ComiRec-SA,
    Cen et al., KDD 2020). Deviation: each interest has a learned offset, which is its value for an empty history."""

    def __init__(self, *, dimension: int, interests: int) -> None:
        super().__init__()
        self.key = nn.Linear(dimension, dimension)
        self.weigh = nn.Linear(dimension, interests, bias=False)
        self.start = nn.Parameter(torch.randn(interests, dimension) * dimension**-0.5)

    def forward(self, history: Tensor, mask: Tensor) -> Tensor:
        logits = self.weigh(torch.tanh(self.key(history))).transpose(1, 2)
        weights = logits.masked_fill(mask.unsqueeze(1) < 0.5, FAR).softmax(-1)
        return self.start + weights @ history


class TargetAttention(nn.Module):
    """Pool a history by attention from each candidate (DIN, Zhou et al., KDD 2018).

    (C, D) candidates, (B, H, D) history with B = C or B = 1 (one viewer), mask (B, H) > (C, D). The activation unit is an MLP
    over history, candidate and their product; deviation: ReLU instead of Dice, so that one row and a batch agree.
    """

    def __init__(self, *, dimension: int, hidden: int) -> None:
        super().__init__()
        # The first layer is split by input: the viewer's part is computed once per request, not once per candidate.
        self.of_history = nn.Linear(dimension, hidden)
        self.of_candidate = nn.Linear(dimension, hidden, bias=False)
        self.of_product = nn.Linear(dimension, hidden, bias=False)
        self.activate = nn.ReLU()
        self.weigh = nn.Linear(hidden, 1)

    def forward(self, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        hidden = (self._of_one_viewer if torch.jit.is_tracing() else self._of_each)(candidate, history)
        weights = self.weigh(self.activate(hidden)).squeeze(-1) * mask
        # Not a softmax: as in DIN, the strength of interest may grow with the number of related watches.
        return _by_viewer(weights, history) / mask.sum(-1, keepdim=True).clamp(min=1.0).sqrt()

    def _of_each(self, candidate: Tensor, history: Tensor) -> Tensor:
        target = candidate.unsqueeze(1)
        return self.of_history(history) + self.of_candidate(target) + self.of_product(history * target)

    def _of_one_viewer(self, candidate: Tensor, history: Tensor) -> Tensor:
        """Compute `_of_each` for one viewer: terms linear in the candidate form one matrix per watch."""
        matrices = self.of_candidate.weight + self.of_product.weight * history[0].unsqueeze(1)  # (H, hidden, D)
        hidden = candidate @ matrices.flatten(0, 1).T + self.of_history(history).flatten(1)
        return hidden.unflatten(1, (history.shape[1], -1))


class ProductAttention(nn.Module):
    """Pool a history by one product of each candidate with each watch: a cheap `TargetAttention`.

    (C, D) candidates, (B, H, D) history with B = C or B = 1 (one viewer), mask (B, H) > (C, D). The activation unit of DIN is
    ReLU(candidate * watch + bias of the watch) here, so one viewer's candidates are one matrix product.
    """

    def __init__(self, *, dimension: int) -> None:
        super().__init__()
        self.bias = nn.Linear(dimension, 1)

    def forward(self, candidate: Tensor, history: Tensor, mask: Tensor) -> Tensor:
        related = _by_viewer(candidate, history.transpose(1, 2)) + self.bias(history).squeeze(-1)
        return _by_viewer(related.relu() * mask, history) / mask.sum(-1, keepdim=True).clamp(min=1.0).sqrt()


class ContentAffinity(nn.Module):
    """Similarity of a candidate's content to the watched videos, without parameters: (C, history values + 1).

    Mean over the history of the cosine of content vectors, plain and weighted by each history value (gap, seconds, outcomes).
    (C, V) candidate vectors, (B, H, V) history vectors, (B, H, values), mask (B, H), B = C or 1. A missing vector counts as 0.
    """

    def forward(self, candidate: Tensor, history: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        # A mean of cosines is the cosine with a mean: the viewer's part is computed once. The last column flags a present
        # vector and is not part of the direction.
        weights = torch.cat([mask.unsqueeze(-1), values * mask.unsqueeze(-1)], dim=-1)
        directions = history[..., :-1].transpose(1, 2) @ weights / mask.sum(-1).clamp(min=1.0)[:, None, None]
        return _by_viewer(candidate[:, :-1], directions)


def _by_viewer(rows: Tensor, matrices: Tensor) -> Tensor:
    """Multiply (C, M) rows by the matrix (B, M, N) of their viewer, B = C or 1: (C, N). A batched matrix product avoids an
    intermediate of (C, M, N) numbers."""
    if torch.jit.is_tracing():  # an exported network always serves one viewer; a trace cannot branch on the shape
        return rows @ matrices[0]
    return (rows.unsqueeze(1) @ matrices).squeeze(1)
