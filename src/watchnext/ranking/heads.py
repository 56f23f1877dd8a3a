"""Logits > predictions: one column a target, in the order of types.TARGETS."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.types import TARGETS

WATCH = TARGETS.index("watch_s")
LOG_SECONDS = 12.0  # log1p of 45 hours: no prediction is longer


def predictions(logits: Tensor) -> Tensor:
    """(N, T) probabilities, and expected seconds for the watch-time column, which the network gives as log1p seconds."""
    probabilities = logits.sigmoid()
    seconds = logits[:, WATCH].clamp(0.0, LOG_SECONDS).expm1()
    return torch.cat([probabilities[:, :WATCH], seconds.unsqueeze(-1), probabilities[:, WATCH + 1 :]], dim=-1)


class Scorer(nn.Module):
    """A ranking network as serving calls it: inputs > predictions (C, T)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return predictions(self.network(inputs))


class MultiTask(nn.Module):
    """Weighted sum over targets: cross entropy for outcomes, Huber on log1p seconds for watch time.

    weights  target > weight; a target that is not named is not trained. Raises ValueError for a misspelt one.
    """

    def __init__(self, *, weights: Mapping[str, float]) -> None:
        super().__init__()
        if unknown := [name for name in weights if name not in TARGETS]:
            raise ValueError(f"the loss weighs {unknown[0]!r}, expected some of {', '.join(TARGETS)}")
        self.register_buffer("weights", torch.tensor([float(weights.get(name, 0.0)) for name in TARGETS]), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        outcomes = nn.functional.binary_cross_entropy_with_logits(logits, targets.clamp(0.0, 1.0), reduction="none")
        seconds = nn.functional.smooth_l1_loss(logits[:, WATCH], targets[:, WATCH].log1p(), reduction="none")
        losses = torch.cat([outcomes[:, :WATCH], seconds.unsqueeze(-1), outcomes[:, WATCH + 1 :]], dim=-1)
        return (losses.mean(0) * self.weights).sum()
