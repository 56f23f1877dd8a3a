"""Compare figures of the same requests in pairs: difference, interval over viewers, and whether it is more than noise."""

from collections.abc import Mapping, Sequence

import numpy as np

from watchnext import metrics
from watchnext.evaluation.report.slate_report import with_intervals

NOISE = "within noise"


def paired(
    columns: Mapping[str, np.ndarray],
    other: Mapping[str, np.ndarray],
    viewers: np.ndarray,
    *,
    seed: int,
    floors: Mapping[str, float],
    weights: np.ndarray | None = None,
) -> dict[str, dict]:
    """Compare figure > (B,) of a recommender with those of another one on the same B requests.

    Returns figure > `mean` and `other` (each mean, low, high), `difference` (the mean of the first minus the second), its 95%
    interval `low` and `high` over viewers, `floor`, and the verdict: "higher", "lower", or NOISE where the interval holds 0 or
    the difference is not above the floor. A request for which either has no figure (nan) is left out of both.
    """
    left, right = (_known(each, columns, other) for each in (columns, other))
    differences = {name: left[name] - right[name] for name in columns}
    options = {"viewers": viewers, "seed": seed, "weights": weights}
    means, others, gained = (with_intervals(each, **options) for each in (left, right, differences))
    return {
        name: {"mean": means[name], "other": others[name], **_verdict(gained[name], floors.get(name, 0.0))} for name in columns
    }


def _known(
    columns: Mapping[str, np.ndarray], one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return {name: np.where(np.isnan(one[name]) | np.isnan(other[name]), np.nan, values) for name, values in columns.items()}


def _verdict(difference: Mapping[str, float], floor: float) -> dict:
    mean, low, high = (difference[name] for name in ("mean", "low", "high"))
    clear = (low > 0 or high < 0) and abs(mean) > floor
    verdict = ("higher" if mean > 0 else "lower") if clear else NOISE
    return {"difference": mean, "low": low, "high": high, "floor": floor, "verdict": verdict}


def noise_floors(
    columns: Mapping[str, np.ndarray], again: Sequence[Mapping[str, np.ndarray]], viewers: np.ndarray, seed: int
) -> dict[str, float]:
    """Return figure > the largest difference that a recommender may have to itself: the furthest end of the 95% intervals of
    its figures `again`, with exploration drawn anew or trained with another seed, minus those as served."""
    floors = dict.fromkeys(columns, 0.0)
    for each in again:
        noise = with_intervals({name: each[name] - columns[name] for name in columns}, viewers, seed)
        for name, found in noise.items():
            floors[name] = max([floors[name], *(abs(found[end]) for end in ("low", "high") if np.isfinite(found[end]))])
    return floors


def areas_apart(
    labels: np.ndarray, scores: Sequence[np.ndarray], users: np.ndarray
) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """Return the AUC (G,) inside each viewer with both labels under each of `scores` (N,), the viewers (G,), and the positives
    (G,) of each: the weights of `metrics.gauc`."""
    areas, positives, viewers = zip(*(metrics.areas_by_group(labels, each, users) for each in scores), strict=True)
    return list(areas), viewers[0], positives[0]
