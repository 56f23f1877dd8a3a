"""Turn logits into predictions: one column per target, in the order of types.TARGETS."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.ranking.watch_time.expectation import from_log
from watchnext.types import TARGETS

WATCH = TARGETS.index("watch_s")


def outcome(head: str, *, prefix: str) -> int:
    """Return the column of an outcome head. Raises ValueError, starting with `prefix`, for watch time or a misspelt name."""
    if head not in TARGETS or TARGETS.index(head) == WATCH:
        raise ValueError(f"{prefix} {head!r}, expected one of {', '.join(name for name in TARGETS if name != TARGETS[WATCH])}")
    return TARGETS.index(head)


def predictions(logits: Tensor) -> Tensor:
    """Convert logits (N, T) to probabilities, and the watch-time column from log1p seconds to expected seconds."""
    probabilities = logits.sigmoid()
    seconds = from_log(logits[:, WATCH])
    return torch.cat([probabilities[:, :WATCH], seconds.unsqueeze(-1), probabilities[:, WATCH + 1 :]], dim=-1)


class Scorer(nn.Module):
    """Wrap a ranking network for serving: inputs > predictions (C, T)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return predictions(self.network(inputs))
