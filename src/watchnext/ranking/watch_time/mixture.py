"""Watch time as a mixture distribution: skipped, left early, left late, watched to the end or longer."""

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from watchnext.ranking.watch_time.duration_groups import duration_edges, table
from watchnext.ranking.watch_time.expectation import components, group_of, longest
from watchnext.ranking.watch_time.head import WatchTime

NODES = 12
NARROWEST = 1e-4  # least distance from the ends of the support: log odds stay within 9.3
MOST_WATCHED = 0.999  # the support extends beyond this quantile of the watch ratio


class Mixture(WatchTime):
    """Mixture of a point mass at 0 and logit-normal components of the watched part, fitted by maximum likelihood.

    Like zero-inflated lognormals (Wang et al., 2019, arXiv:1912.07753), but bounded: the mean of a lognormal depends on an
    unobserved tail, and one wide row makes it hours. The support is (0, cap x duration), with `cap` slightly above the observed
    ratios, or (0, cap seconds) for an unknown duration.
    """

    kind = "mixture"

    def __init__(self, *, components: int = 3, groups: int = 8) -> None:
        rows = 1 + groups
        shapes = {"edges": (groups,), "cap": (rows,), "zero": (rows,), "centre": (rows, components), "spread": (rows,)}
        super().__init__(logits=1 + 3 * components, shapes={**shapes, "nodes": (NODES,), "masses": (NODES,)})

    def _fitted(self, watch_s: np.ndarray, duration_s: np.ndarray) -> dict[str, np.ndarray]:
        edges = duration_edges(duration_s, len(self.edges))
        ratio = watch_s / np.where(duration_s > 0, duration_s, 1.0)
        cap = 1.05 * np.maximum(table(lambda part: np.quantile(part, MOST_WATCHED), ratio, duration_s, edges), 1e-3)
        if not (duration_s <= 0).any():  # without unknown durations, row 0 would hold a ratio instead of seconds
            cap[0] = 1.05 * max(np.quantile(watch_s, MOST_WATCHED), 1e-3)
        part = watch_s / longest({"cap": cap}, duration_s, group_of(duration_s, edges))
        odds = table(self._start, part, duration_s, edges)
        nodes, masses = np.polynomial.hermite_e.hermegauss(NODES)
        return {"edges": edges, "cap": cap, "zero": odds[:, 0], "spread": odds[:, 1], "centre": odds[:, 2:],
                "nodes": nodes, "masses": masses / masses.sum()}  # fmt: skip

    def _start(self, part: np.ndarray) -> np.ndarray:
        """Estimate log odds of watch 0, component spread and component centres from the watched parts of the support."""
        zero = (np.count_nonzero(part <= 0) + 0.5) / (len(part) + 1.0)
        watched = np.clip(part[part > 0], NARROWEST, 1 - NARROWEST)
        log_odds = np.log(watched / (1 - watched)) if len(watched) else np.zeros(1)
        count = (self.logits - 1) // 3
        centres = np.quantile(log_odds, (np.arange(count) + 0.5) / count)
        return np.array([math.log(zero / (1 - zero)), max(log_odds.std() / count, 0.1), *centres])

    def _losses(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor:
        group = group_of(duration_s, self.edges)
        zero, weights, location, scale = components(self._arrays(), logits, group)
        part = (watch_s / longest(self._arrays(), duration_s, group)).clamp(NARROWEST, 1 - NARROWEST)
        standard = (part.logit()[:, None] - location) / scale
        densities = weights.log_softmax(-1) - 0.5 * standard.square() - scale.log()  # constants left out
        watched = logsigmoid(-zero) + densities.logsumexp(-1)
        return -torch.where(watch_s > 0, watched, logsigmoid(zero))
