"""Logits > predictions: one column a target, in the order of types.TARGETS."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.ranking.watch_time.expectation import from_log
from watchnext.types import TARGETS

WATCH = TARGETS.index("watch_s")


def outcome(head: str, *, told: str) -> int:
    """The column of a head that predicts an outcome. Raises ValueError, which begins with `told`, for watch time and for a
    misspelt one."""
    if head not in TARGETS or TARGETS.index(head) == WATCH:
        raise ValueError(f"{told} {head!r}, expected one of {', '.join(name for name in TARGETS if name != TARGETS[WATCH])}")
    return TARGETS.index(head)


def predictions(logits: Tensor) -> Tensor:
    """(N, T) probabilities, and expected seconds for the watch-time column, which the network gives as log1p seconds."""
    probabilities = logits.sigmoid()
    seconds = from_log(logits[:, WATCH])
    return torch.cat([probabilities[:, :WATCH], seconds.unsqueeze(-1), probabilities[:, WATCH + 1 :]], dim=-1)


class Scorer(nn.Module):
    """A ranking network as serving calls it: inputs > predictions (C, T)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return predictions(self.network(inputs))
