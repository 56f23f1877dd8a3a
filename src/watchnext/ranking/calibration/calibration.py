"""Calibrate predictions by one monotone curve per head, kept as plain arrays: all that serving needs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.types import TARGETS


@dataclass(frozen=True, eq=False)
class Curve:
    """Knots `scores` and `values` (K,) float64, both strictly ascending."""

    scores: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        rising = all(len(knots) and (np.diff(knots) > 0).all() for knots in (self.scores, self.values))
        if not rising or len(self.scores) != len(self.values):
            raise ValueError("the knots of a curve are not strictly ascending; fit the calibration again")

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """Map scores, in float64 of the same shape; nan stays nan."""
        return np.interp(scores, self.scores, self.values)


@dataclass(frozen=True)
class Calibration:
    """Curves by target; a target without a curve passes through."""

    curves: Mapping[str, Curve]

    def __call__(self, predictions: np.ndarray) -> np.ndarray:
        """Calibrate predictions (C, T) into a copy of the same type."""
        calibrated = predictions.copy()
        for target, curve in self.curves.items():
            calibrated[:, TARGETS.index(target)] = curve(predictions[:, TARGETS.index(target)])
        return calibrated

    def save(self, folder: Path) -> None:
        """Write two arrays per target."""
        for target, curve in self.curves.items():
            save_arrays(Path(folder) / target, {"scores": curve.scores, "values": curve.values})

    @classmethod
    def load(cls, folder: Path) -> "Calibration":
        """Load all saved targets; none if the folder does not exist."""
        return cls(
            {target: Curve(**load_arrays(Path(folder) / target)) for target in TARGETS if (Path(folder) / target).exists()}
        )
