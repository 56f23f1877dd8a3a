"""Boosted trees as plain arrays, scored like any network, so that a release holds and exports them as one."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from watchnext.features.encoding import InputSizes

VALUES = ("query_values", "candidate_values", "user_values", "video_values")
CODES = ("context_codes", "user_codes", "video_codes")


class Columns(nn.Module):
    """Network inputs > one row of numbers each, (N, width): values, codes as numbers, the content vector and its affinity to
    the history, tags, and the history in sums.

    watches      how many of the last watches stand in their own columns (gap, seconds, outcomes)
    cardinality  codes of a feature with more values are left out: a tree would split them by the order of their names
    """

    def __init__(self, *, sizes: InputSizes, watches: int, cardinality: int) -> None:
        super().__init__()
        self.watches = watches
        of = dict(zip(CODES, (sizes.context_codes, sizes.user_codes, sizes.video_codes), strict=True))
        self.kept = {name: [place for place, size in enumerate(of[name]) if size <= cardinality] for name in CODES}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        rows = inputs["video_codes"].shape[0]
        parts = [inputs[name] for name in VALUES if name in inputs]
        parts += [inputs[name][:, self.kept[name]] for name in CODES if name in inputs]
        parts += [inputs["video_tags"], inputs["video_vector"]]
        return torch.cat([part.expand(rows, -1).float() for part in (*parts, *self._history(inputs))], dim=-1)

    def _history(self, inputs: Mapping[str, Tensor]) -> list[Tensor]:
        """The last watches, their means, how many there are, and how many of them share each code with the candidate."""
        mask, values = inputs["history_mask"], inputs["history_values"] * inputs["history_mask"].unsqueeze(-1)
        count = mask.sum(1, keepdim=True)
        last = torch.cat([values, values.new_zeros(values.shape[0], self.watches, values.shape[2])], dim=1)[:, : self.watches]
        codes = inputs["video_codes"].unsqueeze(1)
        same = ((inputs["history_codes"] == codes) & (codes > 0)).float() * mask.unsqueeze(-1)
        return [last.flatten(1), values.sum(1) / count.clamp(min=1.0), count, same.sum(1)]


class Trees(nn.Module):
    """Logits (N, targets) of fitted trees: a network without gradients. Its arrays have one entry a node.

    `feature`, `threshold`: a row goes left where its number is below; `left` and `right` are places in these arrays, a leaf's
    own place; `value` is a leaf's. `roots` (trees,) says where trees begin, `of_target` (trees, targets) what they add to.
    """

    def __init__(
        self, *, sizes: InputSizes, targets: int, watches: int, cardinality: int, trees: int = 1, nodes: int = 1, depth: int = 0
    ) -> None:
        super().__init__()
        self.columns, self.depth = Columns(sizes=sizes, watches=watches, cardinality=cardinality), depth
        for name in ("feature", "left", "right"):
            self.register_buffer(name, torch.zeros(nodes, dtype=torch.int64))
        for name in ("threshold", "value"):
            self.register_buffer(name, torch.zeros(nodes))
        self.register_buffer("roots", torch.zeros(trees, dtype=torch.int64))
        self.register_buffer("of_target", torch.zeros(trees, targets))
        self.register_buffer("intercept", torch.zeros(targets))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.logits(self.columns(inputs))

    def logits(self, columns: Tensor) -> Tensor:
        node = self.roots.unsqueeze(0).expand(columns.shape[0], -1)
        for _ in range(self.depth):
            below = columns.gather(1, self.feature[node]) < self.threshold[node]
            node = torch.where(below, self.left[node], self.right[node])
        return self.value[node] @ self.of_target + self.intercept

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        for name, values in arrays.items():
            getattr(self, name).copy_(torch.from_numpy(values))


def depth_of(arrays: Mapping[str, np.ndarray]) -> int:
    """Steps from the roots until every row has arrived in a leaf."""
    at, steps = arrays["roots"], 0
    while True:
        inner = at[arrays["left"][at] != at]
        if not len(inner):
            return steps
        at, steps = np.concatenate([arrays["left"][inner], arrays["right"][inner]]), steps + 1
