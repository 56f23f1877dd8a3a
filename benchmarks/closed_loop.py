"""Compare the funnel with its ablations in the closed loop, over worlds and seeds: `python -m benchmarks.closed_loop`.

Each run simulates a log of one world (conf/data/), takes it through the stages of dvc.yaml as far as the release, and lets all
viewers of that world use `full` and `--others` for `--loop-days` days, each policy in a copy of the world with the same luck
(`python -m watchnext.evaluation experiment`, design `paired`). The seed decides log, training and traffic. Every world has its
first seed before any has a second. Runs are recorded in `--runs`, and a recorded run is not repeated: stop the command at any
time (`--minutes` starts no run after so many) and run it again to go on. Delete the folder to measure other code.

`key=value` words override conf/ in every run. The last line is one JSON object:

    runs    run > policy > seconds watched a viewer and day
    gain    world > policy > what `full` gains over it, relative: mean and 95% interval over the world's runs, by Student's t
    worst   policy > the run with the least gain, and that gain with its 95% interval over viewers
    won     policy > runs in which the interval over viewers lies above 0, and below 0, of how many
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from benchmarks.record import commit
from benchmarks.true_worlds import Run, interval, kept
from benchmarks.whole.pipeline import build_release
from benchmarks.worlds import WORLDS

from watchnext.cli import composed, exits_on, instantiate
from watchnext.evaluation.experiment.ablations import ABLATIONS
from watchnext.evaluation.experiment.experiment import Experiment
from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.metrics import rounded
from watchnext.serving.release.release import Release, last_built

FULL, SECONDS = "full", "watch_s"
OTHERS = ("popular", "unranked", "two_tower_only", "no_diversity")


def result_of(run: Run, settings: dict) -> dict:
    """Simulate, train, release, and run the experiment."""
    began = time.process_time()
    with TemporaryDirectory(prefix="watchnext-closed-loop-") as root:
        outputs = Path(root)
        overrides = [*run.overrides(settings["sizes"], outputs), *settings["overrides"]]
        build_release(run.world, "world", outputs, overrides)
        config = composed([f"data={run.world}", *overrides])
        release = Release.load(last_built(config.data.releases, outputs))
        simulation = Simulation.of(
            instantiate(config.data.loader),
            loyalty=instantiate(config.experiment.loyalty),
            days=settings["loop_days"],
            viewers=None,
        )
        runner = Experiment(release, simulation, releases=config.data.releases, folder=outputs / "arms", seed=run.seed)
        report = runner.run(design="paired", policies=[FULL, *settings["others"]])
    return {
        **vars(run),
        "settings": settings,
        "commit": commit(),
        "cpu_s": round(time.process_time() - began, 1),
        "arms": report["arms"],
        "differences": report["differences"],
        "daily": report["daily"],
    }


def gain_of(record: dict, other: str) -> list[float]:
    """Return what `full` gains over a policy in seconds, relative, with its 95% interval over viewers."""
    return record["differences"][f"{FULL} - {other}"][SECONDS]["relative"]


def summary(records: Sequence[dict], others: Sequence[str]) -> dict:
    """Summarise the runs by policy: every run, every world, the worst run, and how often `full` wins."""
    gains = {other: [gain_of(each, other) for each in records] for other in others}
    worlds = {world: [at for at, each in enumerate(records) if each["world"] == world] for world in WORLDS}
    names = [str(Run(each["world"], each["policy"], each["seed"])) for each in records]
    return {
        "runs": {
            name: {arm: figures[SECONDS][0] for arm, figures in each["arms"].items()}
            for name, each in zip(names, records, strict=True)
        },
        "gain": {
            world: {other: interval(np.array([gains[other][at][0] for at in runs])) for other in others}
            for world, runs in worlds.items()
            if runs
        },
        "worst": {other: min(zip(names, gains[other], strict=True), key=lambda found: found[1][0]) for other in others},
        "won": {
            other: {
                "won": sum(low > 0 for _, low, _ in gains[other]),
                "lost": sum(high < 0 for _, _, high in gains[other]),
                "runs": len(records),
            }
            for other in others
        },
    }


def options_of(words: Sequence[str]) -> argparse.Namespace:
    """Return the options, the overrides among them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", nargs="+", default=list(WORLDS), choices=WORLDS)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--users", type=int, default=800)
    parser.add_argument("--videos", type=int, default=2000)
    parser.add_argument("--days", type=int, default=6, help="of the log")
    parser.add_argument("--loop-days", type=int, default=5, help="of the experiment")
    parser.add_argument("--others", nargs="+", default=list(OTHERS), choices=[name for name in ABLATIONS if name != FULL])
    parser.add_argument("--runs", type=Path, default=Path("runs/closed_loop"), help="the folder of the runs' records")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after so many")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser.parse_intermixed_args(words)


@exits_on(FileNotFoundError, ValueError)
def main() -> None:
    options = options_of(sys.argv[1:])
    settings = {"sizes": {name: getattr(options, name) for name in ("users", "videos", "days")}}
    settings |= {"loop_days": options.loop_days, "others": options.others, "overrides": options.overrides}
    records = kept(
        (Run(world, "configured", seed) for seed, world in product(range(options.seeds), options.worlds)),
        settings,
        lambda run: result_of(run, settings),
        lambda record: {other: gain_of(record, other) for other in options.others},
        folder=options.runs,
        minutes=options.minutes,
    )
    figures = {**settings, "commits": sorted({each["commit"] for each in records})}
    figures |= {"cpu_s": float(np.median([each["cpu_s"] for each in records])), **summary(records, options.others)}
    print(json.dumps(rounded(figures, 4)))


if __name__ == "__main__":
    main()
