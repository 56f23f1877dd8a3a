"""One small real release: random tables through the feature stage, random networks through the export."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import torch
from omegaconf import OmegaConf

from watchnext.data.splits import TimeSplit
from watchnext.data.tables import OUTCOMES, Tables
from watchnext.features.dataset.batches import NO_INPUTS, FeatureSet
from watchnext.lifecycle.release_builder import sample_inputs
from watchnext.monitoring.windows.reference import impressions_of, write_reference
from watchnext.nn.export import export_graph
from watchnext.ranking.calibration.calibration import Calibration
from watchnext.ranking.calibration.curves import Curve
from watchnext.ranking.models.trees.boosted import fit_engage
from watchnext.ranking.models.trees.engage import Engage
from watchnext.retrieval.__main__ import graph, trending
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.towers.two_tower import TwoTower
from watchnext.schema import FeatureSchema
from watchnext.serving.release.reference_sample import write_sample
from watchnext.serving.release.release import Release, assemble, current, publish, staging_folder, switch
from watchnext.types import SOURCES, TARGETS

CONF = Path(__file__).resolve().parents[1] / "conf"
START_MS, HOUR_MS = 1_700_000_000_000, 3_600_000
HOSTILE = '<img src=x onerror="document.title=1"><b>bold</b>'
USERS, VIDEOS, IMPRESSIONS = 25, 120, 500
RERANKING = {
    "value": {"weights": {"click": 0.2, "long_view": 1.0, "watch_s": 0.3}, "watch_half_s": 30.0, "engage": 0.5},
    "rules": {
        "unavailable": {},
        "safety": {"highest": "safe"},
        "region": {},
        "seen": {},
        "duplicate": {},
        "creator_cap": {"most": 2},
    },
    "diversity": {"trade_off": 0.8},
    "exploration": {"epsilon": 0.05},
}
GRAPH = {"distance_power": 0.5, "source_power": 0.4, "target_power": 0.0, "neighbours": 20}
RETRIEVAL = {
    "quotas": {
        "two_tower": 40, "trending": 20, "fresh": 10, "related": 20, "transitions": 10, "followed": 10, "continue": 3,
        "popular": 10, "popular_recently": 10, "popular_now": 10,
    },
    "merge": {"constant": 60.0, "most": 200, "weights": dict.fromkeys(SOURCES, 1.0)},
    "trending": {"count": "long_view", "half_life_h": 24.0, "segments": 4, "prior": 5.0, "refresh_s": 60.0},
    "popular": {"count": "long_view", "refresh_s": 60.0},
    "fresh": {"max_age_h": 48.0, "min_impressions": 3.0, "refresh_s": 60.0},
    "followed": {"count": "long_view", "creators": 4, "per_creator": 3},
    "continue": {"min_s": 2.0, "max_share": 0.7, "max_age_h": 72.0},
    "related": {"least": "watch", "graph": GRAPH | {"window": 5, "backward": 0.2}, "walk": {"last": 5, "decay": 0.7}},
    "transitions": {"least": "watch", "graph": GRAPH | {"window": 1, "backward": 0.0}, "walk": {"last": 1, "decay": 1.0}},
}  # fmt: skip


def chosen(random, values, n, missing=0.0):
    return [None if random.random() < missing else values[i] for i in random.integers(0, len(values), n)]


def random_videos(random) -> pl.DataFrame:
    tags = [f"tag{i}" for i in range(12)]
    return pl.DataFrame(
        {
            "video_id": [f"v{i:03}" for i in random.permutation(VIDEOS)],
            "creator_id": chosen(random, [f"c{i}" for i in range(15)], VIDEOS, 0.1),
            "upload_ms": (START_MS + random.integers(-200 * HOUR_MS, 90 * HOUR_MS, VIDEOS)).tolist(),
            "duration_ms": chosen(random, [15_000, 30_000, 61_500], VIDEOS, 0.1),
            "tags": [list(random.choice(tags, random.integers(0, 6), replace=False)) or None for _ in range(VIDEOS)],
            "language": chosen(random, ["en", "de"], VIDEOS, 0.2),
            "regions": [["de"] if random.random() < 0.1 else None for _ in range(VIDEOS)],
            "safety": chosen(random, ["safe", "mature"], VIDEOS, 0.8),
            "fingerprint": chosen(random, [1, 2, 3], VIDEOS, 0.95),
            "vector": [random.normal(size=16).tolist() if random.random() < 0.9 else None for _ in range(VIDEOS)],
            "title": [(HOSTILE if i % 4 else f"Über den Wolken {i}") if i % 3 else None for i in range(VIDEOS)],
            "thumbnail_url": [("javascript:alert(1)", None, f"https://pictures.example/{i}.jpg")[i % 3] for i in range(VIDEOS)],
            "url": [(f"https://videos.example/watch?v={i}", None, "data:text/html,x")[i % 3] for i in range(VIDEOS)],
        },
        schema_overrides={"fingerprint": pl.Int64, "vector": pl.List(pl.Float32), "regions": pl.List(pl.String)},
    )


def random_users(random) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "user_id": random.permutation(np.arange(100, 100 + USERS)),
            "region": chosen(random, ["de", "fr"], USERS),
            "age_group": chosen(random, ["18-24", "25-34"], USERS, 0.2),
            "device": chosen(random, ["ios", "android"], USERS),
            "user_language": chosen(random, ["en", "de"], USERS),
            "account_age_days": random.integers(0, 900, USERS).astype(np.float64),
        }
    )


def random_impressions(random, users: pl.DataFrame, videos: pl.DataFrame) -> pl.DataFrame:
    """Requests of one to four videos, with ties in time, long gaps, late and early outcomes, and watches of no time."""
    steps = random.choice([0, 0, 700, 5_000, 40 * 60_000], IMPRESSIONS // 2)
    rows = []
    for request, time_ms in enumerate((START_MS + np.cumsum(steps)).tolist()):
        user = random.choice(users["user_id"].to_numpy())
        for place, video in enumerate(random.choice(videos["video_id"].to_list(), random.integers(1, 5), replace=False)):
            watch_ms = int(random.choice([0, 0, 900, 5_000, 61_500]))
            received = random.choice([None, time_ms + watch_ms, time_ms + watch_ms + 3_000])
            rows.append((f"r{request}", user, str(video), time_ms, place, watch_ms, received))
    ids = {"request_id": pl.String, "user_id": pl.Int64, "video_id": pl.String}
    numbers = {"time_ms": pl.Int64, "position": pl.Int16, "watch_ms": pl.Int64, "received_ms": pl.Int64}
    frame = pl.DataFrame(rows, orient="row", schema=ids | numbers)
    flags = {name: random.random(len(frame)) < 0.3 for name in OUTCOMES}
    return frame.with_columns(
        pl.from_epoch("time_ms", "ms").dt.date().alias("day"),
        pl.Series("surface", chosen(random, ["home", "next"], len(frame), 0.1)),
        pl.lit(None, pl.Float32).alias("propensity"),
        pl.lit("random").alias("policy"),
        *(pl.Series(name, values) for name, values in flags.items()),
    )


def random_engage() -> Engage:
    """Fit on noise, where the order of the merge and the first source count."""
    random = np.random.default_rng(3)
    columns = random.normal(size=(len(SOURCES) + 1, 4_000)).astype(np.float32)
    return fit_engage(columns, columns[0] + columns[1] + random.normal(size=4_000) > 1.0, seed=0)


class Ranker(torch.nn.Module):
    """A little of every input, so that nothing fed wrongly goes unnoticed."""

    def __init__(self, example) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.names = sorted(name for name, values in example.items() if values.dtype == torch.float32 and values.numel())
        self.layers = torch.nn.ModuleDict({name: torch.nn.Linear(example[name].shape[-1], 8) for name in self.names})
        self.codes = torch.nn.Embedding(4096, 8)
        self.out = torch.nn.Linear(8, len(TARGETS))

    def forward(self, inputs):
        hidden = sum(self._flat(name, inputs[name]) for name in self.names)
        for name in ("user_codes", "context_codes", "video_codes"):
            hidden = hidden + self.codes(inputs[name]).sum(1)
        out = self.out(torch.tanh(hidden))
        return torch.cat([torch.sigmoid(out[:, :3]), torch.nn.functional.softplus(out[:, 3:]) * 10], 1)

    def _flat(self, name, values):
        projected = self.layers[name](values)
        return projected.mean(1) if projected.dim() == 3 else projected


def small_log(feature_stage, once, *, name: str = "built", videos: int = VIDEOS) -> tuple[Path, Tables]:
    """The feature stage's folder, and the tables it was built from: all videos, or the first of them."""
    random = np.random.default_rng(3)
    catalogue, users = random_videos(random), random_users(random)
    impressions = random_impressions(random, users, catalogue)
    catalogue = catalogue.head(videos)
    impressions = impressions.filter(pl.col("video_id").is_in(catalogue["video_id"].implode()))
    tables = Tables(impressions=impressions, users=users, videos=catalogue)
    schema, split = FeatureSchema.load(CONF / "features" / "world.yaml"), TimeSplit(valid_days=1, test_days=1)
    return once(name, lambda folder: feature_stage(schema, tables, split, folder)) / "features", tables


def exported(built, once, *, name: str = "exported") -> Path:
    return once(name, lambda folder: export(built, folder))


def export(built, folder: Path) -> None:
    """Networks and an index of random weights, and what the sources count of the log."""
    features = FeatureSet.load(built[0])
    torch.manual_seed(1)
    towers = TwoTower(sizes=features.pipeline.sizes, embedding=4, hidden=(16,), dimension=8, heads=2, dropout=0.0).eval()
    batch = features.batch(np.arange(5))
    inputs = {name: values for name, values in batch.items() if name not in NO_INPUTS}
    of_video = {name for name in inputs if name.startswith(("video_", "candidate_"))}
    one = {name: values if name in of_video else values[:1] for name, values in inputs.items()}
    query = {name: values[:1] for name, values in inputs.items() if name not in of_video}
    export_graph(towers.query, query, rows_vary=set(), path=folder / "query_tower.xml")
    export_graph(Ranker(one), one, rows_vary=of_video, path=folder / "ranker.xml")
    videos = {name: torch.from_numpy(np.array(values[:-1])) for name, values in features.videos.items()}
    with torch.no_grad():
        vectors = towers.video(videos).numpy()
    video = {name: values for name, values in one.items() if name.startswith("video_") and name != "video_duration_s"}
    export_graph(
        towers.video,
        video | {"video_new": torch.zeros(len(video["video_tags"]))},
        rows_vary={*video, "video_new"},
        path=folder / "video_tower.xml",
    )
    curve = Curve(np.array([0.0, 0.4, 1.0]), np.array([0.05, 0.3, 0.9]))
    Calibration({"long_view": curve, "watch_s": Curve(np.array([0.0, 1e4]), np.array([1.0, 2e4]))}).save(folder / "calibration")
    VideoIndex.build(vectors, recipe=None, towers="tiny").save(folder / "index")
    looked_up(built[0], folder)
    referenced(features, folder / "reference")


def referenced(features: FeatureSet, folder: Path) -> None:
    """reference/, of the whole small log: its days held out are too few."""
    folder.mkdir()
    rows = np.arange(len(features.columns["time_ms"]))
    write_reference(impressions_of(features, rows, np.zeros((len(rows), len(TARGETS)), np.float32)), features, folder)


def looked_up(features: Path, folder: Path) -> None:
    """graph/ and trending/, as the stages of those names write them."""
    outputs = features.parent
    config = OmegaConf.create({"data": {"outputs": str(outputs)}, "retrieval": RETRIEVAL})
    for stage in (graph, trending):
        stage(config)
        shutil.copytree(outputs / stage.__name__, folder / stage.__name__)


def stage_release(built, exported, root: Path) -> Path:
    """The parts, assembled aside."""
    staging = staging_folder(root)
    assemble(
        staging,
        features=built[0],
        query_tower=exported / "query_tower.xml",
        video_tower=exported / "video_tower.xml",
        ranker=exported / "ranker.xml",
        calibration=exported / "calibration",
        index=exported / "index",
        graph=exported / "graph",
        trending=exported / "trending",
        reranking=RERANKING,
        retrieval=RETRIEVAL,
        surfaces={},
        engage=random_engage(),
        selection={},
        reference=exported / "reference",
    )
    write_sample(staging, sample_inputs(FeatureSet.load(built[0]), np.arange(IMPRESSIONS)))
    return staging


def make_release(built, exported, root: Path, **changes) -> Path:
    """Publish a release under `root` and let it serve."""
    staging = stage_release(built, exported, root)
    as_of_ms = json.loads((built[0] / "report.json").read_text())["as_of_ms"]
    manifest = {"data": "tiny", "regime": "streaming", "as_of_ms": as_of_ms, "clock": "release", "towers": "tiny"}
    folder = publish(staging, root, manifest | changes)
    switch(root, folder.name)
    return folder


def make_releases(root: Path, feature_stage, once) -> tuple[tuple[Path, Path], int]:
    """Publish `first`, which serves, `same` of the same state, `fewer` with fewer videos, and `flipped`, with a wrong byte.

    Returns the parts of all but `fewer`, for `make_release`, and the as_of_ms of `first`.
    """
    built = small_log(feature_stage, once)
    parts = built, exported(built, once)
    fewer = small_log(feature_stage, once, name="built-fewer", videos=100)
    make_release(fewer, exported(fewer, once, name="exported-fewer"), root, id="fewer")
    with (make_release(*parts, root, id="flipped") / "videos" / "video_values.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"\x77")
    as_of_ms = Release.load(make_release(*parts, root, id="first")).as_of_ms
    make_release(*parts, root, id="same", as_of_ms=as_of_ms - 1_000)
    switch(root, "first")
    return parts, as_of_ms


def released(feature_stage, once) -> Release:
    """The release, made once and loaded."""
    built = small_log(feature_stage, once)
    parts = exported(built, once)
    return Release.load(current(once("releases", lambda root: make_release(built, parts, root))))
