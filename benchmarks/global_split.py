"""Retrieval on one global time split: `python -m benchmarks.global_split [data=movielens] [key=value ...]`.

Watches of the last `data.split.test_days` test, those of `data.split.valid_days` before them validate, by default 60 each. The
pipeline builds a release of the log without a ranker: towers, graphs and counts of the training days, and merge weights that
stage `selection` chose on the validation days. Every viewer of the test days asks once, with the state of their start, and gets
10 videos; what a viewer watched before is left out. Each list is compared with all that the viewer watched in the test days and
not before. `--out` is the folder of everything that the pipeline writes.

    towers          the source `two_tower` alone
    merged          all sources, merged
    popular_7_days  watches of the last 7 days before the test days, the same for all; `--popular-days` is another span

    recall@10       share of the viewer's videos among the 10
    hit@10          viewers with at least one of them among the 10; others call it HR@10
    ndcg@10         over the best order that 10 places allow; `ndcg@10_of_10` over 10 relevant videos, as RecTools has it
    coverage@10     distinct videos in the lists of all viewers, over all videos that were watched before the test days

`all` has all viewers of the test days. `warm` has viewers and videos with a watch before them, which is what tables of others
hold (RecTools, eSASRec: Tikhonovich et al., RecSys 2025). Their spans differ: check them before you compare.
The last line is one JSON object.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
from benchmarks.whole.pipeline import build_release
from tqdm import tqdm

from watchnext.cli import composed, exits_on
from watchnext.data.splits import SPLITS
from watchnext.data.storage import read_tables
from watchnext.data.tables import DataError
from watchnext.features.dataset.batches import FeatureSet
from watchnext.metrics import coverage, rounded
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release, last_built
from watchnext.serving.store.store import Store
from watchnext.types import Request

K = 10
DAY_MS = 86_400_000
SPANS = ("data.split.valid_days=60", "data.split.test_days=60")
TEST = SPLITS.index("test")
LISTS = ("towers", "merged", "popular_7_days")


@dataclass(frozen=True)
class HeldOutWindow:
    """The log before the test days, and what every viewer watched in them.

    start_ms            of the first test day
    seen, wanted        viewer > distinct rows before, and in the test days but not before
    known (V,) bool     videos with a watch before
    recent (V,)         watches of the last days before
    """

    start_ms: int
    seen: Mapping[object, np.ndarray]
    wanted: Mapping[object, np.ndarray]
    known: np.ndarray
    recent: np.ndarray

    @classmethod
    def of(cls, impressions: pl.DataFrame, rows: np.ndarray, split: np.ndarray, *, videos: int, days: float) -> "HeldOutWindow":
        """`rows` (N,) are the catalogue's; `days` is the span of `recent`. Raises DataError without test rows."""
        watched = impressions.select("user_id", "time_ms").with_columns(row=rows, test=split == TEST)
        watched = watched.filter((impressions["watch_ms"] > 0) & (pl.col("row") >= 0))
        test, before = watched.filter("test"), watched.filter(~pl.col("test"))
        if test.is_empty() or before.is_empty():
            raise DataError(
                f"{len(test)} watches in the test days and {len(before)} before them, expected some of both; "
                "give other data.split.test_days"
            )
        start_ms = int(test["time_ms"].min())
        seen, wanted = _by_viewer(before), _by_viewer(test)
        unseen = {viewer: np.setdiff1d(rows, seen.get(viewer, ())) for viewer, rows in wanted.items()}
        recent = before.filter(pl.col("time_ms") >= start_ms - days * DAY_MS)["row"].to_numpy()
        return cls(
            start_ms,
            seen,
            {viewer: rows for viewer, rows in unseen.items() if len(rows)},
            np.bincount(before["row"].to_numpy(), minlength=videos) > 0,
            np.bincount(recent, minlength=videos).astype(float),
        )

    def warm(self) -> dict[object, np.ndarray]:
        """Return what viewers with a watch before wanted, of the videos that had one."""
        wanted = {viewer: rows[self.known[rows]] for viewer, rows in self.wanted.items() if viewer in self.seen}
        return {viewer: rows for viewer, rows in wanted.items() if len(rows)}


def _by_viewer(watched: pl.DataFrame) -> dict[object, np.ndarray]:
    grouped = watched.group_by("user_id", maintain_order=True).agg(pl.col("row").unique().sort())
    return {viewer: np.array(rows) for viewer, rows in grouped.iter_rows()}


def first_unseen(ranked: np.ndarray, seen: np.ndarray, k: int = K) -> np.ndarray:
    """Return the first `k` of `ranked` (n,) that are not in `seen`, padded with -1."""
    kept = ranked[~np.isin(ranked, seen)][:k]
    return np.pad(kept, (0, k - len(kept)), constant_values=-1)


def figures(lists: Mapping[object, np.ndarray], wanted: Mapping[object, np.ndarray], known: np.ndarray) -> dict[str, float]:
    """Average over the viewers of `wanted`; `lists` have K rows of each viewer, padded with -1.

    Coverage counts the videos `known` (V,).
    """
    shown = np.concatenate([lists[viewer] for viewer in wanted])
    shown = shown[shown >= 0]
    discount = 1.0 / np.log2(np.arange(2, K + 2))
    hits = np.array([np.isin(lists[viewer], rows) for viewer, rows in wanted.items()])
    relevant = np.array([len(rows) for rows in wanted.values()])
    gains, ideal = hits @ discount, np.cumsum(discount)[np.minimum(relevant, K) - 1]
    return {
        f"recall@{K}": float((hits.sum(axis=1) / relevant).mean()),
        f"hit@{K}": float(hits.any(axis=1).mean()),
        f"ndcg@{K}": float((gains / ideal).mean()),
        f"ndcg@{K}_of_{K}": float(gains.mean() / discount.sum()),
        f"coverage@{K}": coverage(np.where(known[shown], shown, -1), int(known.sum())),
    }


def recommended(release: Release, window: HeldOutWindow) -> dict[str, dict[object, np.ndarray]]:
    """Return list > viewer > K rows, for all viewers of the test days at their start."""
    lists: dict[str, dict[object, np.ndarray]] = {name: {} for name in LISTS}
    popular = np.argsort(-window.recent, kind="stable")[: np.count_nonzero(window.recent)]
    with TemporaryDirectory(prefix="watchnext-global-split-") as folder:
        store = Store.open(Path(folder), release, durable=False)
        try:
            recommender = Recommender(release, store)
            for viewer in tqdm(window.wanted, desc="test", unit=" viewers"):
                seen = window.seen.get(viewer, np.zeros(0, np.int64))
                request = Request(f"test-{viewer}", viewer, K, max(window.start_ms, release.as_of_ms))
                ranked = {
                    "towers": recommender.by_source(request, K + len(seen))["two_tower"],
                    "merged": _merged(recommender, request, seen),
                    "popular_7_days": popular,
                }
                for name, rows in ranked.items():
                    lists[name][viewer] = first_unseen(rows, seen)
        finally:
            store.close()
    return lists


def _merged(recommender: Recommender, request: Request, seen: np.ndarray) -> np.ndarray:
    """Return the candidates as they are served, or of longer lists where those hold fewer than K unseen ones: the state
    remembers the last videos alone."""
    rows = recommender.retrieve(request).rows
    return (
        rows if np.isin(rows, seen, invert=True).sum() >= K else recommender.retrieve(request, K + len(rows) + len(seen)).rows
    )


def measure(outputs: Path, releases: Path, *, days: float) -> dict:
    """Measure the last built release of `outputs`."""
    release, tables = Release.load(last_built(releases, outputs)), read_tables(outputs / "tables")
    split, rows = (
        FeatureSet.load(outputs / "features").columns["split"],
        release.video_ids.rows_of(tables.impressions["video_id"]),
    )
    window = HeldOutWindow.of(tables.impressions, rows, np.asarray(split), videos=len(release.catalogue), days=days)
    lists, result = recommended(release, window), {}
    for name, wanted in {"all": window.wanted, "warm": window.warm()}.items():
        result[name] = {"viewers": len(wanted)}
        if wanted:
            result[name] |= {each: figures(lists[each], wanted, window.known) for each in LISTS}
    selection = json.loads((outputs / "metrics" / "selection.json").read_text())
    return result | {"videos": int(window.known.sum()), "weights": selection.get("weights")}


def options_of(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the folder of all outputs (runs/global_split/NAME)")
    parser.add_argument("--popular-days", type=float, default=7.0)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(words)
    if not any(word.startswith("data=") for word in options.overrides):
        options.overrides.insert(0, "data=movielens")
    return options


@exits_on(FileNotFoundError, ValueError)
def main() -> None:
    options = options_of(sys.argv[1:])
    words = [*SPANS, *options.overrides]
    config = composed(words)
    outputs = options.out or Path("runs/global_split") / config.data.name
    outputs.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(outputs / 'mlflow.db').absolute()}")
    folders = {"outputs": outputs, "releases": outputs / "releases", "store": outputs / "store"}
    overrides = [*(word for word in words if not word.startswith("data=")), *(f"data.{k}={v}" for k, v in folders.items())]
    began = time.perf_counter()
    build_release(config.data.name, config.data.features, outputs, overrides, ranker="unranked")
    result = measure(outputs, outputs / "releases", days=options.popular_days)
    result |= {"data": config.data.name, "seed": config.seed, "run_s": time.perf_counter() - began}
    result |= {key: config.data.split[key] for key in ("valid_days", "test_days")}
    print(json.dumps(rounded(result, 5)))


if __name__ == "__main__":
    main()
