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
BLOCK = 256  # rows that go through all trees together, so that their columns stay near the processor
LEAVES = 32  # most leaves of a tree: one bit each


@dataclass(frozen=True)
class TreeInputs:
    """Network inputs > columns of numbers: values, codes as numbers, tags, the content vector, and the history in sums.

    watches  how many of the last watches stand in their own columns (gap, seconds, outcomes)
    kept     of each of CODES, the places that are read
    """

    watches: int
    kept: Mapping[str, list[int]]

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Columns (width, N) float32, and which of them (width,) the inputs give once for all rows."""
        rows = len(inputs["video_codes"])
        parts = [inputs[name] for name in VALUES if name in inputs]
        parts += [inputs[name][:, self.kept[name]] for name in CODES if name in inputs]
        parts += [inputs["video_tags"], inputs["video_vector"], *self._history(inputs)]
        found = np.empty((sum(part.shape[1] for part in parts), rows), np.float32)
        once, at = np.zeros(len(found), bool), 0
        for part in parts:
            found[at : at + part.shape[1]] = part.T
            once[at : at + part.shape[1]] = len(part) == 1 < rows
            at += part.shape[1]
        return found, once

    def _history(self, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The last watches, their means, how many there are, and how many of them share each code with the candidate."""
        mask, values = inputs["history_mask"], inputs["history_values"] * inputs["history_mask"][..., None]
        count = mask.sum(1, keepdims=True)
        last = np.zeros((len(values), self.watches, values.shape[2]), values.dtype)
        last[:, : values.shape[1]] = values[:, : self.watches]
        same = _shared(inputs["video_codes"], inputs["history_codes"], mask)
        return [last.reshape(len(last), -1), values.sum(1) / np.maximum(count, 1.0), count, same]


@kernel
def _shared(codes, history, mask):
    """Codes (C, F), history (B, H, F), mask (B, H), B = C or 1 > (C, F): how many watches have the candidate's code."""
    found = np.zeros(codes.shape, np.float32)
    for row in range(len(codes)):
        viewer = row if len(history) > 1 else 0
        for watch in range(history.shape[1]):
            if mask[viewer, watch] > 0:
                for place in range(codes.shape[1]):
                    found[row, place] += 0 < codes[row, place] == history[viewer, watch, place]
    return found


@dataclass(frozen=True)
class Splits:
    """Trees of all targets. A row goes right at a split where its number is not below `threshold`.

    A row's leaf is found without walking (QuickScorer, Lucchese et al., SIGIR 2015): leaves are bits, from left to right, each
    split that sends a row right strikes out the leaves on its left, in any order, and the lowest bit that stays is the leaf. So
    many rows go through a split at once.

    feature, threshold  (splits,); those of a tree stand together
    below, above        (splits,) int32: the leaves on the left and on the right, bit by bit
    first               (trees + 1,): where the splits of a tree begin
    value               (trees, LEAVES)
    target              (trees,): the column of the logits that a tree's leaf is added to
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
        """(N, targets) float32 of columns (width, N) float32; those `once` (width,) are alike in all rows. What they decide is
        decided before any row is read: of the trees, a viewer's candidates only meet the splits that tell them apart."""
        found = np.repeat(self.intercept[:, None], columns.shape[1], axis=1)
        _add(columns, once, self.feature, self.threshold, self.below, self.above, self.first, self.value, self.target, found)
        return found.T


@kernel(boundscheck=False)
def _add(columns, once, feature, threshold, below, above, first, value, target, found):
    alive = np.empty(target.size, np.int32)  # a tree's leaves that the columns `once` leave
    met, last = np.empty(feature.size, np.int32), np.empty(target.size, np.int32)  # the splits that each tree still has
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
            for row in range(rows):  # the exponent of a power of two is the place of its bit
                lowest[row] = np.float32(left[row] & -left[row])
            leaf, sums = value[tree], found[target[tree], start : start + rows]
            for row in range(rows):
                sums[row] += leaf[((bits[row] >> 23) & 255) - 127]


@dataclass(frozen=True)
class Forest:
    """What a release holds of a network's trees."""

    columns: TreeInputs
    splits: Splits

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Logits (C, targets) of candidates whose viewer's inputs have C rows, or one."""
        return self.splits.logits(*self.columns(inputs))

    def save(self, folder: Path) -> None:
        kept = {f"kept.{name}": np.array(places, np.int32) for name, places in self.columns.kept.items()}
        arrays = {field.name: getattr(self.splits, field.name) for field in fields(Splits)}
        save_arrays(folder, arrays | kept | {"watches": np.array([self.columns.watches], np.int32)})

    @classmethod
    def load(cls, folder: Path) -> "Forest":
        arrays = {name: np.array(values) for name, values in load_arrays(folder).items()}
        kept = {name: arrays[f"kept.{name}"].tolist() for name in CODES}
        splits = Splits(*(arrays[field.name] for field in fields(Splits)))
        return cls(TreeInputs(int(arrays["watches"][0]), kept), splits)
