"""Watch time by a binary tree: each node predicts the upper half of its range."""

import numpy as np
from torch import Tensor

from watchnext.ranking.watch_time.duration_groups import duration_edges, table
from watchnext.ranking.watch_time.expectation import group_of, log_leaves
from watchnext.ranking.watch_time.head import WatchTime


def turns(depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays (nodes, leaves): 1 where the path to a leaf turns right, and left, at an inner node, breadth first."""
    leaves = np.arange(2**depth)
    result = np.zeros((2, 2**depth - 1, 2**depth))
    for level in range(depth):
        node = 2**level - 1 + (leaves >> (depth - level))
        result[1 - ((leaves >> (depth - level - 1)) & 1), node, leaves] = 1.0
    return result[0], result[1]


def leaf_means(watch_s: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Compute the mean seconds of each leaf (leaves,); an empty leaf, caused by equal bounds, takes its lower bound."""
    leaf = (watch_s[:, None] > bounds).sum(1)
    rows, leaves = np.bincount(leaf, minlength=len(bounds) + 1), len(bounds) + 1
    return np.divide(np.bincount(leaf, watch_s, leaves), rows, out=np.append(bounds[0], bounds), where=rows > 0)


class Tree(WatchTime):
    """Tree-based progressive regression (TPM; Lin et al., KDD 2023): leaves are quantile ranges of equal size, every inner node
    predicts the upper half, and seconds are the mean over leaves.

    Deviations: leaves per duration group; no loss terms for the variance and the squared error of the seconds.
    """

    kind = "tree"

    def __init__(self, *, depth: int = 4, groups: int = 8) -> None:
        nodes, leaves = 2**depth - 1, 2**depth
        tables = {"bounds": (1 + groups, nodes), "means": (1 + groups, leaves)}
        paths = dict.fromkeys(("right", "left"), (nodes, leaves))
        super().__init__(logits=nodes, shapes={"edges": (groups,), **tables, **paths})
        self.depth = depth

    def _fitted(self, watch_s: np.ndarray, duration_s: np.ndarray) -> dict[str, np.ndarray]:
        edges, at = duration_edges(duration_s, len(self.edges)), np.arange(1, 2**self.depth) / 2**self.depth
        right, left = turns(self.depth)
        return {
            "edges": edges,
            "bounds": table(lambda part: np.quantile(part, at), watch_s, duration_s, edges),
            "means": table(lambda part: leaf_means(part, np.quantile(part, at)), watch_s, duration_s, edges),
            "right": right,
            "left": left,
        }

    def _losses(self, logits: Tensor, watch_s: Tensor, duration_s: Tensor) -> Tensor:
        leaf = (watch_s[:, None] > self.bounds[group_of(duration_s, self.edges)]).sum(-1)
        return -log_leaves(self._arrays(), logits).gather(1, leaf[:, None]).squeeze(1)
