"""Watch time as ordinal classification: one classifier per threshold."""

import math

import numpy as np
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from watchnext.ranking.watch_time.duration_groups import duration_edges, table
from watchnext.ranking.watch_time.expectation import group_of
from watchnext.ranking.watch_time.head import WatchTime


def levels(count: int, adaptivity: float) -> np.ndarray:
    """Return ascending quantiles (count,) from 0: the error-adaptive discretisation of CREAD. `adaptivity` 0 spaces them
    evenly; higher values place more thresholds at long watches, where the restoration error is largest."""
    even = np.arange(count) / count
    return even if not adaptivity else -np.expm1(-adaptivity * even) / -math.expm1(-adaptivity)


def mean_widths(watch_s: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Compute the mean seconds (L,) that watches beyond a threshold spend before the next one. Weighted by the shares beyond
    each threshold, they sum to the mean watch."""
    gap = np.append(np.diff(thresholds), np.inf)
    spent = np.clip(watch_s[:, None] - thresholds, 0.0, gap)
    beyond = (watch_s[:, None] > thresholds).sum(0)
    return np.divide(spent.sum(0), beyond, out=np.zeros(len(thresholds)), where=beyond > 0)


class Ordinal(WatchTime):
    """Classification and restoration (CREAD; Sun et al., AAAI 2024): one classifier per threshold; seconds are the sum of
    probabilities times the seconds of each threshold.

    Deviations: thresholds per duration group; a threshold counts the mean seconds that training rows spent before the next
    one, where the paper counts the whole distance and overestimates; squared loss on restored seconds, because Huber's is not
    minimal at the mean.

    restoration  weight of the restoration loss, in units of the group's mean watch
    order        weight of the penalty on probabilities that rise with the threshold
    """

    kind = "ordinal"

    def __init__(
        self,
        *,
        thresholds: int = 24,
        groups: int = 8,
        adaptivity: float = 2.0,
        restoration: float = 0.05,
        order: float = 0.1,
    ) -> None:
        of_groups = dict.fromkeys(("thresholds", "widths"), (1 + groups, thresholds))
        super().__init__(logits=thresholds, shapes={"edges": (groups,), "mean": (1 + groups,), **of_groups})
        self.adaptivity, self.restoration, self.order = adaptivity, restoration, order

    def _fitted(self, watch_s: np.ndarray, duration_s: np.ndarray) -> dict[str, np.ndarray]:
        edges = duration_edges(duration_s, len(self.edges))
        at = levels(self.logits, self.adaptivity)

        def thresholds(part: np.ndarray) -> np.ndarray:
            return np.append(0.0, np.quantile(part, at[1:]))  # the first threshold is 0, below the shortest watch

        return {
            "edges": edges,
            "mean": np.maximum(table(np.mean, watch_s, duration_s, edges), 1e-3),
            "thresholds": table(thresholds, watch_s, duration_s, edges),
            "widths": table(lambda part: mean_widths(part, thresholds(part)), watch_s, duration_s, edges),
        }

    def _losses(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor:
        group = group_of(duration_s, self.edges)
        beyond = (watch_s[:, None] > self.thresholds[group]).to(logits)
        classified = binary_cross_entropy_with_logits(logits, beyond, reduction="none").mean(-1)
        missed = (self.seconds(logits, duration_s) - watch_s) / self.mean[group]
        unordered = logits.sigmoid().diff(dim=-1).clamp(min=0.0).sum(-1)
        return classified + self.restoration * missed.square() + self.order * unordered
