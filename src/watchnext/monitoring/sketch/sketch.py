"""The sketch of a release's reference: bins and moments of all rows and of slices, without a row of the log in it."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.monitoring.sketch.bins import Bins, bins_from, bins_of
from watchnext.monitoring.sketch.measures import VECTORS, measured
from watchnext.monitoring.sketch.moments import Moments
from watchnext.monitoring.sketch.rows import SLICES, Coded, Impressions
from watchnext.serving.release.manifest import REPAIR, ReleaseError
from watchnext.types import TARGETS

FORMAT = 1
SLICES_KEPT = 4  # the most common surfaces, and regions
EVERYTHING = "all"
ARRAYS = ("mean", "covariance", "seen")


@dataclass(frozen=True)
class Sketch:
    """Describe reference impressions.

    bins          column > its bins
    slices        slice > check > moments; EVERYTHING is all rows, the others are like "surface home"
    scales        check > what one unit of its effect is: the mean outcome, the variances of the vectors
    reliability   target > rows, mean prediction and mean outcome by bin of the score
    """

    bins: Mapping[str, Bins]
    slices: Mapping[str, Mapping[str, Moments]]
    scales: Mapping[str, np.ndarray]
    reliability: Mapping[str, Mapping[str, list]]

    @classmethod
    def of(cls, rows: Impressions, vectors: np.ndarray) -> "Sketch":
        """Summarise reference rows; `vectors` (V, d) are those of the videos."""
        values = rows.values
        bins = {name: bins_of(each) for name, each in values.items()}
        window = rows.coded(bins)
        slices = {name: measured(part, bins, vectors) for name, part in parts_of(window, _common(window))}
        means = {f"calibration {name}": rows.outcomes[:, index] for index, name in enumerate(TARGETS)}
        scales = {name: np.array([outcomes[known].mean()]) for name, outcomes in means.items()
                  if (known := np.isfinite(outcomes)).any()}  # fmt: skip
        if len(known := rows.videos[rows.videos >= 0]):
            scales[VECTORS] = vectors[known].var(0)
        return cls(bins, slices, scales, reliability(window))

    @property
    def rows(self) -> int:
        """Number of impressions behind the reference."""
        return max((each.rows for each in self.slices[EVERYTHING].values()), default=0)

    def measured(self, window: Coded, vectors: np.ndarray) -> dict[str, dict[str, Moments]]:
        """Return slice > check > moments of a window, for the slices that the reference has."""
        return {name: measured(part, self.bins, vectors) for name, part in parts_of(window, list(self.slices))}

    def save(self, folder: Path) -> None:
        """Write `sketch.json`, and the arrays of every slice in a folder of its own."""
        folder.mkdir(parents=True, exist_ok=True)
        for number, checks in enumerate(self.slices.values()):
            if not checks:  # of a log without impressions
                continue
            arrays = {name: np.concatenate([getattr(each, name).ravel() for each in checks.values()]) for name in ARRAYS}
            save_arrays(folder / str(number), {name: array.astype(np.float32 if name == "covariance" else np.float64)
                                               for name, array in arrays.items()})  # fmt: skip
        sizes = {name: {check: [len(each.mean), each.rows, each.viewers] for check, each in checks.items()}
                 for name, checks in self.slices.items()}  # fmt: skip
        declared = {
            "format": FORMAT,
            "bins": {name: each.to_json() for name, each in self.bins.items()},
            "slices": sizes,
            "scales": {name: scale.tolist() for name, scale in self.scales.items()},
            "reliability": self.reliability,
        }
        (folder / "sketch.json").write_text(json.dumps(declared))

    @classmethod
    def load(cls, folder: Path) -> "Sketch":
        """Read what `save` wrote. Raises ReleaseError for a release of a version without a sketch, or with another format."""
        path = Path(folder) / "sketch.json"
        if not path.exists():
            raise ReleaseError(f"{folder} is missing: an earlier version built this release; run `{REPAIR}`, then promote it")
        declared = json.loads(path.read_text())
        if declared["format"] != FORMAT:
            raise ReleaseError(
                f"{path} has the format {declared['format']}, expected {FORMAT}; run `{REPAIR}`, then promote it"
            )
        slices = {
            name: _read(path.parent / str(number), sizes) for number, (name, sizes) in enumerate(declared["slices"].items())
        }
        bins = {name: bins_from(each) for name, each in declared["bins"].items()}
        scales = {name: np.array(scale, np.float64) for name, scale in declared["scales"].items()}
        return cls(bins, slices, scales, declared["reliability"])


def _read(folder: Path, sizes: Mapping[str, list]) -> dict[str, Moments]:
    if not sizes:
        return {}
    arrays = {name: values.astype(np.float64) for name, values in load_arrays(folder).items()}
    widths = np.array([size for size, _, _ in sizes.values()])
    cut = {name: np.split(arrays[name], np.cumsum(widths**2 if name == "covariance" else widths)[:-1]) for name in ARRAYS}
    return {
        check: Moments(cut["mean"][i], cut["covariance"][i].reshape(size, size), cut["seen"][i], rows, viewers)
        for i, (check, (size, rows, viewers)) in enumerate(sizes.items())
    }


def parts_of(window: Coded, names: list[str]) -> Iterator[tuple[str, Coded]]:
    """Yield the rows of each slice, one after another, as all of them together take several times the memory of the window."""
    for name in names:
        column, _, value = name.partition(" ")
        if name == EVERYTHING:
            yield name, window
        else:
            yield name, window.take((window.slices[column] == value).fill_null(False).arg_true().to_numpy())


def _common(window: Coded) -> list[str]:
    """Return the slices of a reference: all, and the most common values of each column of slices, if there are several."""
    names = [EVERYTHING]
    for column in SLICES:
        counts = (
            window.slices[column].drop_nulls().alias("value").value_counts().sort(["count", "value"], descending=[True, False])
        )
        if len(counts) > 1:
            names += [f"{column} {value}" for value in counts["value"].head(SLICES_KEPT)]
    return names


def reliability(window: Coded) -> dict[str, dict[str, list]]:
    """Return target > rows, mean prediction and mean outcome by bin of the score, where outcomes are known."""
    tables = {}
    for index, target in enumerate(TARGETS):
        predicted, observed = window.predictions[:, index], window.outcomes[:, index]
        kept = np.isfinite(predicted) & np.isfinite(observed)
        if not kept.any():
            continue
        codes = window.codes[f"score {target}"][kept]
        rows, *sums = (np.bincount(codes, weights) for weights in (None, predicted[kept], observed[kept]))
        means = [(each[rows > 0] / rows[rows > 0]).round(6).tolist() for each in sums]
        tables[target] = dict(zip(("rows", "predicted", "observed"), (rows[rows > 0].tolist(), *means), strict=True))
    return tables
