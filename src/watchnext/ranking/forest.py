"""Boosted trees as they score: plain arrays, read by a compiled loop, in training and in the server alike."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.kernels import kernel

INPUT = "trees"  # what an exported network reads the logits of its trees from
VALUES = ("query_values", "candidate_values", "user_values", "video_values")
CODES = ("context_codes", "user_codes", "video_codes")
BLOCK = 64  # rows that go through all trees together, so that their columns stay near the processor


@dataclass(frozen=True)
class Columns:
    """Network inputs > one row of numbers each: values, codes as numbers, tags, the content vector, and the history in sums.

    watches  how many of the last watches stand in their own columns (gap, seconds, outcomes)
    kept     of each of CODES, the places that are read
    """

    watches: int
    kept: Mapping[str, list[int]]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Columns (N, width) float32, and which of them (width,) the inputs give once for all rows."""
        rows = len(inputs["video_codes"])
        parts = [inputs[name] for name in VALUES if name in inputs]
        parts += [inputs[name][:, self.kept[name]] for name in CODES if name in inputs]
        parts += [inputs["video_tags"], inputs["video_vector"], *self._history(inputs)]
        found = np.empty((rows, sum(part.shape[1] for part in parts)), np.float32)
        once, at = np.zeros(found.shape[1], bool), 0
        for part in parts:
            found[:, at : at + part.shape[1]] = part
            once[at : at + part.shape[1]] = len(part) == 1
            at += part.shape[1]
        return found, once

    def _history(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The last watches, their means, how many there are, and how many of them share each code with the candidate."""
        mask, values = inputs["history_mask"], inputs["history_values"] * inputs["history_mask"][..., None]
        count = mask.sum(1, keepdims=True)
        last = np.zeros((len(values), self.watches, values.shape[2]), values.dtype)
        last[:, : values.shape[1]] = values[:, : self.watches]
        codes = inputs["video_codes"][:, None]
        same = (inputs["history_codes"] == codes) & (codes > 0) & (mask[..., None] > 0)
        return [last.reshape(len(last), -1), values.sum(1) / np.maximum(count, 1.0), count, same.sum(1)]


@dataclass(frozen=True)
class Nodes:
    """Trees of all targets. A row goes left where its number is below; a leaf leads to itself.

    feature, threshold, left, right, value  (nodes,); children stand behind their parents
    roots, target  (trees,): where each begins, and the column of the logits that its leaf is added to
    intercept      (targets,)
    """

    feature: np.ndarray
    threshold: np.ndarray
    left: np.ndarray
    right: np.ndarray
    value: np.ndarray
    roots: np.ndarray
    target: np.ndarray
    intercept: np.ndarray

    def logits(self, columns: np.ndarray, once: np.ndarray) -> np.ndarray:
        """(N, targets) float32 of columns (N, width) float32; those `once` (width,) are alike in all rows. What they decide is
        decided before any row is read: of the trees, a viewer's candidates only meet the splits that tell them apart."""
        found = np.tile(self.intercept, (len(columns), 1))
        _add(columns, once & (len(columns) > 1), self.feature, self.threshold, self.left, self.right, self.value, self.roots,
             self.target, found)  # fmt: skip
        return found


@kernel(boundscheck=False)
def _add(columns, once, feature, threshold, left, right, value, roots, target, found):
    nodes = feature.size
    to = np.arange(nodes).astype(np.int32)  # the first node below that a row's own columns decide, or a leaf
    children, height = np.empty(2 * nodes, np.int32), np.zeros(nodes, np.int32)
    for n in range(nodes - 1, -1, -1):
        below, above = to[left[n]], to[right[n]]
        children[2 * n], children[2 * n + 1] = below, above
        if left[n] != n:
            if once[feature[n]]:
                to[n] = below if columns[0, feature[n]] < threshold[n] else above
            height[n] = 1 + max(height[below], height[above])
    at = np.empty(BLOCK, np.int32)
    for start in range(0, len(columns), BLOCK):
        rows = min(BLOCK, len(columns) - start)
        for tree in range(roots.size):
            root, column = to[roots[tree]], target[tree]
            at[:rows] = root
            for _ in range(height[root]):
                for row in range(rows):  # no branch, as where a row goes cannot be guessed; a leaf leads to itself
                    n = at[row]
                    at[row] = children[2 * n + (columns[start + row, feature[n]] >= threshold[n])]
            for row in range(rows):
                found[start + row, column] += value[at[row]]


@dataclass(frozen=True)
class Forest:
    """What a release holds of a network's trees."""

    columns: Columns
    nodes: Nodes

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits (C, targets) of candidates whose viewer's inputs have C rows, or one."""
        return self.nodes.logits(*self.columns(inputs))

    def save(self, folder: Path) -> None:
        kept = {f"kept.{name}": np.array(places, np.int32) for name, places in self.columns.kept.items()}
        arrays = {field.name: getattr(self.nodes, field.name) for field in fields(Nodes)}
        save_arrays(folder, arrays | kept | {"watches": np.array([self.columns.watches], np.int32)})

    @classmethod
    def load(cls, folder: Path) -> "Forest":
        arrays = {name: np.array(values) for name, values in load_arrays(folder).items()}
        kept = {name: arrays[f"kept.{name}"].tolist() for name in CODES}
        nodes = Nodes(*(arrays[field.name] for field in fields(Nodes)))
        return cls(Columns(int(arrays["watches"][0]), kept), nodes)
