"""Somebody else's logs: every layout reads the same, and everything that is wrong is told at once."""

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from watchnext.data.check.describe import describe_tables
from watchnext.data.check.log_checks import Finding, check_log
from watchnext.data.loaders.canonical import CanonicalTables, read_sources
from watchnext.data.structure import expected_columns
from watchnext.data.tables import TABLES, DataError, Tables, in_order
from watchnext.data.validation import validate
from watchnext.schema import FeatureSchema

ROOT = Path(__file__).resolve().parents[3]
REPAIR = "python -m watchnext.data describe"
SCHEMA = FeatureSchema.from_mapping(
    {
        "features": {
            "age": {"kind": "numerical", "entity": "user", "bounds": [0, 120], "nullable": True},
            "plan": {"kind": "categorical", "entity": "user", "nullable": True},
            "mood": {"kind": "categorical", "entity": "context", "nullable": True},
            "vector": {"kind": "vector", "entity": "video", "dimension": 2, "producer": "test", "nullable": True},
        }
    }
)
SOUND = {
    "impressions": """request_id,user_id,video_id,time_ms,day,position,watch_ms,click,like,received_ms
r1,1,v7,1000,2025-03-10,0,500,1,FALSE,1500
r1,1,v8,1000,2025-03-10,1,0,0,true,
r2,2,v7,2000,2025-03-11,,20,true,,2020
""",
    "users": "user_id,age,plan\n1,30.5,2\n2,,10\n",
    "videos": 'video_id,creator_id,tags,vector,language\nv7,007,a|b,0.5|-1.25,"en, us"\nv8,8,,,\n',
}


def folder(root: Path, **texts: str) -> Path:
    """The sound CSVs with some replaced."""
    root.mkdir(exist_ok=True)
    for name, text in {**SOUND, **texts}.items():
        (root / f"{name}.csv").write_text(text)
    return root


def found(root: Path) -> list[Finding]:
    return check_log(read_sources(root, SCHEMA, repair=REPAIR), SCHEMA)


def as_text(frame: pl.DataFrame) -> pl.DataFrame:
    """As a CSV holds it."""
    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
    return frame.with_columns(pl.col(name).list.eval(pl.element().cast(pl.String)).list.join("|") for name in lists)


def run(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "watchnext.data", *map(str, words)], cwd=ROOT, capture_output=True, text=True
    )


def test_a_csv_is_read_as_what_its_columns_are(tmp_path):
    read = {name: source.rows() for name, source in read_sources(folder(tmp_path), SCHEMA, repair=REPAIR).items()}
    impressions, users, videos = read["impressions"], read["users"], read["videos"]
    assert impressions.schema["user_id"] == users.schema["user_id"] == pl.Int64
    assert impressions.schema["request_id"] == impressions.schema["video_id"] == pl.String
    assert videos["creator_id"].to_list() == ["007", "8"]  # a leading zero is part of a name
    assert impressions["click"].to_list() == [True, False, True]
    assert impressions["like"].to_list() == [False, True, None]
    assert impressions["position"].to_list() == [0, 1, None]
    assert impressions["day"].cast(pl.String).to_list() == ["2025-03-10", "2025-03-10", "2025-03-11"]
    assert users.rows() == [(1, 30.5, 2), (2, None, 10)]
    assert videos["tags"].to_list() == [["a", "b"], None]
    assert videos["vector"].to_list() == [[0.5, -1.25], None]
    assert videos["language"].to_list() == ["en, us", None]
    assert found(tmp_path) == []


@pytest.mark.parametrize("layout", ["parquet", "csv", "parts", "csv parts", "day=", "date=", "csv date="])
def test_every_layout_gives_the_same_tables(layout, world_tables, world_schema, tmp_path):
    suffix = "csv" if "csv" in layout else "parquet"

    def write(frame: pl.DataFrame, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        as_text(frame).write_csv(path) if suffix == "csv" else frame.write_parquet(path)

    for table in TABLES:
        frame = getattr(world_tables, table)
        if "=" in layout and table == "impressions":
            key = layout.split()[-1]
            for (day,), rows in frame.group_by("day", maintain_order=True):
                half = len(rows) // 2
                write(rows[:half].drop("day"), tmp_path / table / f"{key}{day}" / f"part-0.{suffix}")
                write(rows[half:].drop("day"), tmp_path / table / f"{key}{day}" / f"part-1.{suffix}")
            (tmp_path / table / "_SUCCESS").touch()
        elif "parts" in layout:
            write(frame[:40], tmp_path / table / f"a.{suffix}")
            write(frame[40:], tmp_path / table / f"b.{suffix}")
            write(frame[:1], tmp_path / table / "_temporary" / f"c.{suffix}")
        else:
            write(frame, tmp_path / f"{table}.{suffix}")
    schema = tmp_path / "features.yaml"
    world_schema.save(schema)
    loaded = CanonicalTables(root=str(tmp_path), features=str(schema)).read()
    assert len(loaded.rejected) == 0
    read = validate(loaded.tables, world_schema).tables
    for table in TABLES:
        wanted = getattr(world_tables, table)
        if suffix == "csv" and table == "users":  # a numerical feature may be whole, but a CSV does not say so
            wanted = wanted.with_columns(pl.col("account_age_days").cast(pl.Float64))
        assert_frame_equal(getattr(read, table), wanted)
    assert check_log(read_sources(tmp_path, world_schema, repair=REPAIR), world_schema) == []


def test_all_faults_of_columns_are_told_at_once_and_the_rows_of_the_others_still_looked_at(tmp_path):
    folder(
        tmp_path,
        impressions="request_id,user_id,vidoe_id,time_ms,day,watch_ms,hour\nr1,1,v7,1000,2025-03-10,-5,3\n",
        users="user_id,age\n1,130\n",
    )
    seen = [(one.kind, one.table, one.message.split(";")[0]) for one in found(tmp_path)]
    assert seen[0] == ("unknown", "impressions", "impressions has the unknown column 'vidoe_id'")
    assert ("unknown", "impressions", "impressions has the unknown column 'hour'") in seen
    assert ("missing", "impressions", "impressions lacks the column 'video_id'") in seen
    assert ("out of range", "impressions", "watch_ms is below 0") in seen
    assert ("out of range", "users", "age is above 120") in seen
    assert ("unknown", "impressions", "unknown user") in seen  # the only user did not pass
    assert len(seen) == 6
    with pytest.raises(DataError, match=r"(?s)unknown column 'vidoe_id'; did you mean 'video_id'.*lacks the column 'video_id'"):
        validate(CanonicalTables(root=str(tmp_path)).read().tables, FeatureSchema.from_mapping({}))


def test_mistyped_columns_of_parquet_are_all_named_with_the_cast_that_helps(tmp_path):
    read = {name: source.rows() for name, source in read_sources(folder(tmp_path / "a"), SCHEMA, repair=REPAIR).items()}
    wrong = read["impressions"].with_columns(
        pl.col("user_id").cast(pl.String), pl.col("watch_ms") > 0, pl.struct(surface="position"), pl.col("day").dt.year() * 1.5
    )
    (tmp_path / "b").mkdir()
    for name, frame in {**read, "impressions": wrong}.items():
        frame.write_parquet(tmp_path / "b" / f"{name}.parquet")
    day, surface, watch, ids = ((one.kind, one.message) for one in found(tmp_path / "b"))
    assert day == (
        "mistyped",
        "impressions.day is of type Float64, expected Date; write CAST(day AS DATE) in SQL, "
        "pl.col('day').cast(pl.Date) in polars",
    )
    assert surface[1].startswith(
        "impressions.surface is of type Struct({'surface': Int16}), expected String; write the one of its"
    )
    assert "impressions.watch_ms is of type Boolean, expected Int64; write CAST(watch_ms AS BIGINT)" in watch[1]
    assert ids[1].startswith(
        "user_id is String in impressions and Int64 in users; expected one id type per data set; write both"
    )


def test_values_are_told_by_file_and_row_with_counts_and_the_first_three(tmp_path):
    header = "request_id,user_id,video_id,time_ms,watch_ms,click\n"
    days = {
        "2025-03-10": ["r1,1,v7,soon,5,1", "r2,1,v7,1000,-1,1", "r3,1,v8,3000,-2,maybe"],
        "2025-03-11": ["r4,2,v8,2000,-3,0", "r5,2,v9,4000,-4,0", "r6,2,v7,4000,5,0", "r7,2,v7,4000,5,0", "r8,,v7,5000,5,0"],
    }
    folder(tmp_path)
    (tmp_path / "impressions.csv").unlink()
    for day, rows in days.items():
        path = tmp_path / "impressions" / f"date={day}" / "part.csv"
        path.parent.mkdir(parents=True)
        path.write_text(header + "\n".join(rows) + "\n")
    first, second = (tmp_path / "impressions" / f"date={day}" / "part.csv" for day in days)
    timestamp = "nor a timestamp like 2025-03-10 08:00:00Z"
    got = {(one.kind, one.message): (one.count, one.examples) for one in found(tmp_path)}
    assert got == {
        ("mistyped", f"time_ms is not a whole number of type Int64, {timestamp}"): (1, (f"{first} row 0: soon",)),
        ("mistyped", "click is not one of 0, 1, true, false"): (1, (f"{first} row 2: maybe",)),
        ("out of range", "watch_ms is below 0"): (
            3,
            (f"{first} row 1: -1", f"{second} row 0: -3", f"{second} row 1: -4"),
        ),
        ("unknown", "unknown video"): (1, (f"{second} row 1: v9",)),
        ("duplicated", "duplicate"): (1, (f"{second} row 3: 2 v7 4000",)),
        ("missing", "user_id is null"): (1, (f"{second} row 4: None",)),
    }
    loaded = CanonicalTables(root=str(tmp_path)).read()
    assert loaded.rejected.select("row", "value").rows() == [(0, "soon"), (2, "maybe")]
    assert len(loaded.tables.impressions) == 6


def test_an_id_with_a_nul_byte_is_told_so_that_it_shows(tmp_path):
    videos = read_sources(folder(tmp_path), SCHEMA, repair=REPAIR)["videos"].rows()
    (tmp_path / "videos.csv").unlink()
    videos.with_columns(creator_id=pl.Series(["c1", "c1\0"])).write_parquet(tmp_path / "videos.parquet")
    finding = found(tmp_path)[-1]  # before it: the rejected video's impressions name none that is known
    assert (finding.kind, finding.message, finding.count) == ("out of range", "creator_id contains a NUL byte", 1)
    assert finding.examples == (f"{tmp_path / 'videos.parquet'} row 1: c1\\0",)


def test_rows_out_of_order_are_told(tmp_path):
    folder(
        tmp_path,
        impressions="""request_id,user_id,video_id,time_ms,day,watch_ms,received_ms
r1,1,v7,3000,2025-03-10,0,3000
r2,1,v8,1000,2025-03-10,0,900
r3,2,v7,2000,2025-03-10,0,
r4,2,v8,3000,2025-03-10,0,2999
""",
    )
    name = tmp_path / "impressions.csv"
    assert found(tmp_path) == [
        Finding(
            "out of order",
            "impressions",
            "time_ms is below that of an earlier row",
            2,
            (f"{name} row 1: 1000 < 3000", f"{name} row 2: 2000 < 3000"),
        ),
        Finding(
            "out of order",
            "impressions",
            "received_ms is before time_ms",
            2,
            (f"{name} row 1: 900 < 1000", f"{name} row 3: 2999 < 3000"),
        ),
    ]


@pytest.mark.parametrize(
    ("header", "value", "reason"),
    [
        ("day", "10.03.2025", "day is not a date like 2025-03-10"),
        ("position", "40000", "position is not a whole number of type Int16"),
        ("propensity", "half", "propensity is not a number"),
        ("watch_ms", "1.5", "watch_ms is not a whole number of type Int64"),
    ],
)
def test_a_value_that_is_none_of_its_type_is_told(header, value, reason, tmp_path):
    columns = {"request_id": "r", "user_id": "1", "video_id": "v7", "time_ms": "1", "day": "2025-03-10", "watch_ms": "1"}
    columns[header] = value
    folder(tmp_path, impressions=f"{','.join(columns)}\n{','.join(columns.values())}\n")
    (one,) = found(tmp_path)
    assert (one.kind, one.message, one.examples) == ("mistyped", reason, (f"{tmp_path / 'impressions.csv'} row 0: {value}",))


def test_a_vector_with_a_word_in_it_is_refused_and_a_long_value_cut(tmp_path):
    folder(tmp_path, videos=f"video_id,vector\nv7,0.5|{'x' * 200}\nv8,1|2\n")
    unknown, vector = found(tmp_path)
    assert vector.message == "vector is not numbers separated by |"
    assert vector.examples[0].endswith("row 0: 0.5|" + "x" * 76 + "...")
    assert (unknown.message, unknown.count) == ("unknown video", 2)


def test_a_table_without_rows_is_told(tmp_path):
    folder(tmp_path, videos="video_id\n")
    empty, unknown = found(tmp_path)
    assert str(empty) == "missing      videos: there are no rows"
    assert (unknown.message, unknown.count) == ("unknown video", 3)
    (tmp_path / "users.csv").write_bytes(b"\xef\xbb\xbfuser_id,age\r\n1,2\r\n2,3\r\n")  # as spreadsheets write it
    assert found(tmp_path) == [empty, unknown]


def test_every_table_that_cannot_be_read_is_named(tmp_path):
    folder(tmp_path)
    (tmp_path / "impressions.csv").unlink()
    (tmp_path / "impressions").mkdir()
    (tmp_path / "users.parquet").write_bytes(b"")
    (tmp_path / "videos.csv").write_text("")
    with pytest.raises(DataError) as raised:
        read_sources(tmp_path, SCHEMA, repair=REPAIR)
    empty, twice, blank = str(raised.value).split("\n")
    assert empty.endswith("impressions/ holds 0 files, expected at least one, all .parquet or all .csv")
    assert twice.endswith("users.csv are both there, expected one of them; remove the other")
    assert blank.endswith(f"videos.csv is empty, expected a header line; run `{REPAIR}`")


def test_a_column_that_changes_its_type_between_partitions_is_named(tmp_path):
    folder(tmp_path)
    (tmp_path / "users.csv").unlink()
    (tmp_path / "users").mkdir()
    pl.DataFrame({"user_id": [1], "age": [3.0]}).write_parquet(tmp_path / "users" / "a.parquet")
    pl.DataFrame({"user_id": [2], "plan": ["x"]}).write_parquet(tmp_path / "users" / "b.parquet")
    rows = read_sources(tmp_path, SCHEMA, repair=REPAIR)["users"].rows()
    assert rows.rows() == [(1, 3.0, None), (2, None, "x")]  # an added column is null before
    pl.DataFrame({"user_id": ["2"], "age": [[4]]}).write_parquet(tmp_path / "users" / "c.parquet")
    with pytest.raises(DataError, match=r"(?s)c\.parquet: user_id is of type String, but Int64 in .*a\.parquet.*: age is of"):
        read_sources(tmp_path, SCHEMA, repair=REPAIR)


def test_the_command_exits_1_and_prints_everything_or_0(tmp_path):
    clean = run("check", "data", "features=world")
    assert (clean.returncode, clean.stderr) == (0, "")
    assert clean.stdout.endswith("nothing is wrong\n")
    folder(tmp_path, users="user_id,age\n1,x\n2,3\n", videos="video_id\nv7\nv7\nv8\n")
    bad = run("check", tmp_path)
    assert (bad.returncode, bad.stderr) == (1, "")
    assert f"duplicated   videos: duplicate: 1 row\n               {tmp_path}/videos.csv row 1: v7\n" in bad.stdout
    assert "unknown      users: users has the unknown column 'age'" in bad.stdout
    absent = run("check", tmp_path / "absent")
    assert absent.returncode == 1
    assert "expected a folder" in absent.stderr


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf" / "features").glob("*.yaml")))
def test_the_guide_names_every_column_with_its_unit_and_bounds(name):
    schema = FeatureSchema.load(ROOT / "conf" / "features" / f"{name}.yaml")
    sections = {part.split("\n")[0]: part for part in describe_tables(schema).split("## ")}
    for table in TABLES:
        rows = {line.split("`")[1]: line for line in sections[table].splitlines() if line.startswith("| `")}
        expected = expected_columns(table, schema)
        assert list(rows) == list(expected)
        assert {*TABLES[table]} <= {*rows}
        for column, one in expected.items():
            unit = one.feature.unit if one.feature and one.feature.unit else one.column.unit if one.column else ""
            assert unit in rows[column]
            assert all(f"{bound:.15g}" in rows[column] for bound in one.lows | one.highs)


def test_the_guide_is_printed_by_its_command():
    told = run("describe", "features=world")
    assert told.returncode == 0
    assert told.stdout.rstrip() == describe_tables(FeatureSchema.load(ROOT / "conf/features/world.yaml")).rstrip()
    assert "| `safety` | String |  | yes | safe, mature, unsafe | structure |" in told.stdout
    assert "A list is `a|b`" in told.stdout


def with_a_bot(tables: Tables, rows: int) -> Tables:
    """A viewer who is shown so many more impressions, a second apart."""
    frame, viewer = tables.impressions, pl.lit(tables.users["user_id"].max() + 1, pl.Int64)
    later = pl.int_range(1, rows + 1, dtype=pl.Int64)
    bot = pl.concat(
        [frame[0].with_columns(user_id=viewer, watch_ms=pl.lit(0, pl.Int64), received_ms=pl.lit(None, pl.Int64))] * rows
    )
    bot = bot.with_columns(time_ms=pl.col("time_ms") + 1000 * later, request_id=pl.lit(10**9, pl.Int64) + later)
    users = pl.concat([tables.users, tables.users[0].with_columns(user_id=viewer)])
    return Tables(in_order(pl.concat([frame, bot])), users, tables.videos)


@pytest.mark.parametrize(("rows", "named"), [(200, False), (6000, True)])
def test_a_viewer_with_most_of_the_log_is_named(rows, named, world_tables, world_schema, tmp_path):
    tables = with_a_bot(world_tables, rows)
    for name, frame in vars(tables).items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
    told = [
        one for one in check_log(read_sources(tmp_path, world_schema, repair=REPAIR), world_schema) if one.kind == "suspicious"
    ]
    assert [one.count for one in told] == [rows] * named
    if named:
        assert told[0].message.startswith(f"user_id {tables.users['user_id'].max()} has 66.8% of the log, 1")
