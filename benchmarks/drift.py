"""Measure the drift verdict: `python -m benchmarks.drift [key=value ...]`, on the built features and the ranker of a log.

Held-out viewers are split at random into those of a reference and those of windows, so that windows differ from it by chance
alone; `false_alarms` is the share of windows whose verdict is drift, `rows_alone` the same where every row counts as a viewer
of its own. Then one drift is planted in every window: `power` is kind > size > share of windows that are drift and name
the column. `cost` reads and checks a served log of `--rows` impressions of these viewers, copied, in a process of its own. The
last line is one JSON object.
"""

import argparse
import json
import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from tqdm import tqdm

from watchnext.cli import composed
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.labels import Labels
from watchnext.metrics import rounded
from watchnext.monitoring.sketch.rows import Coded, Impressions
from watchnext.monitoring.sketch.sketch import Sketch
from watchnext.monitoring.verdict.checked_window import DRIFT, CheckedWindow, checked
from watchnext.monitoring.windows.reference import drift_tests, held_out, vectors_of
from watchnext.monitoring.windows.served_rows import ServedLogReader, outcomes_of
from watchnext.ranking.scoring import Ranker
from watchnext.types import TARGETS

ALPHA = 0.05
LONG_VIEW = TARGETS.index("long_view")
HOUR_MS = 3_600_000


class Windows:
    """Draws of windows of `viewers` from one pool of impressions, each against a reference of other viewers."""

    def __init__(
        self, rows: Impressions, vectors: np.ndarray, *, viewers: int, seed: int, bar: tqdm, alone: bool = False
    ) -> None:
        """`alone` hides which rows are of one viewer; `bar` goes on by each window that was used."""
        self._bar = bar
        self._rows, self.vectors, self._size, self._alone = rows, vectors, viewers, alone
        self._numbers = rows.viewers.rank("dense").to_numpy() - 1
        self._random = np.random.default_rng(seed)

    def draw(self, count: int, every: int = 10) -> Iterator[tuple[Sketch, Impressions]]:
        """Yield sketches and windows; after `every` windows, other viewers are the reference."""
        total = int(self._numbers.max()) + 1
        for number in range(count):
            if number % every == 0:
                order = self._random.permutation(total)
                before, pool = order[: total // 2], order[total // 2 :]
                sketch = Sketch.of(self._of(before), self.vectors)
            chosen = self._random.choice(pool, min(self._size, len(pool)), replace=False)
            yield sketch, self._of(chosen)
            self._bar.update()

    def _of(self, viewers: np.ndarray) -> Impressions:
        rows = self._rows.take(np.flatnonzero(np.isin(self._numbers, viewers)))
        return replace(rows, viewers=pl.int_range(len(rows), eager=True).cast(pl.String)) if self._alone else rows


# ---- planted drifts: a window > the same with one thing changed ----------------------------------------------------------


def _with(rows: Impressions, name: str, values: pl.Series) -> Impressions:
    return replace(rows, columns=rows.columns.with_columns(values.alias(name)))


def _some(rows: Impressions, share: float, random: np.random.Generator) -> np.ndarray:
    return random.random(len(rows)) < share


def shifted(rows: Impressions, size: float, random: np.random.Generator, name: str) -> Impressions:
    values = rows.columns[name].cast(pl.Float64)
    return _with(rows, name, values + size * (values.std() or 0.0))


def lost(rows: Impressions, size: float, random: np.random.Generator, name: str) -> Impressions:
    return _with(rows, name, rows.columns[name].set(pl.Series(_some(rows, size, random)), None))


def stuck(rows: Impressions, size: float, random: np.random.Generator, name: str) -> Impressions:
    values = rows.columns[name]
    return _with(rows, name, values.set(pl.Series(_some(rows, size, random)), values.drop_nulls().mode().sort()[0]))


def renamed(rows: Impressions, size: float, random: np.random.Generator, name: str) -> Impressions:
    """Give a share of the viewers a category that the reference lacks."""
    return _with(rows, name, rows.columns[name].set(_of_viewers(rows, size, random), "a new one"))


def moved(rows: Impressions, size: float, random: np.random.Generator, name: str) -> Impressions:
    """Give a share of the viewers the rarest category."""
    counts = rows.columns[name].drop_nulls().value_counts().sort("count", name)
    return _with(rows, name, rows.columns[name].set(_of_viewers(rows, size, random), counts[name][0]))


def _of_viewers(rows: Impressions, share: float, random: np.random.Generator) -> pl.Series:
    numbers = rows.viewers.rank("dense").to_numpy() - 1
    return pl.Series((random.random(int(numbers.max()) + 1) < share)[numbers])


def scored_higher(rows: Impressions, size: float, random: np.random.Generator) -> Impressions:
    predictions = rows.predictions.copy()
    odds = predictions[:, LONG_VIEW] / np.maximum(1 - predictions[:, LONG_VIEW], 1e-6) * np.exp(size)
    predictions[:, LONG_VIEW] = odds / (1 + odds)
    return replace(rows, predictions=predictions)


def less_liked(rows: Impressions, size: float, random: np.random.Generator) -> Impressions:
    """Turn a share of the long views into none, as scores stay."""
    outcomes = rows.outcomes.copy()
    outcomes[_some(rows, size, random), LONG_VIEW] = 0.0
    return replace(rows, outcomes=outcomes)


def shuffled(rows: Impressions, size: float, random: np.random.Generator) -> Impressions:
    """Give a share of the rows the scores of one another."""
    predictions, some = rows.predictions.copy(), np.flatnonzero(_some(rows, size, random))
    predictions[some] = predictions[random.permutation(some)]
    return replace(rows, predictions=predictions)


def other_videos(rows: Impressions, size: float, random: np.random.Generator, vectors: np.ndarray) -> Impressions:
    """Replace a share of the videos by the hundred nearest to one of them."""
    near = np.argsort(((vectors - vectors[rows.videos[0]]) ** 2).sum(1))[:100]
    videos = np.where(_some(rows, size, random), random.choice(near, len(rows)), rows.videos)
    return replace(rows, videos=videos)


Plant = Callable[[Impressions, float, np.random.Generator], Impressions]


def plants(columns: pl.DataFrame, vectors: np.ndarray) -> dict[str, tuple[Plant, tuple[float, ...], str]]:
    """Return kind > how it is planted, its sizes, and the check that should name it."""
    number = next(
        name for name in ("video impression 24h", *columns.columns) if name in columns and columns[name].dtype.is_numeric()
    )
    text = next(name for name in ("device", *columns.columns) if name in columns and columns[name].dtype == pl.String)
    found = {
        "mean of a number, deviations": (partial(shifted, name=number), (0.1, 0.25, 0.5, 1.0), number),
        "rarest category, share of viewers": (partial(moved, name=text), (0.05, 0.1, 0.2, 0.4), text),
        "new category, share of viewers": (partial(renamed, name=text), (0.01, 0.02, 0.05, 0.1), text),
        "missing values, share of rows": (partial(lost, name=number), (0.01, 0.02, 0.05, 0.2), number),
        "stuck at one value, share of rows": (partial(stuck, name=number), (0.1, 0.2, 0.5, 1.0), number),
        "scores, log odds": (scored_higher, (0.1, 0.25, 0.5, 1.0), "score long_view"),
        "calibration, long views lost": (less_liked, (0.1, 0.2, 0.3, 0.5), "calibration long_view"),
        "scores shuffled, share of rows": (shuffled, (0.1, 0.25, 0.5, 1.0), "auc long_view"),
    }
    if vectors.shape[1]:
        found["videos of one kind, share of rows"] = (
            partial(other_videos, vectors=vectors),
            (0.05, 0.1, 0.25, 0.5),
            "video vectors",
        )
    return found


# ---- measurements ----------------------------------------------------------------------------------------------------------


def verdict(sketch: Sketch, rows: Impressions, vectors: np.ndarray) -> CheckedWindow:
    return checked(sketch, rows.coded(sketch.bins), vectors, alpha=ALPHA)


def false_alarms(windows: Windows, count: int) -> dict[str, float]:
    """Return the share of windows without drift whose verdict is drift, and the share of checks with p below .05."""
    results = [verdict(*drawn, windows.vectors) for drawn in windows.draw(count, every=1)]
    p_values = np.array([check.p for result in results for check in result.columns.values() if check.drifted is not None])
    return {
        "windows": count,
        "false_alarms": float(np.mean([result.verdict == DRIFT for result in results])),
        "checks_below_.05": float((p_values < 0.05).mean()) if len(p_values) else float("nan"),
        "viewers": float(np.mean([result.viewers[1] for result in results])),
        "rows": float(np.mean([result.rows[1] for result in results])),
        "checks": len(results[0].columns),
    }


def power(windows: Windows, plant: Plant, sizes: tuple[float, ...], check: str, *, count: int) -> dict[str, float]:
    """Return size > share of windows that are drift and name the check."""
    found = {}
    for size in sizes:
        random = np.random.default_rng(1)
        results = [verdict(sketch, plant(rows, size, random), windows.vectors) for sketch, rows in windows.draw(count)]
        found[str(size)] = float(np.mean([check in result.drifted for result in results]))
    return found


def cost(rows: Impressions, features: Path, count: int, folder: Path) -> dict[str, float]:
    """Write a served log of `count` impressions and the sketch of `rows`; time the check of it in another process."""
    vectors = vectors_of(FeatureSet.load(features).videos)
    Sketch.of(rows, vectors).save(folder / "sketch")
    write_log(rows, FeatureSet.load(features), count, folder / "served")
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(timed, (folder, features))


def write_log(
    rows: Impressions,
    features: FeatureSet,
    count: int,
    folder: Path,
    *,
    at_ms: int = HOUR_MS,
    slate: int = 20,
    answers: int = 2_000,
) -> None:
    """Write parts of a served log at one time: slates of the rows in turn; each copy of them has viewers of its own."""
    size, names = len(rows) // slate, features.catalogue.video_ids
    rows = rows.take(np.arange(size * slate))
    scores = {f"predicted_{name}": rows.predictions[:, index] for index, name in enumerate(TARGETS)}
    shown = {"slate": np.arange(size * slate) // slate, "video_ids": [str(_name(names[each])) for each in rows.videos]}
    grouped = pl.DataFrame(shown | scores | rows.columns.to_dict()).group_by("slate", maintain_order=True).agg(pl.all())
    text = [name for name, kind in rows.columns.schema.items() if kind == pl.String]
    table = grouped.select(
        "video_ids",
        *scores,
        categories=_named(text),
        numbers=_named([name for name in rows.columns.columns if name not in text]),
        viewer=rows.viewers.gather_every(slate),
        release=pl.lit(features.folder.name),
        mode=pl.lit("online"),
        as_of_ms=pl.lit(at_ms, pl.Int64),
        asked=pl.lit("{}"),
    )
    (hour := folder / time.strftime("hour=%Y%m%d%H", time.gmtime(at_ms / 1000))).mkdir(parents=True)
    for part, start in enumerate(range(0, count // slate, answers)):
        chosen = np.arange(start, min(start + answers, count // slate))
        ids = {"request_id": pl.format("{}-{}", pl.lit(at_ms), pl.Series(chosen)),
               "user_id": pl.format("{}-{}", pl.Series(chosen // size), "viewer")}  # fmt: skip
        table[chosen % size].with_columns(**ids).drop("viewer").write_parquet(hour / f"part-{part}.parquet", compression="zstd")


def _named(names: list[str]) -> pl.Expr:
    return pl.concat_list(pl.struct(pl.lit(name).alias("name"), pl.col(name).alias("of")) for name in names)


def _name(video: bytes | int) -> str | int:
    return video.decode() if isinstance(video, bytes) else video


def timed(folder: Path, features: Path) -> dict[str, float]:
    """Read and check the served log of `cost`; return seconds of the processor and the clock, and the memory it took."""
    before, began, clock = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time(), time.perf_counter()
    sketch = Sketch.load(folder / "sketch")
    log = ServedLogReader(folder / "served", features, outcomes_of(()), Labels())
    window = Coded.joined([rows.coded(sketch.bins) for rows in log.window(0, 2 * HOUR_MS)])
    result = checked(sketch, window, log.vectors, alpha=ALPHA)
    return {
        "rows": len(window),
        "verdict": result.verdict,
        "cpu_s": time.process_time() - began,
        "seconds": time.perf_counter() - clock,
        "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "before_mb": round(before / 1024),
        "sketch_kb": sum(path.stat().st_size for path in (folder / "sketch").rglob("*") if path.is_file()) // 1024,
    }


def held_out_rows(features: FeatureSet, ranker: Ranker) -> Impressions:
    """Return validation and test days, with the columns that are compared."""
    parts = [held_out(features, ranker, split) for split in ("valid", "test")]
    compared = drift_tests(features.pipeline.schema, parts[0].columns.columns)
    rows = Impressions.joined(parts)
    return replace(rows, columns=rows.columns.select(*compared))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=200, help="without drift")
    parser.add_argument("--planted", type=int, default=20, help="windows of each planted drift")
    parser.add_argument("--viewers", type=int, default=300, help="of a window")
    parser.add_argument("--rows", type=int, default=1_000_000, help="impressions of the served log of `cost`")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    outputs = Path(composed(options.overrides).data.outputs)
    features = FeatureSet.load(outputs / "features")
    ranker = Ranker.load(outputs / "ranker", schema=features.pipeline.schema, repair="dvc repro ranker")
    rows, vectors = held_out_rows(features, ranker), vectors_of(features.videos)
    kinds = plants(rows.columns, vectors)
    with TemporaryDirectory() as folder:
        measured = cost(rows, features.folder, options.rows, Path(folder))
    total = 2 * options.windows + options.planted * sum(len(sizes) for _, sizes, _ in kinds.values())
    with tqdm(total=total, desc="drift", unit=" windows") as bar:
        draws = partial(Windows, vectors=vectors, viewers=options.viewers, seed=0, bar=bar)
        result = {
            "false_alarms": false_alarms(draws(rows), options.windows),
            "rows_alone": false_alarms(draws(rows, alone=True), options.windows),
            "power": {kind: power(draws(rows), *planted, count=options.planted) for kind, planted in kinds.items()},
        }
    print(json.dumps(rounded(result | {"cost": measured}, 4)))


if __name__ == "__main__":
    main()
