"""Estimate how likely each candidate is to be watched at all, from the evidence of retrieval, its counters and its predictions.

A ranker learns from impressions: its predictions hold for a video that is shown. Among the hundreds of candidates, most of
which no policy would show, they say nothing. `Engage` is fitted on whole candidate lists of held-out requests, with what the
viewer watched afterwards as positives (stacked generalisation: Wolpert, Neural Networks 1992), so that every source and every
prediction counts for as much as it was right about days that it was not trained on.
"""

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.kernels import kernel
from watchnext.ranking.models.trees.forest import Splits
from watchnext.types import SOURCES, TARGETS, Candidates

WATCH = TARGETS.index("watch_s")
NOT_LISTED = 1_000  # rank of a video that a source does not list
RANK_CONSTANT = 60.0
LOG_RANKS = np.log(RANK_CONSTANT + np.append(NOT_LISTED, np.arange(1, 1 << 16))).astype(np.float32)  # by rank, 0 is not listed
LEAST = 1e-6  # probabilities are at least this, and at most 1 minus this; merged scores too


def evidence(candidates: Candidates, values: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Return the columns (E, C) float32 that `Engage` reads; the first is the logarithm of the merged score.

    values       (C, .) `candidate_values` of the feature pipeline: age and counters
    predictions  (C, T); nan without a ranker
    """
    chances = np.clip(np.delete(predictions, WATCH, axis=1), LEAST, 1.0 - LEAST)
    columns = np.empty((1 + len(SOURCES) + values.shape[1] + len(TARGETS), len(candidates)), np.float32)
    _spread(candidates.ranks, LOG_RANKS, values, columns[1:])
    columns[0] = np.log(candidates.scores + LEAST)
    columns[-len(TARGETS) : -1] = np.log(chances / (1.0 - chances)).T
    columns[-1] = np.log1p(np.maximum(predictions[:, WATCH], 0.0))
    return columns if np.isfinite(columns).all() else np.nan_to_num(columns)


@kernel
def _spread(ranks, of_rank, values, columns):
    """Write the numbers of ranks (C, SOURCES), then `values` (C, .), as `columns`."""
    sources = ranks.shape[1]
    for i in range(len(values)):
        for source in range(sources):
            columns[source, i] = of_rank[ranks[i, source]]
        for column in range(values.shape[1]):
            columns[sources + column, i] = values[i, column]


@dataclass(frozen=True)
class Engage:
    """Logistic curve over the merged score, corrected by boosted trees over all evidence.

    The curve alone keeps the order of the merge, so with little to learn from the order changes little.

    slope, shift  of the curve over the logarithm of the merged score
    rate          mean probability of the candidates on which it was fitted
    """

    splits: Splits
    slope: float
    shift: float
    rate: float

    def __call__(self, columns: np.ndarray) -> np.ndarray:
        """Return the probability (C,) of being watched over the mean one, from evidence (E, C).

        Raises ValueError where the trees read a column that the evidence lacks.
        """
        if (last := int(self.splits.feature.max(initial=0))) >= len(columns):
            raise ValueError(f"the trees read column {last} of {len(columns)}; run `dvc repro selection`")
        logits = self.splits.logits(columns, np.zeros(len(columns), bool))[:, 0] + self.slope * columns[0] + self.shift
        return 1.0 / (1.0 + np.exp(-logits.astype(np.float64))) / self.rate

    def save(self, folder: Path) -> None:
        arrays = {field.name: getattr(self.splits, field.name) for field in fields(Splits)}
        save_arrays(folder, arrays | {"curve": np.array([self.slope, self.shift, self.rate]), "sources": np.array(SOURCES)})

    @classmethod
    def load(cls, folder: Path) -> "Engage":
        """Load the folder. Raises ValueError for trees that were fitted on other sources."""
        arrays = load_arrays(folder)
        if tuple(arrays["sources"].tolist()) != SOURCES:
            raise ValueError(f"{folder} was fitted on the sources {', '.join(arrays['sources'])}; run `dvc repro selection`")
        return cls(Splits(*(np.array(arrays[field.name]) for field in fields(Splits))), *arrays["curve"].tolist())
