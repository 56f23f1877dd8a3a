from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from watchnext.cli import composed, instantiate
from watchnext.data.loaders.vk_lsvd import VkLsvd
from watchnext.data.tables import DataError
from watchnext.data.validation import validate
from watchnext.features.dataset.batches import NO_INPUTS
from watchnext.schema import FeatureSchema

CONF = Path(__file__).resolve().parents[3] / "conf"
SCHEMA = FeatureSchema.load(CONF / "features" / "vk_lsvd.yaml")
START = 1_736_121_600_000  # 2025-01-06 00:00 UTC
WEEK = 604_800_000
BYTES = ("place", "platform", "agent", "timespent")
FLAGS = ("like", "dislike", "share", "bookmark", "click_on_author", "open_comments")


def seen(user: int, item: int, timespent: int = 5, **others) -> dict:
    row = {"user_id": user, "item_id": item, "place": 3, "platform": 1, "agent": 2, "timespent": timespent}
    return {**row, **dict.fromkeys(FLAGS, False), **others}


def write_week(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {"user_id": pl.UInt32, "item_id": pl.UInt32, **dict.fromkeys(BYTES, pl.UInt8), **dict.fromkeys(FLAGS, pl.Boolean)}
    pl.DataFrame(rows, schema=kinds).write_parquet(path)


def published(root: Path, weeks: dict[str, list[dict]], folder: str = "subsamples/ur0.01_ir0.01") -> Path:
    """The published layout: `weeks` by their place below `folder`, metadata of viewers 1 to 3 and videos 10 to 12."""
    for place, rows in weeks.items():
        write_week(root / folder / f"{place}.parquet", rows)
    metadata = root / "metadata"
    metadata.mkdir(exist_ok=True)
    rank = pl.Series("train_interactions_rank", [1, 2, 3], pl.UInt32)
    users = {"user_id": [3, 1, 2], "age": [18, 40, 70], "gender": [0, 1, 1], "geo": [7, 8, 79]}
    kinds = {"user_id": pl.UInt32, "age": pl.UInt8, "gender": pl.UInt8, "geo": pl.UInt8}
    pl.DataFrame(users, schema=kinds).with_columns(rank).write_parquet(metadata / "users_metadata.parquet")
    items = {"item_id": [10, 11, 12], "author_id": [100, 100, 101], "duration": [60, 5, 0]}
    kinds = {"item_id": pl.UInt32, "author_id": pl.UInt32, "duration": pl.UInt8}
    pl.DataFrame(items, schema=kinds).with_columns(rank).write_parquet(metadata / "items_metadata.parquet")
    ids = np.array([12, 99, 10], np.uint32)  # neither complete nor in the order of the other table
    vectors = np.repeat(ids[:, None], 64, axis=1).astype(np.float16)
    np.savez(metadata / "item_embeddings.npz", item_id=ids, embedding=vectors)
    return root


def read(root: Path, **options):
    return VkLsvd(root=str(root), **{"subsample": "ur0.01_ir0.01", **options}).read()


def test_rows_lie_evenly_in_their_week_in_the_order_of_the_file(tmp_path):
    weeks = {
        "validation/week_25": [seen(1, 12)],
        "train/week_00": [seen(2, 10), seen(1, 11), seen(2, 12), seen(1, 10)],
        "train/week_03": [seen(3, 10), seen(3, 11)],
    }
    rows = validate(read(published(tmp_path, weeks)).tables, SCHEMA).tables.impressions
    assert rows.select("user_id", "video_id", "time_ms").rows() == [
        (2, 10, START),
        (1, 11, START + WEEK // 4),
        (2, 12, START + WEEK // 2),
        (1, 10, START + WEEK * 3 // 4),
        (3, 10, START + WEEK * 3),
        (3, 11, START + WEEK * 7 // 2),
        (1, 12, START + WEEK * 25),
    ]
    assert rows["request_id"].n_unique() == 7
    assert (rows["day"][0], rows["day"][-1]) == (date(2025, 1, 6), date(2025, 6, 30))


def test_outcomes_watch_time_and_context(tmp_path):
    log = [
        seen(1, 10, 20, like=True, share=True, bookmark=True),
        seen(1, 11, 5, dislike=True),  # a video of 5 s to its end
        seen(2, 10, 7, click_on_author=True),
        seen(2, 12, 6, open_comments=True, place=23, platform=10, agent=28),  # of unknown duration
    ]
    rows = validate(read(published(tmp_path, {"train/week_00": log})).tables, SCHEMA).tables.impressions
    assert rows["watch_ms"].to_list() == [20_000, 5_000, 7_000, 6_000]
    happened = [
        [name for name in ("click", "long_view", "like", "share", "follow", "comment", "hide") if row[name]]
        for row in rows.to_dicts()
    ]
    assert happened == [
        ["click", "long_view", "like", "share"],
        ["click", "long_view", "hide"],
        ["click", "follow"],
        ["comment"],
    ]
    assert rows.select("surface", "platform", "agent").rows()[2:] == [("3", 1, 2), ("23", 10, 28)]


def test_viewers_and_videos_of_the_log_with_what_is_known_of_them(tmp_path):
    log = [seen(1, 12), seen(1, 10), seen(4, 11), seen(4, 13)]
    tables = validate(read(published(tmp_path, {"train/week_00": log})).tables, SCHEMA).tables
    assert tables.users.select("user_id", "age", "gender", "geo").rows() == [(1, 40, 1, 8), (4, None, None, None)]
    videos = tables.videos
    assert videos.select("video_id", "creator_id", "duration_ms").rows() == [
        (10, 100, 60_000),
        (11, 100, 5_000),
        (12, 101, None),
        (13, None, None),
    ]
    assert [vector and vector[0] for vector in videos["vector"].to_list()] == [10.0, None, 12.0, None]
    assert videos["vector"].dtype == pl.List(pl.Float32)
    assert "train_interactions_rank" not in (*tables.users.columns, *videos.columns)


def test_embeddings_may_be_shortened_or_left_out(tmp_path):
    root = published(tmp_path, {"train/week_00": [seen(1, 10)]})
    assert read(root, dimension=16).tables.videos["vector"].list.len().to_list() == [16]
    (root / "metadata" / "item_embeddings.npz").unlink()
    with pytest.raises(DataError, match=r"item_embeddings\.npz is missing.*dimension=0"):
        read(root)
    tables = validate(read(root, dimension=0).tables, SCHEMA).tables
    assert tables.videos["vector"].to_list() == [None]


def test_the_whole_log_and_a_range_of_weeks(tmp_path):
    weeks = {f"train/week_{week:02}": [seen(1, 10), seen(2, 10)] for week in range(4)}
    root = published(tmp_path, weeks, folder="interactions")
    assert read(root, subsample=None).tables.impressions.height == 8
    part = read(root, subsample=None, first_week=1, last_week=2).tables.impressions
    assert part["time_ms"].to_list() == [START + WEEK * half // 2 for half in (2, 3, 4, 5)]
    with pytest.raises(DataError, match=r"weeks 7 to 3 are wanted, .* holds weeks 0 to 3"):
        read(root, subsample=None, first_week=7)


def test_a_missing_file_or_column_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("VK_LSVD_ROOT", raising=False)
    with pytest.raises(DataError, match="export VK_LSVD_ROOT"):
        instantiate(composed(["data=vk_lsvd"], CONF).data.loader).read()
    root = published(tmp_path, {"train/week_00": [seen(1, 10)]})
    with pytest.raises(DataError, match=r"ur0\.5 is missing; beside it there is ur0\.01_ir0\.01\. Set data\.loader\.subsample"):
        read(root, subsample="ur0.5")
    with pytest.raises(DataError, match=f"{root}/interactions is missing"):
        read(root, subsample=None)
    week = root / "subsamples" / "ur0.01_ir0.01" / "train" / "week_00.parquet"
    pl.read_parquet(week).drop("timespent").write_parquet(week)
    with pytest.raises(DataError, match="lacks the column 'timespent'"):
        read(root)
    week.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        read(root)
    (root / "metadata" / "users_metadata.parquet").unlink()
    with pytest.raises(DataError, match=r"users_metadata\.parquet is missing"):
        read(root)


def test_the_tables_go_through_the_feature_stage(feature_stage, tmp_path, monkeypatch):
    weeks = {
        "train/week_23": [seen(1, 11), seen(2, 10)],
        "train/week_24": [seen(1, 10, 30), seen(2, 12)],
        "validation/week_25": [seen(1, 12), seen(2, 11)],
    }
    monkeypatch.setenv("VK_LSVD_ROOT", str(published(tmp_path, weeks)))
    data = composed(["data=vk_lsvd"], CONF).data
    tables = validate(instantiate(data.loader).read().tables, SCHEMA).tables
    split = instantiate(data.split).assign(tables.impressions["day"])
    assert split.tolist() == [0, 0, 1, 1, 2, 2]  # a published week is a split
    features = feature_stage(SCHEMA, tables, instantiate(data.split), tmp_path)
    assert features.columns["history_len"].tolist() == [0, 0, 1, 1, 2, 2]
    assert features.videos["video_vector"].shape == (4, 65)
    batch = features.batch(features.rows("test"))
    assert all(np.isfinite(batch[name].numpy()).all() for name in batch if name not in NO_INPUTS)
