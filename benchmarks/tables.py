"""Train the sequence towers on tables of many ids: `python -m benchmarks.tables --videos 10000000`.

Histories have 20 watches: a viewer has two interests of 100 videos each, stays in one with probability .8, and moves on in it
by one, two or three positions, each half as likely as the one before. Videos of an interest are in no order by row. The towers
of benchmarks/leave_one_out train on them as in benchmarks/training.py, each table in its own process, on `--steps` batches.

`table_mb` and `optimizer_mb` are the sizes of the id table and its optimizer state, `peak_mb` the highest resident size of the
process, histories included. `recall@10` is that of the last watch of 2,000 viewers among all videos; null above a million
videos. `billion_gb` is table and optimizer for 1e9 rows, by their bytes a row. "full_adam" is the table under dense Adam, whose
gradient is as large as the table and counts only in `peak_mb`. The last line is one JSON object.
"""

import argparse
import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from benchmarks.leave_one_out.catalogue import best, figures
from benchmarks.leave_one_out.module import SequenceModule
from benchmarks.leave_one_out.protocol import Sequences, leave_one_out
from benchmarks.training import fit, peak_mb

from watchnext.metrics import rounded

LENGTH, INTEREST, SHARED = 20, 100, 4
ASKED, MEASURED = 2000, 1_000_000
NETWORK = "module.network"


def overrides_of(kind: str, videos: int) -> list[str]:
    """Return table arguments of the recipe. Tables with shared vectors hold a quarter of the full table."""
    target = f"{NETWORK}.table._target_=watchnext.nn.id_tables"
    return {
        "full": [],
        "full_adam": [f"{NETWORK}.sparse=false", "module.table_learning_rate=0.002"],
        "quotient_remainder": [f"{target}.QuotientRemainderTable", f"+{NETWORK}.table.collisions={SHARED}"],
        "hashed": [f"{target}.HashedTable", f"+{NETWORK}.table.buckets={-(-videos // SHARED)}", f"+{NETWORK}.table.hashes=2"],
    }[kind]


def walks(path: Path, *, videos: int, viewers: int, seed: int) -> None:
    """Write the histories of `viewers` to `path`: an array (viewers, LENGTH) of rows."""
    random = np.random.default_rng(seed)
    names = random.permutation(videos).astype(np.int32)
    first = random.integers(0, max(videos // INTEREST, 1), (viewers, 2)) * INTEREST
    position = random.integers(0, INTEREST, (viewers, 2))
    interest, viewer_rows = np.zeros(viewers, np.int64), np.arange(viewers)
    rows = np.empty((viewers, LENGTH), np.int32)
    for step in range(LENGTH):
        interest ^= random.random(viewers) >= 0.8
        moved = position[viewer_rows, interest] + np.minimum(random.geometric(0.5, viewers), 3)
        position[viewer_rows, interest] = moved % INTEREST
        rows[:, step] = names[np.minimum(first[viewer_rows, interest] + moved % INTEREST, videos - 1)]
    np.save(path, rows)


def bytes_of(module: SequenceModule) -> tuple[int, int]:
    """Measure the table and its optimizer state."""
    tables, state = list(module.network.table.parameters()), module.trainer.optimizers[0].state
    states = [tensor for table in tables for tensor in state[table].values()]
    return sum(table.nbytes for table in tables), sum(tensor.nbytes for tensor in states)


def measure(path: Path, kind: str, *, videos: int, steps: int, seed: int, overrides: list[str]) -> dict:
    rows = np.load(path)
    histories = Sequences(rows.ravel().astype(np.int64), np.arange(len(rows) + 1) * LENGTH, videos)
    split = leave_one_out(histories)
    module, clock = fit(split, overrides_of(kind, videos) + overrides, steps=steps, seed=seed)
    table, optimizer = bytes_of(module)
    result = {**clock.figures(), "peak_mb": peak_mb(), "table_mb": table / 2**20, "optimizer_mb": optimizer / 2**20}
    result["bytes_per_video"] = (table + optimizer) / videos
    return result | {"recall@10": recall(module) if videos <= MEASURED else None}


def recall(module: SequenceModule) -> float:
    split = module.split
    ranked = best(module.scores, split.before_test, split.viewers[:ASKED], 10, chunk=128)
    return figures(ranked, split.test[:ASKED])["recall@10"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, default=10_000_000)
    parser.add_argument("--viewers", type=int, help="by default half of the videos, at most a million")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument(
        "--tables", default="full,quotient_remainder,hashed", help="of full, full_adam, quotient_remainder, hashed"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    viewers = options.viewers or max(min(options.videos // 2, 1_000_000), 100)
    tables, spawn = {}, get_context("spawn")
    with TemporaryDirectory(prefix="watchnext-benchmark-", dir=".") as folder:
        path = Path(folder) / "walks.npy"
        walks(path, videos=options.videos, viewers=viewers, seed=options.seed)
        sizes = {"videos": options.videos, "steps": options.steps, "seed": options.seed, "overrides": options.overrides}
        for kind in options.tables.split(","):
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:  # one process each, to measure its own peak
                tables[kind] = pool.submit(measure, path, kind, **sizes).result()
    run = {"videos": options.videos, "viewers": viewers, "watches": viewers * LENGTH, "steps": options.steps}
    billion = {kind: one["bytes_per_video"] for kind, one in tables.items()}  # bytes a row are GB a billion rows
    print(json.dumps(rounded(run | {"tables": tables, "billion_gb": billion}, 4)))


if __name__ == "__main__":
    main()
