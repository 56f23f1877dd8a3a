"""The data card on tables small enough to count by hand, and on those of the tiny world."""

import json
import shutil
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from watchnext.data.card import card, log_figures
from watchnext.data.card.card import StateSize, write_card
from watchnext.data.card.column_summary import number, percent, plain, summarise_columns
from watchnext.data.card.log_figures import DataSet, Figures
from watchnext.data.card.provenance import provenance_of, provenance_of_others
from watchnext.data.splits import TimeSplit
from watchnext.data.tables import OUTCOMES, TABLES, DataError, Tables
from watchnext.data.validation import validate
from watchnext.schema import FeatureSchema

CONF = Path(__file__).resolve().parents[3] / "conf" / "data"
SCHEMA = FeatureSchema.from_mapping(
    {
        "features": {
            "age": {"kind": "numerical", "entity": "user", "unit": "years", "nullable": True},
            "city": {"kind": "categorical", "entity": "user", "nullable": True},
            "vector": {"kind": "vector", "entity": "video", "dimension": 2, "producer": "test", "nullable": True},
        }
    }
)
SPLIT = TimeSplit(valid_days=1, test_days=1)
DAY_MS = 86_400_000
FIRST = date(2025, 3, 10)
# day, hour, request, user, video, watched ms, click, received after ms
ROWS = [
    (0, 0, "r1", "ann", "v1", 500, True, 1500),
    (0, 0, "r1", "ann", "v2", 0, False, None),
    (0, 5, "r2", "bob", "v1", 2000, True, 2999),
    (1, 0, "r3", "ann", "v1", 1000, False, 0),  # again
    (1, 1, "r4", "cat", "v1", 0, False, 60_000),
    (2, 0, "r5", "bob", "v3", 90, True, None),
    (2, 0, "r5", "bob", "v2", 9000, True, None),
    (2, 23, "r6", "cat", "v3", 10, False, None),
]


def tables() -> Tables:
    start = 20_157 * DAY_MS  # 2025-03-10
    times = [start + day * DAY_MS + hour * 3_600_000 for day, hour, *_ in ROWS]
    columns = [list(column) for column in zip(*ROWS, strict=True)]
    outcomes = {name: [False] * len(ROWS) for name in OUTCOMES} | {"click": columns[6]}
    impressions = {
        "request_id": columns[2],
        "user_id": columns[3],
        "video_id": columns[4],
        "time_ms": times,
        "day": [FIRST + timedelta(days=day) for day in columns[0]],
        "watch_ms": columns[5],
        "received_ms": [after if after is None else time + after for time, after in zip(times, columns[7], strict=True)],
        **outcomes,
    }
    users = {"user_id": ["ann", "bob", "cat", "dan"], "age": [20.0, None, 31.24, 40.0], "city": ["b|n", "x", "x", None]}
    videos = {
        "video_id": ["v1", "v2", "v3", "v4"],
        "duration_ms": [1000, None, 100, 5],
        "vector": [[1.0, 0.5], None, None, None],
    }
    vectors = {"vector": pl.List(pl.Float32)}
    frames = Tables(pl.DataFrame(impressions), pl.DataFrame(users), pl.DataFrame(videos, schema_overrides=vectors))
    return validate(frames, SCHEMA).tables


def written(folder: Path, given: Tables, **report: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        getattr(given, name).write_parquet(folder / f"{name}.parquet")
    (folder / "report.json").write_text(json.dumps({"hash": "abc", "rejected": {}, "filled": {}, **report}))
    return folder


def read(folder: Path, name: str = "tiny") -> DataSet:
    return DataSet.read(folder, name=name, repair="dvc repro tables")


@pytest.fixture
def found(tmp_path) -> Figures:
    return Figures.of(read(written(tmp_path, tables())), SPLIT, 1)


def test_days_and_rates_by_hand(found):
    columns = ("impressions", "click", "watch_ms", "unwatched", "split")
    assert found.days.select(columns).rows() == [(3, 2, 2500, 1, 0), (2, 0, 1000, 1, 1), (3, 2, 9100, 0, 2)]
    assert (found.impressions, found.rate("click"), found.rate("unwatched")) == (8, 0.5, 0.25)
    assert found.rows == {"impressions": 8, "users": 4, "videos": 4}
    assert found.requests == 6


def test_hours_are_local(found):
    assert {hour: count for hour, count in enumerate(found.hours) if count} == {0: 1, 1: 5, 2: 1, 6: 1}


def test_watch_ratios_are_whole_percents_where_the_duration_is_known(found):
    assert found.percent.rows() == [(0, 1), (10, 1), (50, 1), (90, 1), (100, 1), (200, 1)]


def test_activity_popularity_and_who_is_cold(found):
    assert found.users.rows() == [("ann", 3, 2, 1, 0), ("bob", 3, 1, 0, 2), ("cat", 2, 0, 1, 1)]
    assert found.videos.rows() == [("v1", 4, 2, 2, 0), ("v2", 2, 1, 0, 1), ("v3", 2, 0, 0, 2)]
    cold = {(table, split): found.cold(table, split) for table in ("users", "videos") for split in ("valid", "test")}
    expected = {("users", "valid"): 1 / 2, ("users", "test"): 1 / 3, ("videos", "valid"): 0, ("videos", "test"): 2 / 3}
    assert cold == pytest.approx(expected)


def test_delays_are_whole_seconds_of_what_was_received(found):
    assert found.delay.rows() == [(0, 1), (1, 1), (2, 1), (60, 1)]


def test_repeats_are_counted_on_every_kth_user_of_a_long_log(found, tmp_path, monkeypatch):
    assert found.repeats == (8, 1)
    monkeypatch.setattr(log_figures, "REPEAT_ROWS", 4)  # 8 impressions: every second user, ann and cat
    assert Figures.of(read(tmp_path), SPLIT, 0).repeats == (5, 1)


def test_contents_of_columns(tmp_path):
    data = read(written(tmp_path, tables()))
    users = {one.column: one for one in summarise_columns("users", data.frames["users"], SCHEMA)}
    assert [*users] == ["user_id", "age", "city"]
    assert (users["age"].missing, users["age"].unit, users["age"].values) == (1, "years", "20 / 20 / 31.2 / 40 / 40")
    assert users["city"].values == "`x` 66.7%, `b?n` 33.3%"
    assert users["user_id"].values == "4 different"
    shown = {one.column: one.values for one in summarise_columns("impressions", data.frames["impressions"], SCHEMA)}
    assert (shown["click"], shown["day"], shown["surface"]) == ("50% true", "2025-03-10 to 2025-03-12", "–")
    assert shown["received_ms"] == "2025-03-10 to 2025-03-11"
    films = {one.column: one.values for one in summarise_columns("videos", data.frames["videos"], SCHEMA)}
    assert (films["vector"], films["tags"], films["duration_ms"]) == ("2 entries", "–", "5 / 5 / 100 / 1,000 / 1,000")


def test_many_or_rare_categories_are_not_named(tmp_path):
    names = [f"only{row}" for row in range(51)]
    users = pl.DataFrame({"user_id": names, "age": [1.0] * 51, "city": names})
    (city,) = (one for one in summarise_columns("users", users.lazy(), SCHEMA) if one.column == "city")
    assert city.values == "51 different"
    many = pl.DataFrame({"city": ["a"] * 1999 + ["rare"]}).lazy()
    assert [one.values for one in summarise_columns("users", many, SCHEMA)] == ["`a` 100%, 1 other"]


def test_figures_are_written_to_three_digits():
    assert [number(value) for value in (0.0, 3.0, 1234567.0, 0.12345, 123.4, float("nan"))] == [
        "0",
        "3",
        "1,234,567",
        "0.123",
        "123",
        "–",
    ]
    assert [percent(part) for part in (0.0, 0.12345, 1.0, float("nan"))] == ["0%", "12.3%", "100%", "–"]
    assert plain("x" * 30) == "`" + "x" * 24 + "...`"
    assert plain("a`b\n|") == "`a?b??`"


USED = np.array([120, 120, 400, 4056])


def card_of(data: DataSet, out: Path, schema: FeatureSchema) -> str:
    state_size = StateSize(used=USED, limit=4056, when="at midnight")
    path = write_card(out, data, schema=schema, split=SPLIT, utc_offset_h=0, state_size=state_size, command="the command")
    assert path == out / "data_card.md"
    return path.read_text()


def test_the_card_says_it_all(tmp_path):
    report = {"rejected": {"impressions duplicate": 1234}, "filled": {"videos.safety": 4}}
    text = card_of(read(written(tmp_path / "tables", tables(), **report)), tmp_path / "out", SCHEMA)
    for line in (
        "# Data card: tiny",
        "Written by `the command`",
        "| Requests | 6, with 1.3 impressions on average |",
        "| Users | 4, of which 3 have an impression |",
        "| Repeats | 12.5% of impressions repeat a video to a user |",
        "| test | 2025-03-12 to 2025-03-12 | 3 | 33.3% | 66.7% |",
        "| 2025-03-11 | 2 | 0% | 0% | 0% | 0.5 |",
        "Mean watch time is 1.6 s; 25% of impressions have none.",
        "33.3% of videos with a known duration were watched to the end or longer.",
        "| impressions of users | 2 | 2 | 2 | 3 | 3 | 3 | 3 | 3 | 37.5% | 37.5% | 0.083 |",
        "| `age` | Float64 | years | 25% | 20 / 20 / 31.2 / 40 / 40 |",
        "| 120 | 120 | 120 | 120 | 400 | 4,056 | 4,056 | 4,056 | 4,056 | 25% |",
        "| 1,234 | impressions duplicate |",
        "| `videos.safety` | 4 |",
    ):
        assert line in text, line
    for name in ("ann", "bob", "cat", "v1", "r1"):
        assert name not in text.replace("categories", "").split()
    linked = {line.split("(")[1].rstrip(")") for line in text.splitlines() if line.startswith("![")}
    assert linked == {f"data_card/{path.name}" for path in (tmp_path / "out" / "data_card").iterdir()}


def test_gap_and_warm_up_have_a_line_of_their_own(found):
    split = TimeSplit(valid_days=0, test_days=1, gap_days=1)
    days = found.days.with_columns(split=pl.Series(split.assign(found.days["day"])))
    text = card.held_out(Figures(**{**vars(found), "days": days}), split)
    assert "| none (gap or warm-up) | 2025-03-11 to 2025-03-11 | 2 | – | – |" in text


def test_the_same_tables_give_the_same_bytes_in_files_or_partitions(world_tables, world_schema, tmp_path):
    whole = written(tmp_path / "whole", world_tables)
    parts = written(tmp_path / "parts", world_tables)
    (parts / "impressions.parquet").unlink()
    for (day,), rows in world_tables.impressions.group_by("day", maintain_order=True):
        (parts / "impressions" / f"date={day}").mkdir(parents=True)
        rows.drop("day").write_parquet(parts / "impressions" / f"date={day}" / "part-0.parquet")
    texts = [card_of(read(folder, "sample"), tmp_path / folder.name / "out", world_schema) for folder in (whole, parts, whole)]
    assert texts[0] == texts[1] == texts[2]
    plots = [sorted((folder / "out" / "data_card").iterdir()) for folder in (whole, parts)]
    assert [path.name for path in plots[0]] == ["bytes.png", "days.png", "hours.png", "tails.png", "watch_ratio.png"]
    assert [path.read_bytes() for path in plots[0]] == [path.read_bytes() for path in plots[1]]
    assert sum(path.stat().st_size for path in plots[0]) < 100_000


def test_a_missing_file_is_named_with_its_repair(tmp_path):
    folder = written(tmp_path / "tables", tables())
    (folder / "users.parquet").unlink()
    with pytest.raises(DataError, match=r"neither users.parquet nor a folder users/ .*run `dvc repro tables`"):
        read(folder)
    shutil.rmtree(folder)
    with pytest.raises(DataError, match=r"report.json is missing; run `dvc repro tables`"):
        read(folder)


def test_every_preset_is_written_about():
    names = [path.stem for path in CONF.glob("*.yaml")]
    assert "sample" in names
    assert [name for name in names if provenance_of(name).startswith("Nothing")] == []
    assert "'mine'" in provenance_of("mine")
    assert provenance_of("kuairand") not in provenance_of_others("kuairand")
    assert provenance_of("kuairand") in provenance_of_others("sample")


def test_tables_are_read_and_checked_without_the_plots():
    code = "import sys, watchnext.data.validation, watchnext.data.card.log_figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
