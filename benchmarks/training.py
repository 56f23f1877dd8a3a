"""Train the sequence towers on the simulated world: `python -m benchmarks.training --users 1000000 --videos 1000000`.

A viewer's history is their long views in `--days` days of the world's log; `--work DIR` keeps the histories. The towers of
benchmarks/leave_one_out, 64 wide, with 256 shared negatives and a sparse table, train through Lightning for `--steps` batches
of at most 6,400 positions. An example is one predicted watch; `examples_per_s` leaves out start-up and the first batches.
`examples_per_cpu_s` divides by processor seconds, summed over threads, which other running programs disturb less. `peak_mb` is
the highest resident size of a process that only trains.

`--rectools PYTHON` names an interpreter that has RecTools 0.19: after ours, its SASRec trains on the histories of the first
`--rectools-users` viewers, on as many threads, with the same width, block, history length, negatives and positions per batch
(128 histories of 50), and its defaults otherwise. Its catalogue has the videos that those viewers watched (`rectools_videos`)
and is smaller than ours. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import subprocess
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytorch_lightning as lightning
from benchmarks.leave_one_out.module import SequenceModule
from benchmarks.leave_one_out.protocol import CONF, LeaveOneOut, Sequences, leave_one_out
from omegaconf import DictConfig

from watchnext.cli import composed, instantiate
from watchnext.data.tables import OUTCOMES
from watchnext.metrics import rounded
from watchnext.simulator.world import World

WARM = 20  # batches before the clock starts
LARGE = ["module.start=null", "module.network.sparse=true",
         "module.network.dimension=64", "module.negatives.uniform=256", "module.positions=6400",
         "module.table_learning_rate=0.05"]  # fmt: skip


class StepClock(lightning.Callback):
    """Wall and processor seconds and examples of all batches after the first `warm`."""

    def __init__(self, *, warm: int = WARM) -> None:
        self.warm, self.examples = warm, 0

    def on_train_batch_start(
        self, trainer: lightning.Trainer, module: lightning.LightningModule, batch: dict, step: int
    ) -> None:
        if trainer.global_step == self.warm:
            self.wall, self.cpu = time.perf_counter(), time.process_time()

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: SequenceModule, outputs: object, batch: dict, step: int
    ) -> None:
        if trainer.global_step > self.warm:
            self.examples += int((batch["targets"] < module.network.videos).sum())

    def on_train_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        self.wall, self.cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu

    def figures(self) -> dict[str, float]:
        return {"examples_per_s": self.examples / self.wall, "examples_per_cpu_s": self.examples / self.cpu}


def fit_steps(
    config: DictConfig, module: lightning.LightningModule, *, steps: int, seed: int, callbacks: list[lightning.Callback]
) -> None:
    """Train for `steps` batches without validation or output."""
    warnings.filterwarnings("ignore", message=".*(does not have many workers|IterableDataset|treespec, LeafSpec).*")
    limits = {"max_epochs": -1, "max_steps": steps, "limit_val_batches": 0}
    trainer = instantiate(config.trainer, **limits, callbacks=callbacks, logger=False, enable_progress_bar=False)
    trainer.fit(module, module.loader("train", seed=seed))


def fit(split: LeaveOneOut, overrides: list[str], *, steps: int, seed: int) -> tuple[SequenceModule, StepClock]:
    """Train the towers for `steps` batches of the recipe under `overrides`, without validation."""
    config = composed([*LARGE, f"seed={seed}", *overrides], CONF)
    lightning.seed_everything(seed, workers=True, verbose=False)
    module, clock = instantiate(config.module)(split=split), StepClock()
    fit_steps(config, module, steps=WARM + steps, seed=seed, callbacks=[clock])
    return module, clock


def peak_mb() -> int:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def long_views(path: Path, *, users: int, videos: int, days: int, seed: int) -> None:
    """Write to `path` the histories of a world: arrays rows, starts."""
    mask, viewers, watched = 1 << OUTCOMES.index("long_view"), [], []
    threads = len(os.sched_getaffinity(0))
    for day in World(users=users, videos=videos, days=days, seed=seed).days_of_log(threads=threads, quiet=True):
        slots = day.requests.slots[day.order].astype(np.int64)
        at = np.repeat(day.starts[day.order] - slots.cumsum() + slots, slots) + np.arange(slots.sum())
        viewed = (day.requests.flags[at] & mask) > 0
        viewers.append(np.repeat(day.requests.user[day.order], slots)[viewed])
        watched.append(day.requests.video[at[viewed]])
    viewer = np.concatenate(viewers)
    order = np.argsort(viewer, kind="stable")  # requests are in order of time
    starts = np.concatenate([[0], np.cumsum(np.bincount(viewer, minlength=users))])
    np.savez(path, rows=np.concatenate(watched)[order].astype(np.int64), starts=starts)


def histories_in(folder: Path, options: argparse.Namespace) -> tuple[Sequences, Path]:
    """Read the histories in `folder`; if there are none, create them in a separate process."""
    path = folder / f"histories-{options.users}-{options.videos}-{options.days}-{options.seed}.npz"
    if not path.exists():
        sizes = {name: getattr(options, name) for name in ("users", "videos", "days", "seed")}
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            pool.submit(long_views, path, **sizes).result()
    with np.load(path) as arrays:
        return Sequences(arrays["rows"], arrays["starts"], options.videos), path


def rectools(python: str, path: Path, *, users: int, steps: int) -> dict:
    """Run benchmarks/rectools_sasrec.py under that interpreter and return its result; on failure, report its last output."""
    script = Path(__file__).with_name("rectools_sasrec.py")
    words = [python, script, path, "--users", users, "--steps", steps, "--warm", 2]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([str(word) for word in words], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"rectools_error": done.stderr.strip().splitlines()[-1]}
    return {f"rectools_{name}": value for name, value in json.loads(done.stdout.splitlines()[-1]).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the histories in this folder for later runs")
    parser.add_argument("--rectools", metavar="PYTHON", help="an interpreter that has RecTools 0.19")
    parser.add_argument("--rectools-users", type=int, default=200_000)
    parser.add_argument("--rectools-steps", type=int, default=20)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="watchnext-benchmark-", dir=".") as folder:
        work = options.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        histories, path = histories_in(work, options)
        _, clock = fit(leave_one_out(histories), options.overrides, steps=options.steps, seed=options.seed)
        result = {name: getattr(options, name) for name in ("users", "videos", "days", "steps")}
        result |= {"watches": len(histories.rows), **clock.figures(), "examples": clock.examples, "peak_mb": peak_mb()}
        if options.rectools:
            result |= rectools(options.rectools, path, users=options.rectools_users, steps=options.rectools_steps)
        if "rectools_examples_per_s" in result:
            result["ratio"] = result["examples_per_s"] / result["rectools_examples_per_s"]
            result["ratio_cpu"] = result["examples_per_cpu_s"] / result["rectools_examples_per_cpu_s"]
    print(json.dumps(rounded(result, 1)))


if __name__ == "__main__":
    main()
