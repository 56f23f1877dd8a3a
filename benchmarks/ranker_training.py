"""Train DCN-V2 on wide categorical rows: `python -m benchmarks.ranker_training --impressions 500000`.

78 categorical fields, 16 numbers each: the ids of viewer and video, surface, hour and weekday, and attributes of viewers,
videos and requests that are drawn with 4 to 20,000 values each, beside the impressions of the simulated world. They go through
the real feature stage (a state of one counter is all it keeps), and then the recipe `model=dcn` trains through Lightning, with
3 cross layers of rank 64, an MLP 256-128, no attention, batches of 4,096, bf16 where the processor has AMX. The clock covers
everything between the first batch after `WARM` and the last: reading and encoding from mapped columns, forward, backward,
clipping, the optimizer, logging. `input_ms` is the first of these alone, per batch; `shares` is a profile of some further
batches. `anonymous_mb` is the memory at the end of training that is not backed by files, `mapped_mb` the size of the mapped
files. The last line is one JSON object.
"""

import argparse
import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pytorch_lightning as lightning
import torch
from benchmarks.training import fit_steps, peak_mb
from torch.profiler import ProfilerActivity, profile

from watchnext.cli import composed, instantiate
from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import Tables
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.dataset.labels import Labels
from watchnext.metrics import rounded
from watchnext.nn.training import has_amx
from watchnext.ranking.training.ranking_module import RankingModule
from watchnext.schema import FeatureSchema
from watchnext.simulator.world import World

WARM, PROFILED = 10, 8  # batches before the clock starts, and batches for the profiler
ATTRIBUTES = {"user": 29, "video": 39, "context": 5}  # beside user_id, video_id, surface, hour, weekday: 78 in all
VALUES = (4, 20_000)  # fewest and most of an attribute, spaced geometrically
PLAIN = ["model.module.hide=[]", "model.module.watch_time=null"]
NETWORK = {"embedding": 16, "interest": "null", "cross_layers": 3, "rank": 64, "hidden": "[256,128]"}


def schema() -> FeatureSchema:
    """Declare 78 categorical fields and a minimal state."""
    fields = {"user_id": "user", "video_id": "video", "surface": "context"}
    fields |= {f"{entity}_{number}": entity for entity, count in ATTRIBUTES.items() for number in range(count)}
    features = {name: {"kind": "categorical", "entity": entity} for name, entity in fields.items()}
    features |= {name: {"kind": "categorical", "entity": "context", "expression": name} for name in ("hour", "weekday")}
    state = {"counts": ["impression"], "half_lives_h": [24.0], "history": 1, "seen": 1, "tags_kept": 1, "creators_kept": 1}
    return FeatureSchema.from_mapping({"features": features, "state": state | {"tags_per_video": 1}})


def with_attributes(frame: pl.DataFrame, entity: str, random: np.random.Generator) -> pl.DataFrame:
    """Add attributes with few frequent and many rare values."""
    sizes = np.geomspace(*VALUES, ATTRIBUTES[entity]).astype(np.int64)
    return frame.with_columns(
        pl.Series(f"{entity}_{number}", (size * random.random(len(frame)) ** 2).astype(np.int64))
        for number, size in enumerate(sizes)
    )


def built(folder: Path, *, impressions: int, seed: int) -> FeatureSet:
    """Build features of a simulated log with attributes."""
    random, size = np.random.default_rng(seed), max(impressions // 10, 100)
    log = World(users=size, videos=size, days=4, impressions_per_user_day=2.5, seed=seed).log()
    frames = {"user": log.users, "video": log.videos, "context": log.impressions}
    users, videos, shown = (with_attributes(frame, entity, random) for entity, frame in frames.items())
    write_tables(Tables(shown, users, videos), folder / "tables")
    builder = FeatureBuilder(schema=schema(), labels=Labels(), utc_offset_h=0, regime="streaming", min_count=1)
    builder.build(StoredTables.open(folder / "tables"), TimeSplit(valid_days=0, test_days=1), folder / "features")
    return FeatureSet.load(folder / "features")


class RowClock(lightning.Callback):
    """Seconds and rows of all batches after the first WARM, until `steps` of them are done; a profile of those that follow."""

    def __init__(self, *, steps: int) -> None:
        self.last, self.rows, self.profiler = WARM + steps, 0, profile(activities=[ProfilerActivity.CPU])

    def on_train_batch_end(
        self, trainer: lightning.Trainer, module: RankingModule, outputs: object, batch: Mapping, _: int
    ) -> None:
        """Count a step as fetching plus training, because the next batch is fetched after this call."""
        done = trainer.global_step
        if WARM < done <= self.last:
            self.rows += len(batch["targets"])
        if done == WARM:
            self.began, self.worked = time.perf_counter(), time.process_time()
        elif done == self.last:
            self.seconds, self.cpu_s = time.perf_counter() - self.began, time.process_time() - self.worked
            self.profiler.start()

    def on_train_end(self, trainer: lightning.Trainer, module: RankingModule) -> None:
        self.profiler.stop()

    def shares(self) -> dict[str, float]:
        """Return the largest shares of profiled processor time."""
        events = self.profiler.key_averages()
        whole = sum(event.self_cpu_time_total for event in events)
        return {event.key: event.self_cpu_time_total / whole
                for event in sorted(events, key=lambda event: -event.self_cpu_time_total)[:12]}  # fmt: skip


def fit(features: FeatureSet, overrides: list[str], *, steps: int, seed: int) -> tuple[RankingModule, RowClock]:
    network = [f"model.module.network.{name}={value}" for name, value in NETWORK.items()]
    precision = "trainer.plugins=[{_target_: watchnext.nn.training.fastest_precision}]"
    config = composed(["model=dcn", precision, *network, *PLAIN, "model.module.batch_size=4096", *overrides])
    lightning.seed_everything(seed, workers=True, verbose=False)
    module, clock = instantiate(config.model.module)(features=features), RowClock(steps=steps)
    fit_steps(config, module, steps=WARM + steps + PROFILED, seed=seed, callbacks=[clock])
    return module, clock


def input_ms(module: RankingModule, *, batches: int, seed: int) -> float:
    """Measure reading and encoding of one batch."""
    began, loader = time.perf_counter(), iter(module.loader("train", seed=seed))
    for _ in range(batches):
        next(loader)
    return 1e3 * (time.perf_counter() - began) / batches


def anonymous_mb() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["RssAnon"].split()[0]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, default=500_000)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    options = parser.parse_args()
    threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(threads)
    with TemporaryDirectory(prefix="watchnext-benchmark-", dir=".") as folder:
        features = built(Path(folder), impressions=options.impressions, seed=options.seed)
        module, clock = fit(features, options.overrides, steps=options.steps, seed=options.seed)
        held, sizes = anonymous_mb(), features.pipeline.sizes
        mapped = sum(path.stat().st_size for path in (Path(folder) / "features").rglob("*.npy"))
        alone_ms = input_ms(module, batches=10, seed=options.seed)
    network = module.network
    print(json.dumps(rounded({
        "rows_per_s": clock.rows / clock.seconds,
        "rows_per_cpu_s": clock.rows / clock.cpu_s,
        "precision": "bf16" if has_amx() else "f32",
        "threads": threads,
        "fields": len(sizes.user_codes + sizes.context_codes + sizes.video_codes),
        "values": sum(sizes.user_codes + sizes.context_codes + sizes.video_codes),
        "width": network.cross.down[0].in_features,
        "network": NETWORK | {"batch_size": module.batch_size},
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "step_ms": 1e3 * clock.seconds / options.steps,
        "input_ms": alone_ms,
        "shares": clock.shares(),
        "training_rows": len(features.rows("train")),
        "peak_mb": peak_mb(),
        "anonymous_mb": held,
        "mapped_mb": mapped / 2**20,
    }, 3)))  # fmt: skip


if __name__ == "__main__":
    main()
