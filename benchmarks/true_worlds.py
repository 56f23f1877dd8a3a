"""Compare orders of candidates with the truth over worlds, logging policies and seeds: `python -m benchmarks.true_worlds`.

Each run simulates a log of one world (conf/data/) under a logging policy with half, once or twice its sharpness for taste and
popularity (`weak`, `configured`, `strong`), and takes it through the stages of dvc.yaml as `python -m watchnext.lifecycle
pipeline` does, as far as the release. Then `benchmarks.true_best` measures the release on requests of the test day. Every
world and policy has its first seed before any has a second. Runs are recorded in `--runs`, and a recorded run is not repeated:
stop the command at any time (`--minutes` starts no run after so many) and run it again to go on. Delete the folder to measure
other code.

`key=value` words override conf/ in every run. The last line is one JSON object:

    cells   world > policy > order > figure > mean and deviation over seeds
    worlds  world > order > figure > the same over its runs
    worst   order > figure > the world with the least mean
    gain    world > order > figure > mean and 95% interval of what the order gains on `value`, run by run
    chosen  run > what stage `selection` chose

Orders and figures are those that `python -m benchmarks.true_best --help` describes, of retrieved candidates.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from benchmarks.record import commit
from benchmarks.true_best import POWERS, measured
from benchmarks.whole.pipeline import build_release
from benchmarks.worlds import WORLDS

from watchnext.cli import composed, exits_on, instantiate, plain
from watchnext.metrics import rounded
from watchnext.simulator.platform.logging_policy import Policy

STRENGTHS = {"weak": 0.5, "configured": 1.0, "strong": 2.0}
SHARPNESS = ("home", "discover", "popularity")  # of the logging policy
FIGURES = ("share", "long_view", "watch_s", "recall")
ORDERS = ("retrieval", "before", "value", "served", "slate", "engage", "ranker",
          *(f"value x engage {power:g}" for power in POWERS), "popular now", "random")  # fmt: skip
REFERENCE = "value"  # the order that the others are compared with


@dataclass(frozen=True)
class Run:
    """One log and the release made of it."""

    world: str
    policy: str
    seed: int

    def __str__(self) -> str:
        return f"{self.world}-{self.policy}-{self.seed}"

    def overrides(self, sizes: Mapping[str, object], outputs: Path) -> list[str]:
        """Return the words that every stage is given."""
        factor, configured = STRENGTHS[self.policy], Policy()
        policy = {f"policy.{name}": factor * getattr(configured, name) for name in SHARPNESS}
        loader = {**sizes, "seed": self.seed, **policy}
        folders = {"outputs": outputs, "releases": outputs / "releases", "store": outputs / "store"}
        return [
            *(f"++data.loader.{key}={value}" for key, value in loader.items()),
            *(f"data.{key}={value}" for key, value in folders.items()),
            f"seed={self.seed}",
        ]


def result_of(run: Run, sizes: Mapping[str, object], words: Sequence[str], requests: int) -> dict:
    """Simulate, train, release and measure."""
    began = time.process_time()
    with TemporaryDirectory(prefix="watchnext-true-worlds-") as root:
        outputs = Path(root)
        overrides = [*run.overrides(sizes, outputs), *words]
        build_release(run.world, "world", outputs, overrides)
        config = composed([f"data={run.world}", *overrides])
        start, world = plain(config.retrieval.merge), instantiate(config.data.loader)
        figures = measured(outputs, outputs / "releases", world, start=start, requests=requests)
        chosen = json.loads((outputs / "metrics" / "selection.json").read_text())
        log = json.loads((outputs / "tables" / "report.json").read_text())
    return {
        **vars(run),
        "settings": settings_of(sizes, words, requests),
        "commit": commit(),
        "cpu_s": round(time.process_time() - began, 1),
        "log": {"impressions": log["impressions"], **log["rates"]},
        "chosen": {name: chosen.get(name) for name in ("engage", "source", "trade_off", "weights", "verdict")},
        **figures,
    }


def settings_of(sizes: Mapping[str, object], words: Sequence[str], requests: int) -> dict:
    return {"sizes": dict(sizes), "overrides": [*words], "requests": requests}


def recorded(path: Path, settings: Mapping) -> dict | None:
    """Read a run's record. Raises ValueError for one that was made with other settings."""
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    if record["settings"] != settings:
        raise ValueError(
            f"{path} was measured with {record['settings']}, expected {settings}; give another --runs, or delete it"
        )
    return record


def kept(
    runs: Iterable[Run],
    settings: Mapping,
    result_of: Callable[[Run], dict],
    headline: Callable[[Mapping], object],
    *,
    folder: Path,
    minutes: float,
) -> list[dict]:
    """Return the records of the runs: those in `folder`, and the others, which are run and recorded while `minutes` last.

    Prints a line with the `headline` of every run. Raises ValueError for a record of other settings, and where there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{(folder / 'mlflow.db').absolute()}")
    records, began = [], time.monotonic()
    for run in runs:
        path = folder / f"{run}.json"
        if (record := recorded(path, settings)) is None and time.monotonic() - began < 60 * minutes:
            record = rounded(result_of(run), 5)
            path.write_text(json.dumps(record, indent=1) + "\n")
            print(run, f"{record['cpu_s']} s", headline(record), flush=True)
        records += [record] if record else []
    if not records:
        raise ValueError("there are no runs to summarise; give --minutes enough for one")
    return records


# ---- summary ---------------------------------------------------------------------------------------------------------------


def figure_of(record: Mapping, order: str, figure: str) -> float:
    """Return a figure of an order of the retrieved candidates, nan where the run has none."""
    value = record["retrieved"].get(order, {}).get(figure)
    return float("nan") if value is None else float(value[0] if figure == "share" else value)


def interval(gains: np.ndarray) -> list[float]:
    """Return the mean and the 95% interval of runs, by Student's t; without ends for fewer than two."""
    from scipy.stats import t

    gains = gains[np.isfinite(gains)]
    if len(gains) < 2:
        return [float(gains.mean()) if len(gains) else float("nan"), float("nan"), float("nan")]
    half = t.ppf(0.975, len(gains) - 1) * gains.std(ddof=1) / len(gains) ** 0.5
    return [float(gains.mean() - d) for d in (0.0, half, -half)]


def table_of(records: Sequence[Mapping]) -> dict[str, dict[str, np.ndarray]]:
    """Return order > figure > values (runs,)."""
    return {order: {f: np.array([figure_of(each, order, f) for each in records]) for f in FIGURES} for order in ORDERS}


def mean_and_spread(values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    mean = float(known.mean()) if len(known) else float("nan")
    return {"mean": mean, "spread": float(known.std(ddof=1)) if len(known) > 1 else None}


def summary(records: Sequence[Mapping]) -> dict:
    """Summarise the runs: every cell, every world over its policies, the worst world, and gains in pairs."""
    cells: dict[str, dict] = {}
    worlds: dict[str, dict] = {}
    gains: dict[str, dict] = {}
    for world in dict.fromkeys(each["world"] for each in records):
        of_world = [each for each in records if each["world"] == world]
        cells[world] = {
            policy: _means(table_of([each for each in of_world if each["policy"] == policy]))
            for policy in dict.fromkeys(each["policy"] for each in of_world)
        }
        table = table_of(of_world)
        worlds[world] = _means(table)
        gains[world] = {
            order: {figure: interval(table[order][figure] - table[REFERENCE][figure]) for figure in FIGURES}
            for order in ORDERS
            if order != REFERENCE
        }
    return {
        "seeds": counts_of(records),
        "cells": cells,
        "worlds": worlds,
        "worst": {order: {figure: _worst(worlds, order, figure) for figure in FIGURES} for order in ORDERS},
        "gain": gains,
    }


def _means(table: Mapping[str, Mapping[str, np.ndarray]]) -> dict:
    return {order: {figure: mean_and_spread(values) for figure, values in each.items()} for order, each in table.items()}


def _worst(worlds: Mapping[str, Mapping], order: str, figure: str) -> dict:
    means = {world: each[order][figure]["mean"] for world, each in worlds.items()}
    known = {world: mean for world, mean in means.items() if np.isfinite(mean)}
    world = min(known, key=known.__getitem__, default=None)
    return {"world": world, "mean": known.get(world)}


def counts_of(records: Iterable[Mapping]) -> dict[str, dict[str, int]]:
    """Count the seeds of every cell."""
    counts: dict[str, dict[str, int]] = {}
    for each in records:
        of_world = counts.setdefault(each["world"], {})
        of_world[each["policy"]] = of_world.get(each["policy"], 0) + 1
    return counts


def options_of(words: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the options and the overrides."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=WORLDS)
    parser.add_argument("--policies", nargs="+", default=list(STRENGTHS), choices=STRENGTHS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--users", type=int, default=800)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--days", type=int, default=6)
    parser.add_argument("--requests", type=int, default=200, help="of the test day, compared with the truth")
    parser.add_argument("--runs", type=Path, default=Path("runs/true_worlds"), help="the folder of the runs' records")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_intermixed_args(words)
    return options, options.overrides


@exits_on(FileNotFoundError, ValueError)
def main() -> None:
    options, words = options_of(sys.argv[1:])
    sizes = {name: getattr(options, name) for name in ("users", "videos", "days")}
    settings = settings_of(sizes, words, options.requests)
    records = kept(
        (Run(world, policy, seed) for seed, world, policy in product(range(options.seeds), options.worlds, options.policies)),
        settings,
        lambda run: result_of(run, sizes, words, options.requests),
        lambda record: {order: figure_of(record, order, "share") for order in ORDERS},
        folder=options.runs,
        minutes=options.minutes,
    )
    chosen = {f"{each['world']}-{each['policy']}-{each['seed']}": each["chosen"] for each in records}
    figures = {**settings, "commits": sorted({each["commit"] for each in records})}
    figures |= {"cpu_s": float(np.median([each["cpu_s"] for each in records])), **summary(records), "chosen": chosen}
    print(json.dumps(rounded(figures, 4)))


if __name__ == "__main__":
    main()
