"""D2Q: predict the quantile of a watch among videos of similar duration."""

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from watchnext.ranking.watch_time.duration_groups import duration_edges, middle_quantile, table
from watchnext.ranking.watch_time.expectation import group_of
from watchnext.ranking.watch_time.head import WatchTime


class DurationQuantile(WatchTime):
    """Duration-deconfounded quantiles (D2Q; Zhan et al., KDD 2022): groups of equal size by duration, the quantile within the
    group as target, its inverse as prediction.

    Deviation: cross entropy against the quantile instead of its squared error; both are minimal at its mean. The inverse of a
    mean quantile is not the mean of seconds, so the seconds are biased; `curves.fit_isotonic` corrects this.
    """

    kind = "duration_quantile"

    def __init__(self, *, groups: int = 8, knots: int = 101) -> None:
        super().__init__(logits=1, shapes={"edges": (groups,), "knots": (1 + groups, knots), "steps": (knots,)})

    def _fitted(self, watch_s: np.ndarray, duration_s: np.ndarray) -> dict[str, np.ndarray]:
        edges = duration_edges(duration_s, len(self.edges))
        steps = np.arange(len(self.steps))
        knots = table(lambda part: np.quantile(part, steps / steps[-1]), watch_s, duration_s, edges)
        return {"edges": edges, "knots": knots, "steps": steps}

    @torch.no_grad()
    def quantiles(self, watch_s: Tensor, duration_s: Tensor) -> Tensor:
        """Return targets (N,) in [0, 1]."""
        knots = self.knots[group_of(duration_s, self.edges)]
        result = middle_quantile(watch_s.cpu().numpy(), knots.cpu().numpy())
        return torch.from_numpy(result).to(watch_s)

    def _losses(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits[:, 0], self.quantiles(watch_s, duration_s), reduction="none")
