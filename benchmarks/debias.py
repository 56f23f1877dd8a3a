"""Is what is learned nearer the truth? `python -m benchmarks.debias [--users N --videos N --days N] [key=value ...]`

A simulated log in which viewers stop looking down a slate after what they liked (position law `cascade`), and whose policy
shows what is popular. The network of conf/model/mlp.yaml learns long views plainly, with the position as an input of training,
with inverse propensities, and with both. Measured against `World.truth`, the probability of a long view of a video that is
looked at, on held-out requests that were filled at random, where what was shown says nothing of the policy: Pearson and rank
correlation (2 x XAUC - 1), root mean squared error, and mean predicted over mean true. The last line is one JSON object.
"""

import argparse
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from benchmarks.framing import LONG_VIEW, predictions_of

from watchnext import metrics
from watchnext.data.days import StoredTables, write_tables
from watchnext.data.logging_policy import Policy
from watchnext.data.mechanisms import Mechanisms
from watchnext.data.splits import TimeSplit
from watchnext.data.validation import validate
from watchnext.data.world import World
from watchnext.dispatch import composed
from watchnext.features.__main__ import builder_of
from watchnext.features.batches import FeatureSet
from watchnext.schema import FeatureSchema

WAYS = {"plain": [], "position": ["+debias@model.module=position"], "propensity": ["+debias@model.module=propensity"],
        "both": ["+debias@model.module=both"]}  # fmt: skip


def against(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {
        "pearson": float(np.corrcoef(truth, predicted)[0, 1]),
        "rank": 2 * metrics.xauc(truth, predicted) - 1,
        "rmse": float(np.sqrt(np.mean((truth - predicted) ** 2))),
        "mean_ratio": float(predicted.mean() / truth.mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, size in (("users", 1000), ("videos", 1500), ("days", 7)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*(does not have many workers|IterableDataset|treespec, LeafSpec).*")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    words = ["model=mlp", "data=world", *options.overrides]
    world = World(users=options.users, videos=options.videos, days=options.days, seed=1,
                  mechanisms=Mechanisms(position_law="cascade"), policy=Policy(random_requests=0.1))  # fmt: skip
    schema = FeatureSchema.load("conf/features/world.yaml")
    tables, split = validate(world.log(), schema).tables, TimeSplit(valid_days=1, test_days=2)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_tables(tables, folder / "tables")
        builder_of(composed(words), schema, "streaming").build(StoredTables.open(folder / "tables"), split, folder / "features")
        features = FeatureSet.load(folder / "features")
        held_out = np.asarray(features.columns["split"]) > 0
        rows = np.flatnonzero(held_out & (tables.impressions["policy"] == "random").to_numpy())
        pairs = (features.columns[name][rows].astype(np.int64) for name in ("user_rows", "video_rows", "time_ms"))
        truth, found = world.truth(*pairs).probability["long_view"], {}
        for name, how in WAYS.items():
            predicted = predictions_of(composed([*words, *how]), features, rows)[:, LONG_VIEW].astype(np.float64)
            found[name] = against(truth, predicted)
            print(name, metrics.rounded(found[name], 4), file=sys.stderr, flush=True)
    print(json.dumps({"ways": metrics.rounded(found, 4), "rows": len(rows), "impressions": len(tables.impressions)}))


if __name__ == "__main__":
    main()
