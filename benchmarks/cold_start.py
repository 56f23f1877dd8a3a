"""New videos and new viewers on the simulated world: `python -m benchmarks.cold_start [--users N] [--videos N] [--days N]`.

A target is a long view of the last day, evenly sampled, at the time of its own request and with the state that a request sees
then (streaming). Each model ranks all uploaded videos that the viewer has not watched; recall@500 is the share of targets among
the first 500, in expectation over the order of ties.

    by_video_age  targets uploaded in the 24 hours before the request, and targets of any age; viewers as they are
    by_watches    targets of viewers with at least 5 watches, the same ones in every row: with all of them, or the viewer's log
                  cut to the last 5 or 1 and the skips among them, or to nothing, and the viewer's id unknown. Region, device,
                  surface and hour stay

Models: the preset of `model=` (two_tower), trained on the same days by the same settings as it is ("towers"), without content
vectors, and without vectors and tags; `content`, without training; and baselines. `key=value` words override conf/, e.g.
`model.module.learning_rate=0.001`. `--held-out valid` is for choosing settings. The last line is one JSON object.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig

from watchnext.cli import composed, instantiate
from watchnext.data.stage import write_stage
from watchnext.data.storage import StoredTables
from watchnext.features.__main__ import builder_of
from watchnext.features.catalogue import Ids
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.encode.encodings import joined
from watchnext.features.state.event_order import Log
from watchnext.features.state.fold import Layout, Reads, State
from watchnext.features.state.fold_log import read_all
from watchnext.features.state.log_arrays import log_of
from watchnext.metrics import rounded
from watchnext.nn import training
from watchnext.retrieval.towers.content import ContentModule
from watchnext.schema import FeatureSchema
from watchnext.types import TARGETS

K = 500
DAY_MS = 86_400_000.0
WATCHES = (0, 1, 5)
HIDDEN = {"towers": (), "towers without vectors": ("video_vector",), "towers without content": ("video_vector", "video_tags")}
CHUNK = 256
Inputs = dict[str, np.ndarray]


def built(config: DictConfig, folder: Path) -> tuple[StoredTables, FeatureSet]:
    """Build the world's tables and features in `folder`, unless they exist."""
    schema = FeatureSchema.load(Path(f"conf/features/{config.data.features}.yaml"))
    if not (folder / "features" / "report.json").exists():
        write_stage(instantiate(config.data.loader), schema, folder / "tables")
        stored = StoredTables.open(folder / "tables")
        builder_of(config, schema, "streaming").build(stored, instantiate(config.data.split), folder / "features")
    return StoredTables.open(folder / "tables"), FeatureSet.load(folder / "features")


def without(features: FeatureSet, hidden: tuple[str, ...]) -> FeatureSet:
    """Set video input blocks to zero, in the catalogue and in histories."""
    return replace(features, videos=features.videos | {name: np.zeros_like(features.videos[name]) for name in hidden})


def trained(config: DictConfig, features: FeatureSet) -> tuple[torch.nn.Module, dict]:
    """Fit a module; return it with time and metrics of the fit."""
    module = training.built(instantiate(config.model.module), features, seed=config.seed)
    began = time.process_time()
    figures = module.fit(training.Training(config.seed, partial(instantiate, config.trainer)))
    best = {"epoch": int(figures["best_epoch"]), "valid_recall@100": figures["valid/recall_at_100"]}
    return module, {"cpu_s": time.process_time() - began} | best


# ---- requests ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QueryBatch:
    """Targets (n,): log rows in time order, request times, and the viewers' inputs."""

    rows: np.ndarray
    time_ms: np.ndarray
    videos: np.ndarray
    inputs: Inputs

    def chunks(self) -> Iterator["QueryBatch"]:
        for first in range(0, len(self.rows), CHUNK):
            part = slice(first, first + CHUNK)
            inputs = {name: values[part] for name, values in self.inputs.items()}
            yield QueryBatch(self.rows[part], self.time_ms[part], self.videos[part], inputs)


class Viewers:
    """Requests of viewers with the whole log or a truncated one."""

    def __init__(self, stored: StoredTables, features: FeatureSet) -> None:
        self.features, schema = features, features.pipeline.schema
        self.layout = Layout.of(schema.state)
        self.log: Log = log_of(stored.all(), features.catalogue, Ids.of(stored.users["user_id"]), schema)
        self._order = np.lexsort((self.log.known_at, self.log.user_rows))  # viewer after viewer, as outcomes were known
        self._starts = np.searchsorted(self.log.user_rows[self._order], np.arange(len(stored.users) + 1))
        codes = [f.name for f in schema.columns("user") if f.kind == "categorical"]
        self._id_position = codes.index("user_id")

    def whole(self, rows: np.ndarray) -> QueryBatch:
        return self._batch(rows, self.features.reads(rows), known=True)

    def cut(self, rows: np.ndarray, watches: int) -> QueryBatch:
        """Truncate logs to the last `watches` watches and the skips among them, with unknown viewer ids."""
        cut_logs = [self._last(row, watches) for row in rows]
        chosen = np.concatenate([*cut_logs, rows])
        owners = np.concatenate([np.repeat(np.arange(len(rows)), [len(part) for part in cut_logs]), np.arange(len(rows))])
        log = self.log.take(chosen)._replace(user_rows=owners)
        state = State.empty(
            self.layout, users=len(rows), videos=len(self.log.creator_rows), creators=int(self.log.creator_rows.max()) + 1
        )
        reads = read_all(self.layout, state, log, self.log.time_ms[rows][owners])
        return self._batch(rows, Reads(*(values[-len(rows) :] for values in vars(reads).values())), known=False)

    def _last(self, row: int, watches: int) -> np.ndarray:
        """Return rows of a viewer's last watches known before the request of `row`, and of skips since the first of them."""
        user, log = self.log.user_rows[row], self.log
        viewer_rows = self._order[self._starts[user] : self._starts[user + 1]]
        viewer_rows = viewer_rows[: np.searchsorted(log.known_at[viewer_rows], log.time_ms[row])]
        watched = viewer_rows[log.watch_ms[viewer_rows] > 0][-watches:] if watches else viewer_rows[:0]
        if not len(watched):
            return watched
        skipped = viewer_rows[(log.watch_ms[viewer_rows] == 0) & (log.time_ms[viewer_rows] >= log.time_ms[watched].min())]
        return np.concatenate([watched, skipped])

    def _batch(self, rows: np.ndarray, reads: Reads, *, known: bool) -> QueryBatch:
        features, columns = self.features, self.features.columns
        context = {name: values[rows] for name, values in columns.items() if name.startswith("context.")}
        blocks = features.pipeline.query(features.dictionaries.raw(context), columns["time_ms"][rows], reads)
        inputs = {**blocks, **{name: values[columns["user_rows"][rows]] for name, values in features.users.items()}}
        if not known:
            inputs["user_codes"][:, self._id_position] = 0
        return QueryBatch(rows, columns["time_ms"][rows], columns["video_rows"][rows].astype(np.int64), inputs)


# ---- models: a chunk of requests > scores (n, V) ---------------------------------------------------------------------------


Scores = Callable[[QueryBatch], np.ndarray]


def by_network(module: torch.nn.Module | ContentModule) -> Scores:
    videos, catalogue = module.features.videos, torch.from_numpy(module.embeddings())

    @torch.no_grad()
    def scores(requests: QueryBatch) -> np.ndarray:
        inputs = joined(requests.inputs, {}, videos, np.zeros(0, np.int64), np.zeros(0, np.int64))
        query = module.network.query({name: torch.from_numpy(np.ascontiguousarray(v)) for name, v in inputs.items() if v.size})
        return (query @ catalogue.T).numpy()

    return scores


def baselines(log: Log, features: FeatureSet) -> dict[str, Scores]:
    """Return the baselines: latest uploads; recent long views with a half-life of a day; random."""
    upload_ms, first = np.nan_to_num(np.array(features.catalogue.upload_ms)), log.time_ms.min()
    long = np.flatnonzero(features.columns["targets"][:, TARGETS.index("long_view")] > 0)
    long = long[np.argsort(log.known_at[long], kind="stable")]
    known_at, videos = log.known_at[long], log.video_rows[long]
    weights = np.exp2((known_at - first) / DAY_MS)  # equal decay: the order of these sums holds at any time

    def popular(requests: QueryBatch) -> np.ndarray:
        ends = np.searchsorted(known_at, requests.time_ms)  # strictly before
        sums, result = np.bincount(videos[: ends[0]], weights[: ends[0]], len(upload_ms)), []
        for begin, end in zip(np.append(ends[0], ends[:-1]), ends, strict=True):
            sums += np.bincount(videos[begin:end], weights[begin:end], len(upload_ms))
            result.append(sums.copy())
        return np.stack(result)

    return {
        "fresh": lambda requests: np.broadcast_to(upload_ms, (len(requests.rows), len(upload_ms))),
        "recent popular": popular,
        "random": lambda requests: np.zeros((len(requests.rows), len(upload_ms))),
    }


def recall(scores: Scores, requests: QueryBatch, upload_ms: np.ndarray) -> float:
    """Compute the expected share of targets among the first K of their requests."""
    hits = []
    for part in requests.chunks():
        result, every = np.array(scores(part), np.float64), np.arange(len(part.rows))
        watched = part.inputs["history_rows"]
        result[upload_ms > part.time_ms[:, None]] = -np.inf
        target_scores = result[every, part.videos]
        result[np.broadcast_to(every[:, None], watched.shape)[watched >= 0], watched[watched >= 0]] = -np.inf
        result[every, part.videos] = target_scores  # a rewatched target stays eligible
        above, even = (result > target_scores[:, None]).sum(1), (result == target_scores[:, None]).sum(1)
        hits.append(np.clip((K - above) / even, 0.0, 1.0))
    return float(np.concatenate(hits).mean())


def evenly(rows: np.ndarray, most: int) -> np.ndarray:
    return rows[:: max(1, -(-len(rows) // most))]


def measure(config: DictConfig, stored: StoredTables, features: FeatureSet, options: argparse.Namespace) -> dict:
    viewers, upload_ms = Viewers(stored, features), np.nan_to_num(np.array(features.catalogue.upload_ms))
    columns = features.columns
    rows = features.rows(options.held_out)
    rows = rows[columns["targets"][rows, TARGETS.index("long_view")] > 0]
    rows = rows[np.argsort(columns["time_ms"][rows], kind="stable")]
    new = rows[columns["time_ms"][rows] - upload_ms[columns["video_rows"][rows]] < DAY_MS]
    some = evenly(rows[columns["history_len"][rows] >= max(WATCHES)], options.targets)
    groups = {f"watches {n}": viewers.cut(some, n) for n in WATCHES} | {"watches all": viewers.whole(some)}
    groups |= {name: viewers.whole(evenly(part, options.targets)) for name, part in (("under 24h", new), ("any age", rows))}
    models, fits = baselines(viewers.log, features), {}
    models["content"] = by_network(instantiate(config.model.cold.module)(features=features))
    for name, hidden in HIDDEN.items():
        module, fits[name] = trained(config, without(features, hidden))
        models[name] = by_network(module)
        print(f"{name} {rounded(fits[name], 4)}", file=sys.stderr)
    result = {
        group: {name: recall(scores, requests, upload_ms) for name, scores in models.items()}
        for group, requests in groups.items()
    }
    for group, of_model in result.items():
        print(group, len(groups[group].rows), rounded(of_model, 4), file=sys.stderr)
    return {
        "recall@500": {
            "by_video_age": {name: result[name] for name in ("under 24h", "any age")},
            "by_watches": {str(n): result[f"watches {n}"] for n in (*WATCHES, "all")},
        },
        "targets": {group: len(requests.rows) for group, requests in groups.items()},
        "new_share": len(new) / len(rows),
        "fits": fits,
    }


def options_of(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=10_000)
    parser.add_argument("--videos", type=int, default=20_000)
    parser.add_argument("--days", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0, help="of the world and of the training")
    parser.add_argument("--targets", type=int, default=4000, help="a group, at most")
    parser.add_argument("--held-out", choices=("test", "valid"), default="test", help="valid: for choosing settings")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep tables and features in this folder")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    return parser.parse_args(words)


def main() -> None:
    options = options_of()
    world = {name: getattr(options, name) for name in ("users", "videos", "days", "seed")}
    words = ["data=world", "model=two_tower", f"seed={options.seed}", "trainer.max_epochs=5"]
    words += [f"data.loader.{name}={value}" for name, value in world.items()]
    config = composed([*words, *options.overrides])
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.work or Path(temporary)) / "-".join(map(str, world.values()))
        stored, features = built(config, folder)
        result = measure(config, stored, features, options)
    print(json.dumps(rounded({**world, "held_out": options.held_out, "regime": "streaming", **result}, 5)))


if __name__ == "__main__":
    main()
