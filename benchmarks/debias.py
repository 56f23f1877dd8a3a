"""Compare debiased training with the simulated truth: `python -m benchmarks.debias [--users N --videos N --days N] [key=value
...]`

In the simulated log, viewers stop examining a slate after a video that they liked (position law `cascade`), and the policy
prefers popular videos. The network of conf/model/mlp.yaml learns long views plainly, with the position as an input of training,
with inverse propensities, and with both. Predictions are compared with `World.truth`, the probability of a long view of an
examined video, on held-out requests that were filled at random, so that the policy has no effect: Pearson and rank correlation
(2 x XAUC - 1), root mean squared error, and mean predicted over mean true; mean and spread over seeds.

The policy of this log puts a slate in no order, so its position bias is small. `placed` has slates in order of popularity,
drawn by `World.step`, in which position and popularity are confounded. The last line is one JSON object.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from benchmarks.framing import LONG_VIEW, predictions_of

from watchnext import metrics
from watchnext.cli import composed
from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.validation import validate
from watchnext.features.__main__ import builder_of
from watchnext.features.dataset.batches import FeatureSet
from watchnext.ranking.target_metrics import mean_and_spread
from watchnext.ranking.training.debias import PositionBias
from watchnext.schema import FeatureSchema
from watchnext.simulator.behaviour import DAY_MS
from watchnext.simulator.mechanisms import Mechanisms
from watchnext.simulator.platform.logging_policy import Policy
from watchnext.simulator.world import World

POSITION = (
    "+model.module.position_bias="
    "{_target_: watchnext.ranking.training.debias.PositionBias, _partial_: true, positions: 10, dropout: 0.1}"
)
PROPENSITY = "+model.module.inverse_propensity=20.0"
WAYS = {"plain": [], "position": [POSITION], "propensity": [PROPENSITY], "both": [POSITION, PROPENSITY]}


def against(truth: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    return {
        "pearson": float(np.corrcoef(truth, predicted)[0, 1]),
        "rank": 2 * metrics.xauc(truth, predicted) - 1,
        "rmse": float(np.sqrt(np.mean((truth - predicted) ** 2))),
        "mean_ratio": float(predicted.mean() / truth.mean()),
    }


def slates(world: World, requests: int, seed: int) -> tuple[np.ndarray, ...]:
    """Simulate slates of ten random videos, popular first: features (N, 3), positions, long views, and the truth."""
    random, start = np.random.default_rng(seed), world.start_ms + 2 * DAY_MS
    users = random.integers(0, len(world.viewers), requests)
    uploaded = np.flatnonzero(world.catalogue["upload_ms"] < start)
    videos = random.permuted(np.tile(uploaded, (requests, 1)), axis=1)[:, :10]
    popularity = world.popularity(videos, start)
    order = np.argsort(-popularity - 0.3 * random.normal(size=popularity.shape), axis=1)
    videos, popularity = (np.take_along_axis(values, order, axis=1) for values in (videos, popularity))
    latent = world.catalogue["latent"][videos]
    match = (world.taste(users, start)[:, None] * latent).sum(-1) / np.linalg.norm(latent, axis=-1)
    length = np.log(world.catalogue["duration_ms"][videos] / 30_000.0)
    truth = world.truth(users[:, None], videos, start, followed=np.zeros(videos.shape, bool)).probability["long_view"]
    steps = [world.step(user, slate, start, "discover").masks["long_view"] for user, slate in zip(users, videos, strict=True)]
    features = np.stack([popularity, match, length], -1).reshape(-1, 3).astype(np.float32)
    return features, np.tile(np.arange(10), requests), np.stack(steps).reshape(-1), truth.reshape(-1)


def placed(world: World, requests: int, seeds: int) -> dict[str, dict[str, float]]:
    """Train a small network on such slates with and without a position tower; compare with the truth of other slates."""
    features, position, label, _ = slates(world, requests, seed=0)
    fresh, _, _, truth = slates(world, 500, seed=1)
    mean, deviation = features.mean(0), features.std(0)
    inputs, fresh_inputs = (torch.from_numpy((values - mean) / deviation) for values in (features, fresh))
    target, figures = torch.from_numpy(label.astype(np.float32)), {}
    for name, towers in (("plain", False), ("position", True)):
        runs = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            bias = PositionBias(positions=10, logits=1) if towers else None
            network = torch.nn.Sequential(torch.nn.Linear(3, 24), torch.nn.SiLU(), torch.nn.Linear(24, 1))
            optimizer = torch.optim.Adam([*network.parameters(), *(bias.parameters() if bias else ())], 0.02)
            for _ in range(300):
                logits = network(inputs) + (bias(torch.from_numpy(position)) if bias else 0.0)
                optimizer.zero_grad()
                torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], target).backward()
                optimizer.step()
            with torch.no_grad():
                runs.append(against(truth, network(fresh_inputs)[:, 0].sigmoid().double().numpy()))
        figures[name] = mean_and_spread(runs)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, size in (("users", 1000), ("videos", 1500), ("days", 7)):
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--seeds", type=int, default=1, help="of training; the log stays")
    parser.add_argument("--slates", type=int, default=2000, help="of `placed`")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
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
        truth, ways = world.truth(*pairs).probability["long_view"], {}
        for name, changes in WAYS.items():
            configs = [composed([*words, *changes, f"seed={seed}"]) for seed in range(options.seeds)]
            predicted = [predictions_of(config, features, rows)[:, LONG_VIEW].astype(np.float64) for config in configs]
            ways[name] = mean_and_spread([against(truth, each) for each in predicted])
            print(name, metrics.rounded(ways[name], 4), file=sys.stderr, flush=True)
    result = {
        "ways": ways,
        "placed": placed(world, options.slates, options.seeds),
        "rows": len(rows),
        "impressions": len(tables.impressions),
    }
    print(json.dumps(metrics.rounded(result, 4)))


if __name__ == "__main__":
    main()
