"""Causal sequence encoders: vectors (B, H, D), oldest first, padding last > states (B, H, D).

The state of a position depends on that position and earlier ones only. A history therefore trains all its positions at once,
and padding has no effect.
"""

import torch
from torch import Tensor, nn

from watchnext.nn.attention import FAR


class _CausalBlock(nn.Module):
    """Apply pre-norm causal attention and a feed-forward layer, each with a residual."""

    def __init__(self, *, dimension: int, heads: int, feedforward: int, places: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.places = heads, places
        self.before_attention, self.before_deep = nn.LayerNorm(dimension), nn.LayerNorm(dimension)
        self.query_key_value = nn.Linear(dimension, 3 * dimension)
        self.out = nn.Linear(dimension, dimension)
        self.deep = nn.Sequential(
            nn.Linear(dimension, feedforward), nn.GELU(), nn.Dropout(dropout), nn.Linear(feedforward, dimension)
        )
        self.distance = nn.Parameter(torch.zeros(heads, places))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        states = states + self.dropout(self._attended(self.before_attention(states)))
        return states + self.dropout(self.deep(self.before_deep(states)))

    def _attended(self, states: Tensor) -> Tensor:
        rows, places, width = states.shape
        parts = self.query_key_value(states).view(rows, places, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        logits = q @ k.transpose(-1, -2) * (width // self.heads) ** -0.5 + self._bias(places)
        attended = self.dropout(logits.softmax(-1)) @ v
        return self.out(attended.transpose(1, 2).reshape(rows, places, width))

    def _bias(self, places: int) -> Tensor:
        """Relative position bias (heads, H, H), learned per distance; later positions are masked."""
        at = torch.arange(places, device=self.distance.device)
        back = at[:, None] - at[None, :]
        return self.distance[:, back.clamp(0, self.places - 1)].masked_fill(back < 0, FAR)


class CausalTransformer(nn.Module):
    """Self-attention as in SASRec (Kang & McAuley, ICDM 2018). Deviations: learned relative distances instead of positions
    (Shaw et al., NAACL 2018), shared beyond `places`; GELU; pre-norm."""

    def __init__(self, *, dimension: int, heads: int, blocks: int, feedforward: int, places: int, dropout: float) -> None:
        super().__init__()
        if dimension % heads:
            raise ValueError(f"{heads} heads do not divide the dimension {dimension}; choose a divisor")
        self.blocks = nn.ModuleList(
            _CausalBlock(dimension=dimension, heads=heads, feedforward=feedforward, places=places, dropout=dropout)
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(dimension)

    def forward(self, vectors: Tensor) -> Tensor:
        for block in self.blocks:
            vectors = block(vectors)
        return self.norm(vectors)


class Recurrent(nn.Module):
    """Gated recurrent unit (GRU4Rec, Hidasi et al., ICLR 2016)."""

    def __init__(self, *, dimension: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.cells = nn.GRU(dimension, dimension, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.out = nn.Linear(dimension, dimension)

    def forward(self, vectors: Tensor) -> Tensor:
        states, _ = self.cells(vectors)
        return self.out(states)


class RunningMean(nn.Module):
    """Project the running mean of all positions so far; order does not matter."""

    def __init__(self, *, dimension: int) -> None:
        super().__init__()
        self.out = nn.Linear(dimension, dimension)

    def forward(self, vectors: Tensor) -> Tensor:
        count = torch.arange(1, vectors.shape[1] + 1, device=vectors.device, dtype=vectors.dtype)
        return self.out(vectors.cumsum(1) / count[:, None])


ENCODERS = ("transformer", "recurrent", "mean")


def encoder_of(name: str, *, dimension: int, heads: int, blocks: int, places: int, dropout: float) -> nn.Module:
    """Build the encoder called `name` with `blocks` layers. Raises ValueError listing the known names."""
    if name == "transformer":
        return CausalTransformer(
            dimension=dimension, heads=heads, blocks=blocks, feedforward=2 * dimension, places=places, dropout=dropout
        )
    if name == "recurrent":
        return Recurrent(dimension=dimension, layers=blocks, dropout=dropout)
    if name == "mean":
        return RunningMean(dimension=dimension)
    raise ValueError(f"unknown encoder {name!r}, expected one of {', '.join(ENCODERS)}")
