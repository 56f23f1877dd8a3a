"""Predictions > what they are worth: one curve a head, fitted on validation rows, served from plain arrays. No torch."""

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
LONGEST_S = 86400.0  # a day: watch times are calibrated up to it


@dataclass(frozen=True)
class Calibration:
    """Target > its curve; a target without one is passed through."""

    curves: Mapping[str, Curve]

    @classmethod
    def fit(cls, predictions: np.ndarray, targets: np.ndarray, *, methods: Mapping[str, str]) -> "Calibration":
        """Of validation rows: `predictions` and `targets` (N, T), columns as in TARGETS; `methods` names isotonic or platt a
        target, or None to pass it through. A target of which the rows show one class only, or no watch at all, says nothing
        of its probabilities, and neither do no rows: it passes through, with a warning in the log.

        Raises ValueError for a misspelt one, for Platt on seconds, and for rows that cannot be used.
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
                log.warning("there are no validation rows: predictions of %s pass uncalibrated", target)
            elif happened.min() == happened.max():
                log.warning("%s is %g in all validation rows: its predictions pass uncalibrated", target, happened[0])
            elif target != "watch_s":
                curves[target] = METHODS[method](np.clip(happened, 0.0, 1.0), scores)
            elif method == "isotonic":
                curves[target] = fit_isotonic(*(np.minimum(c, LONGEST_S) for c in (happened, scores)), highest=LONGEST_S)
            else:
                raise ValueError(f"calibration of 'watch_s' by {method!r}: seconds are no probability, expected isotonic")
        return cls(curves)

    def __call__(self, predictions: np.ndarray) -> np.ndarray:
        """(C, T) > (C, T), a copy of the same type."""
        found = predictions.copy()
        for target, curve in self.curves.items():
            found[:, TARGETS.index(target)] = curve(predictions[:, TARGETS.index(target)])
        return found

    def save(self, folder: Path) -> None:
        """Two arrays a target."""
        for target, curve in self.curves.items():
            save_arrays(Path(folder) / target, {"scores": curve.scores, "values": curve.values})

    @classmethod
    def load(cls, folder: Path) -> "Calibration":
        """Of all targets that were saved; of none, where the folder does not exist."""
        return cls(
            {target: Curve(**load_arrays(Path(folder) / target)) for target in TARGETS if (Path(folder) / target).exists()}
        )
