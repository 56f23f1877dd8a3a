from datetime import date
from pathlib import Path

import polars as pl
import pytest

from watchnext.data.loaders.canonical import CanonicalTables
from watchnext.data.tables import OUTCOMES, DataError, Tables
from watchnext.data.validation import validate
from watchnext.schema import FeatureSchema

ROOT = Path(__file__).resolve().parents[3]
SCHEMA = FeatureSchema.from_mapping(
    {
        "features": {
            "region": {"kind": "categorical", "entity": "user"},
            "age": {"kind": "numerical", "entity": "user", "bounds": [0, 120], "nullable": True},
            "tags": {"kind": "sequence", "entity": "video", "nullable": True},
            "vector": {"kind": "vector", "entity": "video", "dimension": 2, "producer": "test", "nullable": True},
            "history": {"kind": "sequence", "entity": "user"},
            "user_counters": {"kind": "counter", "entity": "user"},
            "hour": {"kind": "categorical", "entity": "context", "expression": "hour"},
        }
    }
)


def tables(*, impressions=None, users=None, videos=None) -> Tables:
    """Three sound rows a table, with some columns replaced."""
    rows = {
        "request_id": ["r3", "r1", "r1"],
        "user_id": ["ann", "bob", "bob"],
        "video_id": [7, 8, 9],
        "time_ms": [3000, 1000, 1000],
        "day": [date(2025, 3, 10)] * 3,
        "position": pl.Series([0, 1, 0], dtype=pl.Int16),
        "propensity": pl.Series([0.5, 1.0, None], dtype=pl.Float32),
        "watch_ms": [0, 10, 20],
        **{name: [False, True, False] for name in OUTCOMES},
    }
    people = {"user_id": ["ann", "bob", "cat"], "region": ["de", "us", "us"], "age": [30.0, None, 20.0]}
    films = {
        "video_id": [7, 8, 9],
        "creator_id": [1, 1, None],
        "duration_ms": [1000, None, 3000],
        "safety": ["safe", None, "mature"],
        "vector": pl.Series([[1.0, 2.0], None, [0.0, 1.0]], dtype=pl.List(pl.Float32)),
    }
    return Tables(
        pl.DataFrame({**rows, **(impressions or {})}),
        pl.DataFrame({**people, **(users or {})}),
        pl.DataFrame({**films, **(videos or {})}),
    )


def rejected(given: Tables) -> list[tuple]:
    return validate(given, SCHEMA).rejected.rows()


def test_sound_rows_pass_in_order_and_what_was_lacking_is_reported():
    result = validate(tables(), SCHEMA)
    assert result.rejected.height == 0
    assert result.tables.impressions.select("time_ms", "request_id", "position").rows() == [
        (1000, "r1", 0),
        (1000, "r1", 1),
        (3000, "r3", 0),
    ]
    assert result.filled["impressions.surface"] == 3
    assert result.filled["videos.upload_ms"] == 3
    assert "videos.vector" not in result.filled
    assert result.tables.videos["tags"].dtype == pl.List(pl.String)
    assert "history" not in result.tables.users.columns


def test_lacking_outcomes_become_false_and_are_reported():
    given = tables(impressions={"like": [True, None, None]})
    result = validate(Tables(given.impressions.drop("share"), given.users, given.videos), SCHEMA)
    assert result.filled["impressions.share"] == 3
    assert result.filled["impressions.like"] == 2
    assert sorted(result.tables.impressions["like"].to_list()) == [False, False, True]
    assert not result.tables.impressions["share"].any()


@pytest.mark.parametrize(
    ("planted", "expected"),
    [
        ({"impressions": {"watch_ms": [0, -5, 20]}}, ("impressions", 1, "watch_ms is below 0", "-5")),
        (
            {"impressions": {"watch_ms": [0, 2**62, 20]}},
            ("impressions", 1, "watch_ms is above 86400000", "4611686018427387904"),
        ),
        ({"impressions": {"time_ms": [1, 2**62, 20]}}, ("impressions", 1, "time_ms is above 4102444800000", str(2**62))),
        ({"impressions": {"time_ms": [1, 0, 20]}}, ("impressions", 1, "time_ms is 0, its day is not of 1970", "0")),
        (
            {"impressions": {"received_ms": [0, 2**62, 20]}},
            ("impressions", 1, "received_ms is above 4102444800000", str(2**62)),
        ),
        ({"videos": {"duration_ms": [2**62, None, 5]}}, ("videos", 0, "duration_ms is above 604800000", str(2**62))),
        ({"videos": {"upload_ms": [2**62, None, 5]}}, ("videos", 0, "upload_ms is above 4102444800000", str(2**62))),
        ({"impressions": {"watch_ms": [0, None, 20]}}, ("impressions", 1, "watch_ms is null", "None")),
        ({"impressions": {"video_id": [7, 8, 99]}}, ("impressions", 2, "unknown video", "99")),
        ({"impressions": {"user_id": ["ann", "eve", "bob"]}}, ("impressions", 1, "unknown user", "eve")),
        (
            {"impressions": {"propensity": pl.Series([0.5, 1.5, None], dtype=pl.Float32)}},
            ("impressions", 1, "propensity is above 1", "1.5"),
        ),
        (
            {"impressions": {"request_id": ["r3", "r" * 65, "r1"]}},
            ("impressions", 1, "request_id is not of 1 to 64 bytes", "r" * 65),
        ),
        ({"impressions": {"request_id": ["r3", "", "r1"]}}, ("impressions", 1, "request_id is not of 1 to 64 bytes", "")),
        ({"users": {"age": [30.0, 121.0, None]}}, ("users", 1, "age is above 120", "121.0")),
        ({"users": {"region": ["de", "us", None]}}, ("users", 2, "region is null", "None")),
        ({"videos": {"safety": ["safe", "odd", None]}}, ("videos", 1, "safety is not one of safe, mature, unsafe", "odd")),
        ({"videos": {"duration_ms": [0, None, 5]}}, ("videos", 0, "duration_ms is below 1", "0")),
        (
            {"videos": {"vector": pl.Series([[1.0], None, [0.0, 1.0]], dtype=pl.List(pl.Float32))}},
            ("videos", 0, "vector is not of dimension 2", "[1.0]"),
        ),
        (
            {"videos": {"vector": pl.Series([[1.0, float("nan")], None, None], dtype=pl.List(pl.Float32))}},
            ("videos", 0, "vector is not finite", "[1.0, nan]"),
        ),
    ],
)
def test_every_planted_fault_is_named(planted, expected):
    result = validate(tables(**planted), SCHEMA)
    assert expected in result.rejected.rows()
    table, row = expected[:2]
    key = {"impressions": "watch_ms", "users": "user_id", "videos": "video_id"}[table]
    kept = getattr(result.tables, table)[key].to_list()
    assert len(kept) == 2
    assert getattr(tables(**planted), table)[key][row] not in kept


def test_a_number_that_is_not_finite_is_refused():
    assert ("users", 0, "age is not finite", "nan") in rejected(tables(users={"age": [float("nan"), 1.0, 2.0]}))


def test_an_id_counts_bytes_rather_than_letters():
    long = "ü" * 33
    assert ("users", 2, "user_id is not of 1 to 64 bytes", long) in rejected(tables(users={"user_id": ["ann", "bob", long]}))


def test_an_id_may_not_contain_nul():
    hidden = ["ann", "ann\0", "b\0b"]
    given = tables(users={"user_id": hidden}, impressions={"user_id": ["ann", "ann\0", "ann"]})
    result = validate(given, SCHEMA)
    assert result.rejected.rows() == [
        ("users", 1, "user_id contains a NUL byte", "ann\0"),
        ("users", 2, "user_id contains a NUL byte", "b\0b"),
        ("impressions", 1, "user_id contains a NUL byte", "ann\0"),
        ("impressions", 1, "unknown user", "ann\0"),
    ]
    assert result.tables.users["user_id"].to_list() == ["ann"]
    assert result.tables.impressions["user_id"].to_list() == ["ann", "ann"]


def test_the_first_sound_one_of_repeated_rows_stays():
    again = {"user_id": ["bob"] * 3, "video_id": [8] * 3, "time_ms": [1000] * 3, "watch_ms": [-1, 10, 20]}
    result = validate(tables(impressions=again), SCHEMA)
    assert result.rejected.rows() == [
        ("impressions", 0, "watch_ms is below 0", "-1"),
        ("impressions", 2, "duplicate", "bob 8 1000"),
    ]
    assert result.tables.impressions["watch_ms"].to_list() == [10]


def test_repeated_users_and_videos_are_refused():
    found = rejected(tables(users={"user_id": ["ann", "bob", "ann"]}, videos={"video_id": [7, 8, 7]}))
    assert ("users", 2, "duplicate", "ann") in found
    assert ("videos", 2, "duplicate", "7") in found
    assert ("impressions", 2, "unknown video", "9") in found


def test_a_row_with_two_faults_is_reported_twice_and_goes_once():
    result = validate(tables(impressions={"watch_ms": [-1, 10, 20], "video_id": [99, 8, 9]}), SCHEMA)
    assert sorted(result.rejected["reason"]) == ["unknown video", "watch_ms is below 0"]
    assert result.tables.impressions.height == 2


def test_columns_that_no_row_can_answer_for():
    sound = tables()
    with pytest.raises(DataError, match=r"users has the unknown column 'regoin'; did you mean 'region'\?"):
        validate(tables(users={"regoin": ["a", "b", "c"]}), SCHEMA)
    with pytest.raises(DataError, match=r"unknown column 'watch'; did you mean 'watch_ms'\?"):
        validate(Tables(sound.impressions.rename({"watch_ms": "watch"}), sound.users, sound.videos), SCHEMA)
    with pytest.raises(DataError, match="impressions lacks the column 'watch_ms'; where only clicks are known, write 1000"):
        validate(Tables(sound.impressions.drop("watch_ms"), sound.users, sound.videos), SCHEMA)
    with pytest.raises(DataError, match="users lacks the column 'region'"):
        validate(Tables(sound.impressions, sound.users.drop("region"), sound.videos), SCHEMA)
    with pytest.raises(DataError, match=r"impressions\.watch_ms is of type String, expected Int64"):
        validate(tables(impressions={"watch_ms": ["1", "2", "3"]}), SCHEMA)
    with pytest.raises(DataError, match="user_id is String in impressions and Int64 in users"):
        validate(tables(users={"user_id": [1, 2, 3]}), SCHEMA)


def test_no_rows_at_all_are_sound():
    sound = tables()
    result = validate(Tables(sound.impressions.clear(), sound.users.clear(), sound.videos.clear()), SCHEMA)
    assert (result.tables.impressions.height, result.rejected.height) == (0, 0)


def test_the_committed_sample_is_sound():
    loaded = CanonicalTables(root=str(ROOT / "data")).read()
    result = validate(loaded.tables, FeatureSchema.load(ROOT / "conf" / "features" / "world.yaml"))
    assert (result.rejected.height, dict(result.filled)) == (0, {})
    assert result.tables.impressions.height > 100_000
    assert result.tables.impressions["day"].n_unique() >= 8
    assert sum(path.stat().st_size for path in (ROOT / "data").glob("*.parquet")) < 5_000_000


def test_a_missing_or_truncated_file_is_named_with_what_mends_it(tmp_path):
    with pytest.raises(DataError, match=r"impressions\.parquet is missing; run `python -m watchnext.data describe`"):
        CanonicalTables(root=str(tmp_path)).read()
    for name, frame in vars(tables()).items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
    whole = (tmp_path / "videos.parquet").read_bytes()
    (tmp_path / "videos.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"videos\.parquet cannot be read.*run `python -m watchnext.data describe`"):
        CanonicalTables(root=str(tmp_path)).read()
