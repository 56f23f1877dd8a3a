import csv
import os
from datetime import date
from pathlib import Path

import pytest

from watchnext.data.loaders.kuairand import (
    FULL,
    LOG_COLUMNS,
    PURE,
    USER_CODES,
    USER_NUMBERS,
    VIDEO_COLUMNS,
    Edition,
    KuaiRand,
)
from watchnext.data.splits import TimeSplit
from watchnext.data.tables import DataError
from watchnext.data.validation import validate
from watchnext.schema import FeatureSchema

ROOT = Path(__file__).resolve().parents[3]
PUBLISHED = Path(os.environ.get("WATCHNEXT_SHARED_DATA", ROOT.parent / "shared" / "data")) / "kuairand-pure"
SCHEMA = FeatureSchema.load(ROOT / "conf" / "features" / "kuairand.yaml")
T = 1_651_304_596_854  # 2022-04-30 07:43 UTC
EARLIER, STANDARD, RANDOM = PURE.logs


def event(user: int, video: int, time_ms: int, **others) -> dict:
    row = {**dict.fromkeys(LOG_COLUMNS, 0), "user_id": user, "video_id": video, "time_ms": time_ms, "date": 20220430, "tab": 1}
    return {**row, "duration_ms": 9000, "hourmin": 1500, **others}


def viewer(user: int, **others) -> dict:
    return {**dict.fromkeys((*USER_NUMBERS, *USER_CODES), 1), "user_id": user, "user_active_degree": "full_active", **others}


def film(video: int, **others) -> dict:
    row = {**dict.fromkeys(VIDEO_COLUMNS, ""), "video_id": video, "author_id": 5, "upload_dt": "2022-04-10", "tag": "39"}
    return {**row, "video_duration": 9000.0, "server_width": 720.0, "server_height": 1280.0, "music_id": 3, **others}


def write(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def published(
    root: Path,
    *,
    logs: dict,
    users: list[dict] | None = None,
    videos: list[dict] | None = None,
    edition: Edition = PURE,
) -> Path:
    """The published layout below `root`."""
    for name, rows in logs.items():
        write(root / "data" / name, rows)
    write(root / "data" / edition.users, users or [viewer(1), viewer(2)])
    write(root / "data" / edition.videos, videos or [film(10), film(11)])
    return root


def read(root: Path):
    return KuaiRand(root=str(root)).read()


def test_rows_out_of_time_order_are_put_in_order(tmp_path):
    log = [event(1, 10, T + 5), event(2, 11, T), event(1, 11, T + 5), event(1, 10, T - 9, date=20220429)]
    impressions = read(published(tmp_path, logs={STANDARD: log})).tables.impressions
    assert impressions.select("time_ms", "user_id", "video_id").rows() == [
        (T - 9, 1, 10),
        (T, 2, 11),
        (T + 5, 1, 10),
        (T + 5, 1, 11),
    ]
    assert impressions["day"].to_list() == [date(2022, 4, 29), *[date(2022, 4, 30)] * 3]


def test_videos_of_one_viewer_and_time_share_a_request(tmp_path):
    log = [event(1, 10, T), event(1, 11, T), event(2, 10, T), event(1, 10, T + 1)]
    requests = read(published(tmp_path, logs={STANDARD: log})).tables.impressions["request_id"].to_list()
    assert requests[0] == requests[1]
    assert len(set(requests)) == 3


def test_the_first_of_repeated_rows_stays_and_the_others_are_reported(tmp_path):
    log = [event(1, 10, T, play_time_ms=7), event(1, 11, T), event(1, 10, T, play_time_ms=7), event(1, 10, T, play_time_ms=8)]
    loaded = read(published(tmp_path, logs={STANDARD: log}))
    assert loaded.tables.impressions["watch_ms"].to_list() == [7, 0]
    where = f"{STANDARD}: user_id=1 video_id=10 time_ms={T}"
    assert loaded.rejected.rows() == [("impressions", 2, "duplicate", where), ("impressions", 3, "duplicate", where)]


def test_every_log_that_is_there_is_taken(tmp_path):
    logs = {
        RANDOM: [event(1, 10, T, is_rand=1), event(2, 10, T)],
        EARLIER: [event(1, 10, T - 9)],
        STANDARD: [event(1, 10, T), event(2, 11, T, is_rand=1)],
    }
    loaded = read(published(tmp_path, logs=logs))
    assert loaded.tables.impressions.select("user_id", "video_id", "policy").rows() == [
        (1, 10, "standard"),
        (1, 10, "standard"),
        (2, 11, "random"),
        (2, 10, "random"),
    ]
    assert loaded.rejected["value"].to_list() == [f"{RANDOM}: user_id=1 video_id=10 time_ms={T}"]
    assert loaded.rejected["row"].to_list() == [0]


def test_outcomes_surface_and_watch_time(tmp_path):
    row = event(1, 10, T, is_click=1, long_view=1, is_forward=1, is_hate=1, play_time_ms=12_000, tab=14)
    (found,) = read(published(tmp_path, logs={STANDARD: [row]})).tables.impressions.to_dicts()
    happened = [name for name in ("click", "long_view", "like", "share", "follow", "comment", "hide") if found[name]]
    assert happened == ["click", "long_view", "share", "hide"]
    assert (found["watch_ms"], found["surface"]) == (12_000, "14")  # a replay is longer than the video, and legal


def test_video_columns(tmp_path):
    videos = [
        film(10, tag="39,,2", upload_dt="2022-04-10"),
        film(11, tag="", video_duration="", server_height=0.0, music_type=9.0),
        film(12, video_duration=""),
    ]
    log = [event(1, 10, T), event(1, 11, T, duration_ms=0), event(1, 12, T, duration_ms=0), event(2, 12, T, duration_ms=4000)]
    ten, eleven, twelve = read(published(tmp_path, logs={STANDARD: log}, videos=videos)).tables.videos.to_dicts()
    assert (ten["tags"], eleven["tags"]) == (["39", "2"], None)
    assert ten["upload_ms"] == 1_649_520_000_000  # midnight in Shanghai is 16:00 UTC of the day before
    assert (ten["duration_ms"], eleven["duration_ms"], twelve["duration_ms"]) == (9000, None, 4000)
    assert ten["aspect"] == pytest.approx(720 / 1280)
    assert (eleven["aspect"], eleven["music_type"], ten["creator_id"]) == (None, 9, 5)


def test_a_row_of_unknown_duration_stays(tmp_path):
    log = [event(1, 11, T, duration_ms=0, play_time_ms=3)]
    assert read(published(tmp_path, logs={STANDARD: log})).tables.impressions["watch_ms"].to_list() == [3]


def test_ids_that_the_feature_files_lack_get_rows_of_nulls(tmp_path):
    log = [event(3, 13, T, duration_ms=0), event(1, 10, T)]
    loaded = read(published(tmp_path, logs={STANDARD: log}, users=[viewer(1, is_live_streamer=-124, onehot_feat4="")]))
    assert loaded.tables.users["user_id"].to_list() == [1, 3]
    assert loaded.tables.users["register_days"].to_list() == [1, None]
    assert loaded.tables.users["is_live_streamer"].to_list() == [None, None]
    assert loaded.tables.users["onehot_feat4"].to_list() == [None, None]
    assert loaded.tables.videos["video_id"].to_list() == [10, 11, 13]
    assert loaded.tables.videos["creator_id"].to_list() == [5, 5, None]
    assert validate(loaded.tables, SCHEMA).rejected.height == 0


def test_whole_period_statistics_are_never_read(tmp_path):
    root = published(tmp_path, logs={STANDARD: [event(1, 10, T)]})
    before = read(root).tables.videos
    (root / "data" / "video_features_statistic_pure.csv").write_text("not,a\ntable")
    assert read(root).tables.videos.equals(before)


def test_the_files_may_lie_in_the_root_itself(tmp_path):
    root = published(tmp_path, logs={STANDARD: [event(1, 10, T)]})
    assert read(root / "data").tables.impressions.equals(read(root).tables.impressions)


def test_the_27k_edition_has_other_file_names_and_its_logs_in_parts(tmp_path):
    assert FULL.logs == (
        "log_standard_4_08_to_4_21_27k_part1.csv",
        "log_standard_4_08_to_4_21_27k_part2.csv",
        "log_standard_4_22_to_5_08_27k_part1.csv",
        "log_standard_4_22_to_5_08_27k_part2.csv",
        "log_random_4_22_to_5_08_27k.csv",
    )
    logs = {name: [event(1 + i % 2, 10, T + i, date=20220429 + i % 2)] for i, name in enumerate(reversed(FULL.logs))}
    root = published(tmp_path, logs=logs, edition=FULL)
    assert (root / "data" / "user_features_27k.csv").exists()
    assert (root / "data" / "video_features_basic_27k.csv").exists()
    for part in (1, 2, 3):
        (root / "data" / f"video_features_statistic_27k_part{part}.csv").write_text("not,a\ntable")
    loaded = read(root)
    assert loaded.tables.impressions["policy"].to_list() == ["random", "standard", "standard", "standard", "standard"]
    assert loaded.tables.impressions["time_ms"].to_list() == [T + i for i in range(5)]
    checked = validate(loaded.tables, SCHEMA)
    assert (loaded.rejected.height, checked.rejected.height) == (0, 0)


def test_a_folder_of_two_editions_is_refused_as_their_ids_differ(tmp_path):
    published(tmp_path, logs={STANDARD: [event(1, 10, T)]})
    published(tmp_path, logs={FULL.logs[0]: [event(1, 10, T)]}, edition=FULL)
    with pytest.raises(DataError, match="KuaiRand-Pure and of KuaiRand-27K"):
        read(tmp_path)


@pytest.mark.parametrize("edition", [PURE, FULL], ids=lambda edition: edition.name)
def test_the_tables_go_through_the_feature_stage(feature_stage, edition, tmp_path):
    days = [event(1 + i % 2, 10 + i // 2 % 2, T + i * 86_400_000, date=20220420 + i, play_time_ms=900) for i in range(6)]
    loaded = read(published(tmp_path, logs={edition.logs[1]: days}, edition=edition))
    tables = validate(loaded.tables, SCHEMA).tables
    features = feature_stage(SCHEMA, tables, TimeSplit(valid_days=1, test_days=1), tmp_path)
    assert features.report["impressions"] == {"train": 4, "valid": 1, "test": 1}
    assert features.columns["history_len"].tolist() == [0, 0, 1, 1, 2, 2]


def test_a_missing_file_or_column_is_named(tmp_path):
    with pytest.raises(DataError, match="export KUAIRAND_ROOT"):
        KuaiRand(root=None).read()
    with pytest.raises(DataError, match=f"{tmp_path} holds none of {EARLIER}.*KUAIRAND_ROOT"):
        read(tmp_path)
    root = published(tmp_path, logs={STANDARD: [event(1, 10, T)]})
    (root / "data" / PURE.users).unlink()
    with pytest.raises(DataError, match=r"user_features_pure\.csv is missing"):
        read(root)
    write(root / "data" / PURE.users, [{"user_id": 1}])
    with pytest.raises(DataError, match="lacks the column 'user_active_degree'"):
        read(root)


@pytest.mark.skipif(not PUBLISHED.exists(), reason=f"KuaiRand-Pure is not at {PUBLISHED}; set WATCHNEXT_SHARED_DATA")
def test_the_published_eleven_days():
    loaded = read(PUBLISHED)
    impressions = loaded.tables.impressions
    assert loaded.rejected.height == 5039
    assert set(loaded.rejected["reason"]) == {"duplicate"}
    assert impressions.height + 5039 == 185_061
    assert (impressions["video_id"].n_unique(), impressions["user_id"].n_unique()) == (6153, 24_448)
    assert (impressions["day"].min(), impressions["day"].max()) == (date(2022, 4, 25), date(2022, 5, 5))
    sharing = impressions.height - impressions["request_id"].n_unique()
    assert impressions["request_id"].n_unique() == impressions.select("user_id", "time_ms", "surface").n_unique()
    assert sharing > 0
    assert impressions.filter(~impressions["click"])["long_view"].mean() == pytest.approx(0.002, abs=0.0005)
    assert loaded.tables.videos["duration_ms"].null_count() == 239
    assert validate(loaded.tables, SCHEMA).rejected.height == 0
