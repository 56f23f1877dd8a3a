"""Watch time as a row of yes-or-no questions: is it longer than this, and than that?"""

import math

import numpy as np
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from watchnext.ranking.watch_time.duration_groups import duration_edges, table
from watchnext.ranking.watch_time.expectation import group_of
from watchnext.ranking.watch_time.head import WatchTime


def levels(count: int, adaptivity: float) -> np.ndarray:
    """(count,) ascending quantiles from 0: the error-adaptive discretisation of CREAD. 0 spaces them evenly; with more, long
    watches, where the error of restoring is, are cut finer."""
    even = np.arange(count) / count
    return even if not adaptivity else -np.expm1(-adaptivity * even) / -math.expm1(-adaptivity)


def mean_widths(watch_s: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(L,) mean seconds between a threshold and the next (the last has no next), of the watches beyond it. With the shares
    beyond them, they add up to the mean watch."""
    gap = np.append(np.diff(thresholds), np.inf)
    spent = np.clip(watch_s[:, None] - thresholds, 0.0, gap)
    beyond = (watch_s[:, None] > thresholds).sum(0)
    return np.divide(spent.sum(0), beyond, out=np.zeros(len(thresholds)), where=beyond > 0)


class Ordinal(WatchTime):
    """Classification and restoration (CREAD; Sun et al., AAAI 2024): one classifier a threshold, and the sum of the
    probabilities times the seconds that each threshold is worth.

    Deviations: thresholds per duration group; a threshold is worth the mean seconds that training rows spent before the next,
    where the paper takes the whole distance, which is too much; the loss on restored seconds is squared, as Huber's is not
    least at the mean.

    restoration  weight of that loss, in units of the group's mean watch
    order        weight of what a probability exceeds the one before it
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
            return np.append(0.0, np.quantile(part, at[1:]))  # from 0 on, whatever the shortest watch

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
