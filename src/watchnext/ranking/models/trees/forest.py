"""Score boosted trees from plain arrays with a compiled loop, in training and in the server."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.kernels import kernel

INPUT = "trees"  # input of an exported network that holds the logits of its trees
VALUES = ("query_values", "candidate_values", "user_values", "video_values")
CODES = ("context_codes", "user_codes", "video_codes")
BLOCK = 256  # rows scored together, so that their columns stay in the cache
LEAVES = 32  # most leaves of a tree: one bit each


@dataclass(frozen=True)
class TreeInputs:
    """Flatten network inputs to columns: values, codes as numbers, tags, content vector, and history aggregates.

    watches  last watches with columns of their own (gap, seconds, outcomes)
    kept     columns to read of each of CODES
    """

    watches: int
    kept: Mapping[str, list[int]]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return columns (width, N) float32, and a mask (width,) of columns that are equal in all rows."""
        rows = len(inputs["video_codes"])
        parts = [inputs[name] for name in VALUES if name in inputs]
        parts += [inputs[name][:, self.kept[name]] for name in CODES if name in inputs]
        parts += [inputs["video_tags"], inputs["video_vector"], *self._history(inputs)]
        out = np.empty((sum(part.shape[1] for part in parts), rows), np.float32)
        once, at = np.zeros(len(out), bool), 0
        for part in parts:
            out[at : at + part.shape[1]] = part.T
            once[at : at + part.shape[1]] = len(part) == 1 < rows
            at += part.shape[1]
        return out, once

    def _history(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Aggregate the history: last watches, means, count, and the number of watches that share each code."""
        mask, values = inputs["history_mask"], inputs["history_values"] * inputs["history_mask"][..., None]
        count = mask.sum(1, keepdims=True)
        last = np.zeros((len(values), self.watches, values.shape[2]), values.dtype)
        last[:, : values.shape[1]] = values[:, : self.watches]
        same = _shared(inputs["video_codes"], inputs["history_codes"], mask)
        return [last.reshape(len(last), -1), values.sum(1) / np.maximum(count, 1.0), count, same]


@kernel
def _shared(codes, history, mask):
    """Count watches with the candidate's code: codes (C, F), history (B, H, F), mask (B, H), B = C or 1 > (C, F)."""
    out = np.zeros(codes.shape, np.float32)
    for row in range(len(codes)):
        viewer = row if len(history) > 1 else 0
        for watch in range(history.shape[1]):
            if mask[viewer, watch] > 0:
                for code in range(codes.shape[1]):
                    out[row, code] += 0 < codes[row, code] == history[viewer, watch, code]
    return out


@dataclass(frozen=True)
class Splits:
    """Trees of all targets. A row goes right at a split where its number is not below `threshold`.

    QuickScorer (Lucchese et al., SIGIR 2015) finds leaves without traversal: leaves are bits from left to right; each split
    that sends a row right clears the leaves on its left, in any order; the lowest remaining bit is the leaf. Many rows are
    processed per split.

    feature, threshold  (splits,), grouped by tree
    below, above        (splits,) int32: the leaves on the left and on the right, bit by bit
    first               (trees + 1,): first split of each tree
    value               (trees, LEAVES)
    target              (trees,): logit column of each tree
    intercept           (targets,)
    """

    feature: np.ndarray
    threshold: np.ndarray
    below: np.ndarray
    above: np.ndarray
    first: np.ndarray
    value: np.ndarray
    target: np.ndarray
    intercept: np.ndarray

    def logits(self, columns: np.ndarray, once: np.ndarray) -> np.ndarray:
        """Score columns (width, N) float32 > (N, targets) float32. Columns marked `once` (width,) are equal in all rows: their
        splits are evaluated once, so candidates only pass the splits that differ between them."""
        out = np.repeat(self.intercept[:, None], columns.shape[1], axis=1)
        _add(columns, once, self.feature, self.threshold, self.below, self.above, self.first, self.value, self.target, out)
        return out.T


@kernel(boundscheck=False)
def _add(columns, once, feature, threshold, below, above, first, value, target, out):
    alive = np.empty(target.size, np.int32)  # leaves left after the constant columns
    met, last = np.empty(feature.size, np.int32), np.empty(target.size, np.int32)  # remaining splits per tree
    count = 0
    for tree in range(target.size):
        leaves = np.int32(-1)
        for split in range(first[tree], first[tree + 1]):
            if once[feature[split]]:
                leaves &= ~(above[split] if columns[feature[split], 0] < threshold[split] else below[split])
        for split in range(first[tree], first[tree + 1]):
            if not once[feature[split]] and leaves & below[split]:
                met[count] = split
                count += 1
        alive[tree], last[tree] = leaves, count
    left, lowest = np.empty(BLOCK, np.int32), np.empty(BLOCK, np.float32)
    bits = lowest.view(np.int32)
    for start in range(0, columns.shape[1], BLOCK):
        rows = min(BLOCK, columns.shape[1] - start)
        at = 0
        for tree in range(target.size):
            left[:rows] = alive[tree]
            while at < last[tree]:
                split = met[at]
                column, border, kept = columns[feature[split], start : start + rows], threshold[split], ~below[split]
                for row in range(rows):
                    left[row] &= kept if column[row] >= border else np.int32(-1)
                at += 1
            for row in range(rows):  # the exponent of a power of two is its bit number
                lowest[row] = np.float32(left[row] & -left[row])
            leaf, sums = value[tree], out[target[tree], start : start + rows]
            for row in range(rows):
                sums[row] += leaf[((bits[row] >> 23) & 255) - 127]


@dataclass(frozen=True)
class Forest:
    """Trees of a network as a release stores them."""

    columns: TreeInputs
    splits: Splits

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Compute logits (C, targets); the viewer's inputs have C rows, or one."""
        return self.splits.logits(*self.columns(inputs))

    def save(self, folder: Path) -> None:
        kept = {f"kept.{name}": np.array(kept_columns, np.int32) for name, kept_columns in self.columns.kept.items()}
        arrays = {field.name: getattr(self.splits, field.name) for field in fields(Splits)}
        save_arrays(folder, arrays | kept | {"watches": np.array([self.columns.watches], np.int32)})

    @classmethod
    def load(cls, folder: Path) -> "Forest":
        arrays = {name: np.array(values) for name, values in load_arrays(folder).items()}
        kept = {name: arrays[f"kept.{name}"].tolist() for name in CODES}
        splits = Splits(*(arrays[field.name] for field in fields(Splits)))
        return cls(TreeInputs(int(arrays["watches"][0]), kept), splits)
