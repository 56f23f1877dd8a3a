"""A platform that opens: a catalogue without a log, then its first viewer, then its first days, all by the same command."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

import programs
from tiny_project import configure
from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import DataError, Tables
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.dataset.labels import Labels
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release, current
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.simulator.world import World
from watchnext.types import Request

ROOT = Path(__file__).resolve().parents[2]
MINE = {
    "name": "mine",
    "outputs": "outputs/mine",
    "releases": "releases",
    "store": "store",
    "clock": "release",
    "features": "world",
    "utc_offset_h": 0,
    "loader": {
        "_target_": "watchnext.data.loaders.canonical.CanonicalTables",
        "root": "logs",
        "features": "conf/features/${data.features}.yaml",
    },
    "split": {"_target_": "watchnext.data.splits.TimeSplit", "valid_days": 1, "test_days": 1},
}
# The stages of `lifecycle pipeline data=mine`, one after another in one process, so that its imports are paid once.
STAGES = (
    programs.EXIT_CODE
    + """
import sys
from pathlib import Path
from watchnext.lifecycle.dvc_stages import stages
chosen = {"data": "mine", "features": "world", "outputs": "outputs/mine"}
for name, command in stages(Path.cwd(), chosen).items():
    if code := exit_code(command):
        sys.exit(f"{name}: {code}")
"""
)


def pipeline(folder: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    return programs.run("-c", STAGES, folder=folder, environment=environment)


def metrics(project: Path, name: str) -> dict:
    return json.loads((project / "outputs" / "mine" / "metrics" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def tables() -> Tables:
    return World(users=120, videos=300, creators=40, tags=12, days=4, impressions_per_user_day=12.0, seed=5).log()


@pytest.fixture(scope="module")
def project(tables, empty_store, tmp_path_factory) -> Path:
    """A project whose data is a table of videos, and nothing else, after a run of the pipeline."""
    folder = tmp_path_factory.mktemp("opening")
    shutil.copyfile(empty_store, folder / "mlflow.db")
    for name in ("conf", "dvc.yaml", "params.yaml", "train.py"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile)(ROOT / name, folder / name)
    (folder / "conf/data/mine.yaml").write_text(yaml.safe_dump(MINE))
    configure(folder, {"max_epochs: 10": "max_epochs: 1"})
    (folder / "logs").mkdir()
    tables.videos.sample(fraction=1.0, shuffle=True, seed=2).write_parquet(folder / "logs/videos.parquet")
    done = pipeline(folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    for loud in ("two_tower is not trained, content stands in for it", "ranker is not trained, unranked stands in for it"):
        assert loud in done.stderr
    return folder


@pytest.fixture
def recommender(project, tmp_path):
    release = Release.load(current(project / "releases"))
    store = Store.open(tmp_path / "store", release, durable=False)
    yield Recommender(release, store)
    store.close()


def cosines(tables: Tables, recommender: Recommender, video_id: int) -> np.ndarray:
    """Cosines of the content vector of one video with those of the whole catalogue, by row."""
    of_id = dict(tables.videos.select("video_id", "vector").iter_rows())
    ids = [recommender.release.video_ids.value(row) for row in range(len(recommender.release.catalogue))]
    vectors = np.array([of_id[i] if of_id[i] is not None else [0.0] * 16 for i in ids])
    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    return unit @ unit[ids.index(video_id)]


def test_a_catalogue_without_a_log_shows_the_latest_uploads(tables, recommender):
    as_of = recommender.release.as_of_ms
    assert as_of == tables.videos["upload_ms"].max() + 1
    answer = recommender.recommend(Request("r1", "anybody", 10, as_of, "home"))
    assert not answer.degraded
    assert np.isnan(answer.predictions).all()
    assert answer.sources == [["fresh"]] * 10
    newest = recommender.release.catalogue.upload_ms[np.argsort(-recommender.release.catalogue.upload_ms)[:50]]
    assert recommender.release.catalogue.upload_ms[answer.rows].min() >= newest[-1]


def test_the_first_watch_of_a_session_brings_videos_like_it(tables, recommender):
    as_of, who = recommender.release.as_of_ms, "anybody"
    shown = recommender.recommend(Request("r1", who, 10, as_of)).ids
    watched = next(video for video in shown if cosines(tables, recommender, video).any())  # one that has a content vector
    event = {"user_id": who, "video_id": watched}
    recommender.store.apply(
        [
            Event(kind="shown", known_at=as_of + 10, **event),
            Event(kind="outcome", known_at=as_of + 30_000, watch_ms=29_000, long_view=True, **event),
        ]
    )
    answer = recommender.recommend(Request("r2", who, 10, as_of + 60_000))
    likeness = cosines(tables, recommender, watched)
    assert watched not in answer.ids
    assert all("two_tower" in sources for sources in answer.sources)
    nearest = recommender.by_source(Request("r2", who, 10, as_of + 60_000))["two_tower"]
    assert np.median(likeness[nearest[:10]]) > np.quantile(likeness, 0.9)
    other = recommender.recommend(Request("r2", "somebody else", 10, as_of + 60_000))
    assert likeness[answer.rows].mean() > likeness[other.rows].mean() + 0.1  # caps and diversity spread a slate
    assert not any("two_tower" in sources for sources in other.sources)
    assert watched in other.ids  # it is popular now


def test_every_stage_says_that_there_is_nothing(project):
    assert metrics(project, "evaluation")["requests"] == 0
    assert metrics(project, "tripwire") == {"regime": "request", "checks": {}, "leaks": []}
    assert metrics(project, "two_tower") == metrics(project, "ranker") == {}
    assert all(recall == 1.0 for recalls in metrics(project, "index")["recall@100"].values() for recall in recalls.values())
    assert metrics(project, "drift")["verdict"] == "no data"
    assert metrics(project, "recommendations")["users"] == 0


def test_the_first_days_of_log_bring_a_learned_challenger(project, tables):
    """The store of the catalogue's release holds what came since; a release of the same catalogue takes it as it is."""
    cold = current(project / "releases").name
    opened = Store.open(project / "store", Release.load(current(project / "releases")))
    as_of, video = 1 + tables.videos["upload_ms"].max(), tables.videos["video_id"][0]
    opened.apply([Event(kind="outcome", user_id="early", video_id=video, known_at=as_of + 5, watch_ms=9_000)])
    opened.close()
    for name in ("users", "impressions"):
        getattr(tables, name).write_parquet(project / "logs" / f"{name}.parquet")
    done = pipeline(project)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert "stands in" not in done.stderr
    learned = json.loads((project / "outputs/mine/release.json").read_text())["release"]
    assert current(project / "releases").name == cold != learned
    assert metrics(project, "evaluation")["skew"] < 1e-4
    release = Release.load(project / "releases" / learned)
    assert release.ranker is not None
    store = Store.open(project / "store", release)
    assert store.viewer("early").any()
    store.close()


# ---- the parts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def builder(world_schema) -> FeatureBuilder:
    return FeatureBuilder(schema=world_schema, labels=Labels(), utc_offset_h=0, regime="streaming", min_count=2)


def test_a_log_too_short_to_hold_days_out_only_folds_the_state(builder, world_tables, tmp_path, monkeypatch):
    """Two of the three days that the split takes; the third then costs its own fold, and all are learned from."""
    monkeypatch.setattr("watchnext.features.state.partitions.PARTITION_ROWS", 1)  # days this small would be one partition
    split, impressions = TimeSplit(valid_days=1, test_days=1), world_tables.impressions
    days = impressions["day"].unique().sort().to_list()
    for known, learned in ((2, False), (3, True)):
        shown = impressions.filter(pl.col("day").is_in(days[:known]))
        write_tables(Tables(shown, world_tables.users, world_tables.videos), tmp_path / "tables")
        built = builder.build(StoredTables.open(tmp_path / "tables"), split, tmp_path / "features")
        assert (built.kept, built.folded) == ((0, 2) if not learned else (2, 1))
        features = FeatureSet.load(tmp_path / "features")
        assert [len(features.rows(name)) > 0 for name in ("train", "valid", "test")] == [learned] * 3
        if not learned:
            assert built.report["as_of_ms"] == shown["time_ms"].max() + 1
            assert len(features.pipeline.fitted["vocabulary.video_id"]) == len(world_tables.videos)
            assert set(features.pipeline.fitted["vocabulary.tags"]) == set(world_tables.videos["tags"].explode().drop_nulls())


def test_without_a_log_and_upload_times_nothing_says_what_to_show(builder, world_tables, tmp_path):
    videos = world_tables.videos.with_columns(pl.lit(None, pl.Int64).alias("upload_ms"))
    write_tables(Tables(world_tables.impressions.clear(), world_tables.users, videos), tmp_path / "tables")
    with pytest.raises(DataError, match="no video has an upload_ms"):
        builder.build(StoredTables.open(tmp_path / "tables"), TimeSplit(valid_days=1, test_days=1), tmp_path / "features")
