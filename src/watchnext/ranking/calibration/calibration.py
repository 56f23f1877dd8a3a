"""Calibrate predictions: one curve per head, fitted on validation rows, served from plain arrays. No torch."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.ranking.calibration.curves import Curve, fit_isotonic, fit_platt
from watchnext.types import TARGETS

log = logging.getLogger(__name__)
METHODS: dict[str, Callable[[np.ndarray, np.ndarray], Curve]] = {"isotonic": fit_isotonic, "platt": fit_platt}
LONGEST_S = 86400.0  # one day, the longest calibrated watch time


@dataclass(frozen=True)
class Calibration:
    """Curves by target; a target without a curve passes through."""

    curves: Mapping[str, Curve]

    @classmethod
    def fit(cls, predictions: np.ndarray, targets: np.ndarray, *, methods: Mapping[str, str]) -> "Calibration":
        """Fit curves on validation rows: `predictions` and `targets` (N, T), columns as in TARGETS.

        `methods` maps a target to "isotonic" or "platt", or to None for no calibration. A target with a single class, without
        any watch, or without rows passes through with a warning in the log. Raises ValueError for a misspelt target or
        method, for Platt on seconds, and for unusable rows.
        """
        curves = {}
        for target, method in methods.items():
            if target not in TARGETS or method not in (*METHODS, None):
                raise ValueError(
                    f"calibration of {target!r} by {method!r}: expected one of {', '.join(TARGETS)} by {', '.join(METHODS)}"
                )
            if method is None:
                continue
            happened, scores = (columns[:, TARGETS.index(target)].astype(np.float64) for columns in (targets, predictions))
            if not len(happened):
                log.warning("no validation rows: predictions of %s stay uncalibrated", target)
            elif happened.min() == happened.max():
                log.warning("%s is %g in all validation rows: its predictions stay uncalibrated", target, happened[0])
            elif target != "watch_s":
                curves[target] = METHODS[method](np.clip(happened, 0.0, 1.0), scores)
            elif method == "isotonic":
                curves[target] = fit_isotonic(*(np.minimum(c, LONGEST_S) for c in (happened, scores)), highest=LONGEST_S)
            else:
                raise ValueError(f"calibration of 'watch_s' by {method!r}: seconds are not a probability, expected isotonic")
        return cls(curves)

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
