"""Logs as pandas, Spark, Hive, DuckDB and people write them: what is plain is read and said, the rest refused by name."""

import bz2
import gzip
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from watchnext.data.check.log_checks import check_log, notes
from watchnext.data.loaders.canonical import CanonicalTables, read_sources
from watchnext.data.stage import write_stage
from watchnext.data.tables import DataError, Tables
from watchnext.schema import FeatureSchema

SCHEMA = {
    "features": {
        "age": {"kind": "numerical", "entity": "user", "nullable": True},
        "plan": {"kind": "categorical", "entity": "user", "nullable": True},
        "vector": {"kind": "vector", "entity": "video", "dimension": 2, "producer": "test", "nullable": True},
    }
}
FEATURES = FeatureSchema.from_mapping(SCHEMA)
T = 1_741_564_800_000  # midnight UTC of DAY
DAY = date(2025, 3, 10)
COLUMNS = {
    "impressions": {
        "request_id": [1, 1, 2],
        "user_id": [1, 1, 2],
        "video_id": [7, 8, 7],
        "time_ms": [T, T, T + 1000],
        "day": [DAY] * 3,
        "surface": ["home", "feed", None],
        "position": [0, 1, None],
        "propensity": [0.5, 0.25, None],
        "watch_ms": [500, 0, 20],
        "received_ms": [T + 500, None, T + 1020],
        **{name: [True, False, False] for name in ("click", "long_view", "like", "share", "follow", "comment", "hide")},
    },
    "users": {"user_id": [1, 2], "age": [30.0, None], "plan": [2, None]},
    "videos": {
        "video_id": [7, 8],
        "creator_id": [70, None],
        "upload_ms": [T - 1000, None],
        "duration_ms": [1000, None],
        "tags": [["a", "b"], None],
        "vector": [[0.5, 1.0], None],
    },
}
READ = {"position": pl.Int16, "propensity": pl.Float32, "vector": pl.List(pl.Float32)}


def frames() -> dict[str, pl.DataFrame]:
    return {table: pl.DataFrame(columns, schema_overrides=_overrides(columns)) for table, columns in COLUMNS.items()}


def _overrides(columns: dict) -> dict:
    return {name: kind for name, kind in READ.items() if name in columns}


def written(root: Path, **changed: pl.DataFrame) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for table, frame in {**frames(), **changed}.items():
        frame.write_parquet(root / f"{table}.parquet")
    return root


def csvs(root: Path, **texts: str) -> Path:
    """The same as CSV, with some tables replaced."""
    root.mkdir(parents=True, exist_ok=True)
    for table, frame in frames().items():
        lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
        plain = frame.with_columns(pl.col(name).cast(pl.List(pl.String)).list.join("|") for name in lists)
        (root / f"{table}.csv").write_text(texts.get(table) or plain.write_csv())
    return root


def read(root: Path) -> Tables:
    """As a stage reads it, and nothing is found."""
    sources = read_sources(root, FEATURES, repair="repair")
    assert check_log(sources, FEATURES) == []
    return Tables(**{name: source.rows() for name, source in sources.items()})


def said(root: Path) -> list[str]:
    return notes(read_sources(root, FEATURES, repair="repair"), FEATURES)


def wrong(root: Path) -> list[tuple[str, str, int | None]]:
    return [(one.kind, one.message, one.count) for one in check_log(read_sources(root, FEATURES, repair="repair"), FEATURES)]


def staged(root: Path, out: Path) -> dict:
    features = out.parent / "features.json"
    features.parent.mkdir(exist_ok=True)
    FEATURES.save(features)
    return write_stage(CanonicalTables(root=str(root), features=str(features)), FEATURES, out).report


NO_TIME = "is not a whole number of type Int64, nor a timestamp like 2025-03-10 08:00:00Z"


def utc(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)


# ---- types in Parquet --------------------------------------------------------------------------------------------------


def test_the_types_of_this_house_are_read_without_a_word(tmp_path):
    tables = read(written(tmp_path))
    assert all(getattr(tables, table).equals(frame) for table, frame in frames().items())
    assert said(tmp_path) == []
    assert staged(tmp_path, tmp_path / "out" / "tables")["notes"] == []


MOMENTS = [None if ms is None else utc(ms) for ms in COLUMNS["impressions"]["received_ms"]]
NAIVE = [None if at is None else at.replace(tzinfo=None) for at in MOMENTS]
ALIKE = [
    ("impressions", "watch_ms", pa.array([500, 0, 20], pa.int32()), "Int32, read as Int64"),
    ("impressions", "watch_ms", pa.array([500, 0, 20], pa.uint64()), "UInt64, read as Int64"),
    ("impressions", "watch_ms", pa.array([500.0, 0.0, 20.0]), "Float64, read as Int64"),
    ("impressions", "watch_ms", pa.array([Decimal(500), Decimal(0), Decimal(20)], pa.decimal128(38, 9)), "Decimal"),
    ("impressions", "watch_ms", pa.array(["500", "0", "20.0"]), "String, read as Int64"),
    ("impressions", "watch_ms", pa.array([timedelta(milliseconds=ms) for ms in (500, 0, 20)]), "Duration"),
    ("impressions", "position", pa.array([0, 1, None], pa.int64()), "Int64, read as Int16"),
    ("impressions", "position", pa.array([0.0, 1.0, float("nan")]), "NaN counts as missing"),
    ("impressions", "propensity", pa.array([0.5, 0.25, None], pa.float64()), "Float64, read as Float32"),
    ("impressions", "surface", pa.array(["home", "feed", None]).dictionary_encode(), "Categorical, read as String"),
    ("impressions", "surface", pa.array([b"home", b"feed", None]), "Binary, read as String"),
    ("impressions", "click", pa.array([1, 0, 0], pa.int8()), "Int8, read as Boolean"),
    ("impressions", "click", pa.array([1.0, 0.0, 0.0]), "Float64, read as Boolean"),
    ("impressions", "click", pa.array(["True", "0", "f"]), "String, read as Boolean"),
    ("impressions", "click", pa.array(["yes", "No", "N"]), "words such as 1.0 or t"),
    ("impressions", "received_ms", pa.array(NAIVE, pa.timestamp("ns")), "without a zone, taken as UTC"),
    ("impressions", "received_ms", pa.array(MOMENTS, pa.timestamp("us", "Asia/Tokyo")), "Datetime"),
    ("impressions", "received_ms", pa.array([None if at is None else at.isoformat() for at in MOMENTS]), "with a zone"),
    ("impressions", "received_ms", pa.array([None if at is None else f"{at} UTC" for at in NAIVE]), "with a zone"),
    ("impressions", "received_ms", pa.array([None if at is None else str(at) for at in NAIVE]), "taken as UTC"),
    ("impressions", "day", pa.array([DAY] * 3, pa.date64()), "Datetime"),
    ("impressions", "day", pa.array(["2025-03-10"] * 3), "String, read as Date"),
    ("impressions", "day", pa.array([20250310] * 3, pa.int32()), "Int32, read as Date"),
    ("impressions", "day", pa.array(["2025-03-10 00:00:00"] * 3), "dates not written like 2025-03-10"),
    ("impressions", "user_id", pa.array([1, 1, 2], pa.uint32()), "UInt32, read as Int64"),
    ("impressions", "user_id", pa.array([1.0, 1.0, 2.0]), "Float64, read as Int64"),
    ("videos", "creator_id", pa.array([70.0, None]), "Float64, read as Int64"),
    ("videos", "tags", pa.array([["a", "b"], None], pa.large_list(pa.large_string())), None),
    ("videos", "tags", pa.array([["a", "b"], None], pa.list_(pa.dictionary(pa.int32(), pa.string()))), "List(Categorical)"),
    ("videos", "tags", pa.array([["a", "b"], None], pa.list_(pa.string(), 2)), "Array"),
    ("impressions", "watch_ms", pa.array([500, 0, 20], pa.float32()), "Float32, read as Int64"),
    ("videos", "tags", pa.array(["a|b", None]), "String, read as List(String)"),
    ("videos", "tags", pa.array(["['a', 'b']", None]), "lists in brackets"),
    ("videos", "vector", pa.array([[0.5, 1.0], None], pa.list_(pa.float64(), 2)), "Array"),
    ("videos", "vector", pa.array([[0.5, 1.0], None], pa.list_(pa.float64())), "List(Float64)"),
    ("users", "age", pa.array([30.0, None], pa.float32()), None),
    ("users", "age", pa.array([Decimal("30.0"), None]), "Decimal"),
    ("users", "age", pa.array(["30", "NaN"]), "words such as nan"),
    ("users", "plan", pa.array([2.0, None]), "Float64, read as Int64"),
    ("users", "plan", pa.array([2, None], pa.int16()), None),
]


@pytest.mark.parametrize(("table", "column", "values", "note"), ALIKE)
def test_other_types_of_the_same_meaning_are_read_and_said(table, column, values, note, tmp_path):
    mine = frames()[table].to_arrow()
    mine = mine.set_column(mine.column_names.index(column), column, values)
    written(tmp_path)
    pq.write_table(mine, tmp_path / f"{table}.parquet")
    got, wanted = getattr(read(tmp_path), table)[column], frames()[table][column]
    assert got.cast(wanted.dtype).to_list() == wanted.to_list()
    assert [one for one in said(tmp_path) if note and note in one and one.startswith(f"{table}: {column}: ")] or note is None
    assert staged(tmp_path, tmp_path / "out" / "tables")["rejected"] == {}


@pytest.mark.parametrize(
    ("table", "column", "values", "reason"),
    [
        ("impressions", "watch_ms", [500.0, 0.5, 20.0], "watch_ms is not a whole number of type Int64"),
        ("impressions", "watch_ms", [500, 2**63, 20], "watch_ms is not a whole number of type Int64"),
        ("impressions", "position", [0, 1, 40_000], "position is not a whole number of type Int16"),
        ("impressions", "click", [1, 2, 0], "click is not one of 0, 1, true, false"),
        ("impressions", "day", ["2025-03-10", "2025-02-30", "2025-03-10"], "day is not a date like 2025-03-10"),
        ("impressions", "day", [20250310, 20157, 20250310], "day is not a date like 2025-03-10"),
        ("impressions", "received_ms", [T + 500.0, T + 0.5, None], "received_ms is not a whole number of type Int64"),
        ("impressions", "request_id", [1.0, 2.0**60, 2.0], "request_id is not a whole number of type Int64"),
        ("impressions", "request_id", [1.0, 2.0**25, 2.0], "request_id is not a whole number that Float32 holds exactly, "),
        ("impressions", "watch_ms", [500.0, 2.0**25, 20.0], "watch_ms is not a whole number that Float32 holds exactly, "),
    ],
)
def test_a_value_without_a_plain_meaning_is_refused_with_its_row(table, column, values, reason, tmp_path):
    kind = pl.UInt64 if 2**63 in values else pl.Float32 if "Float32" in reason else None
    reason += "expected Int64 or Float64" if "Float32" in reason else ""
    written(tmp_path, **{table: frames()[table].with_columns(pl.Series(column, values, dtype=kind))})
    assert wrong(tmp_path) == [("mistyped", reason, 1)]
    assert staged(tmp_path, tmp_path / "out" / "tables")["rejected"] == {f"{table} {reason}": 1}


@pytest.mark.parametrize("kind", [pa.date32(), pa.timestamp("us")])
def test_a_day_beyond_every_calendar_is_refused(kind, tmp_path):
    mine = frames()["impressions"].to_arrow()
    days = pa.array([20_157, 2**25, 20_157], pa.int32()) if kind == pa.date32() else pa.array([T * 1000, 2**62, T * 1000])
    pq.write_table(mine.set_column(4, "day", days.cast(kind)), written(tmp_path) / "impressions.parquet")
    assert ("mistyped", "day is not a date like 2025-03-10", 1) in wrong(tmp_path)
    assert staged(tmp_path, tmp_path / "out" / "tables")["rejected"]["impressions day is not a date like 2025-03-10"] == 1


@pytest.mark.parametrize(
    ("table", "column", "values", "way"),
    [
        ("impressions", "request_id", pa.array([{"part": 1, "row": 2}] * 3), r"the one of its fields .* \(part, row\)"),
        ("impressions", "request_id", pa.array([b"\xff"] * 3), r"TO_HEX\(request_id\) in SQL"),
        ("videos", "tags", pa.array([[["a"]], None]), "one list a row, without lists in it"),
        ("videos", "tags", pa.array([[{"name": "a"}], None]), r"the one of its fields that is meant \(name\)"),
    ],
)
def test_a_type_without_a_cast_is_told_another_way(table, column, values, way, tmp_path):
    mine = frames()[table].to_arrow()
    written(tmp_path)
    pq.write_table(mine.set_column(mine.column_names.index(column), column, values), tmp_path / f"{table}.parquet")
    with pytest.raises(DataError, match=f"write {way}"):
        staged(tmp_path, tmp_path / "out" / "tables")


def test_lists_all_of_which_are_empty_are_read(tmp_path):
    mine = frames()["videos"].to_arrow()
    mine = mine.set_column(mine.column_names.index("tags"), "tags", pa.array([[], []], pa.list_(pa.null())))
    pq.write_table(mine, written(tmp_path) / "videos.parquet")
    assert read(tmp_path).videos["tags"].to_list() == [[], []]


def test_files_of_one_table_may_differ_in_how_wide_their_numbers_are(tmp_path):
    mine = frames()["impressions"]
    written(tmp_path)
    (tmp_path / "impressions.parquet").unlink()
    for number, kind in enumerate((pl.Int32, pl.Float64, pl.Int64)):
        (tmp_path / "impressions").mkdir(exist_ok=True)
        part = mine[number : number + 1].with_columns(pl.col("watch_ms", "user_id").cast(kind))
        part.write_parquet(tmp_path / "impressions" / f"part-{number}.snappy.parquet")
    (tmp_path / "impressions" / "_SUCCESS").touch()
    assert read(tmp_path).impressions.equals(mine)


def test_the_row_numbers_of_pandas_are_left_out(tmp_path):
    frames()["users"].to_pandas().set_index(pl.Series([5, 9]).to_numpy()).to_parquet(written(tmp_path) / "users.parquet")
    assert read(tmp_path).users["user_id"].to_list() == [1, 2]
    assert "users: row numbers that pandas wrote are left out" in said(tmp_path)


# ---- CSV ---------------------------------------------------------------------------------------------------------------


def test_counts_and_ids_that_pandas_wrote_as_floats_are_the_numbers_meant(tmp_path):
    pandas = {table: frame.to_pandas() for table, frame in frames().items()}
    pandas["videos"] = pandas["videos"][["video_id", "creator_id", "upload_ms", "duration_ms"]]
    for name in ("user_id", "video_id"):
        pandas["impressions"][name] = pandas["impressions"][name].astype(float)
    for table, frame in pandas.items():
        frame.to_csv(tmp_path / f"{table}.csv")  # with row numbers
    tables = read(tmp_path)
    assert tables.impressions["user_id"].to_list() == [1, 1, 2]
    assert tables.videos["creator_id"].to_list() == [70, None]
    assert tables.videos["duration_ms"].to_list() == [1000, None]
    assert tables.users["plan"].to_list() == [2, None]
    assert "impressions: user_id: whole numbers written like 12.0" in said(tmp_path)


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        ("user_id", ["1", "1.5", "2"], "user_id is not a whole number of type Int64"),
        ("user_id", ["1", "1e+18", "2"], "user_id is not a whole number of type Int64"),
        ("user_id", ["1", "nan", "2"], "user_id is null"),
        ("request_id", ["a", "12.0", "b"], "request_id is a number with a fraction of 0, expected 12 for 12.0"),
        ("request_id", ["a", "None", "b"], "request_id is null"),
        ("time_ms", ["1741564800000", "1.74156E+12", "1741564801000"], f"time_ms {NO_TIME}"),
        ("time_ms", ["1741564800000", "03/10/2025 00:00", "1741564801000"], f"time_ms {NO_TIME}"),
    ],
)
def test_an_id_or_time_that_lost_digits_is_refused_and_none_becomes_somebody_else(column, values, reason, tmp_path):
    mine = frames()["impressions"].with_columns(pl.Series(column, values))
    csvs(tmp_path, impressions=mine.write_csv())
    assert [(what, count) for _, what, count in wrong(tmp_path)] == [(reason, 1)]


def test_blanks_around_ids_are_left_out(tmp_path):
    mine = frames()["impressions"].with_columns(
        pl.Series("user_id", [" 1", "1 ", "2"]), pl.Series("request_id", [" a", "a", "b "])
    )
    assert read(csvs(tmp_path, impressions=mine.write_csv())).impressions["user_id"].to_list() == [1, 1, 2]
    assert read(tmp_path).impressions["request_id"].to_list() == ["a", "a", "b"]
    assert "impressions: user_id: blanks around an id are left out" in said(tmp_path)


@pytest.mark.parametrize(
    ("name", "write", "note"),
    [
        ("impressions.csv.gz", lambda text: gzip.compress(text.encode()), None),
        ("impressions.csv.bz2", lambda text: bz2.compress(text.encode()), None),
        ("impressions.tsv", lambda text: text.replace(",", "\t").encode(), "fields are separated by tabs"),
        ("impressions.csv", lambda text: text.replace(",", ";").encode(), "fields are separated by semicolons"),
        ("impressions.csv", lambda text: text.encode("utf-16"), "the text is UTF-16"),
        ("impressions.csv", lambda text: text.encode("utf-16-le"), "the text is UTF-16-LE"),
        ("impressions.csv", lambda text: text.encode("utf-8-sig"), None),
        ("impressions.csv", lambda text: text.replace("\n", "\r\n").encode(), None),
        ("impressions.csv", lambda text: text.replace(",", ", ").encode(), None),
        ("impressions.csv", lambda text: text.replace("\n", "\n\n").encode(), None),
    ],
)
def test_a_csv_may_be_packed_and_written_in_other_ways(name, write, note, tmp_path):
    csvs(tmp_path)
    text = (tmp_path / "impressions.csv").read_text()
    (tmp_path / "impressions.csv").unlink()
    (tmp_path / name).write_bytes(write(text))
    got = read(tmp_path).impressions
    assert got["watch_ms"].to_list() == [500, 0, 20]
    assert got["received_ms"].to_list() == COLUMNS["impressions"]["received_ms"]
    assert note is None or f"impressions: {note}" in said(tmp_path)


def test_blanks_around_words_are_left_out(tmp_path):
    mine = frames()["impressions"].with_columns(surface=pl.Series([" home", "feed ", " "]))
    assert read(csvs(tmp_path, impressions=mine.write_csv())).impressions["surface"].to_list() == ["home", "feed", None]
    assert "impressions: surface: blanks around a word are left out" in said(tmp_path)


def test_spark_and_hive_and_bigquery_spellings_of_a_csv(tmp_path):
    mine = frames()["impressions"].with_columns(
        pl.Series("watch_ms", ["5.0E2", "0.0", "2.0E1"]),
        pl.Series("received_ms", ["2025-03-10 00:00:00.5 UTC", r"\N", "2025-03-10T01:00:01.020+01:00"]),
        pl.Series("time_ms", ["2025/03/10 00:00:00", "2025/3/10 00:00", "2025-03-10 00:00:01"]),
        pl.Series("day", ["2025-03-10", "20250310", "2025/3/10"]),
    )
    got = read(csvs(tmp_path, impressions=mine.write_csv())).impressions
    assert got["watch_ms"].to_list() == [500, 0, 20]
    assert got["received_ms"].to_list() == [T + 500, None, T + 1020]
    assert got["day"].to_list() == [DAY] * 3


def test_a_line_break_within_quotes_is_part_of_the_field(tmp_path):
    csvs(tmp_path, users='user_id,age,plan\n1,30,"a\nb"\n2,,c\n')
    assert read(tmp_path).users["plan"].to_list() == ["a\nb", "c"]


@pytest.mark.parametrize("row", ["1,30", "1,30,2,9"])
def test_a_row_of_more_or_fewer_fields_is_named(row, tmp_path):
    csvs(tmp_path, users=f"user_id,age,plan\n2,,2\n{row}\n")
    with pytest.raises(
        DataError, match=rf"users.csv: 1 rows have another number of fields than the header's 3; line 3 .*'{row}'"
    ):
        read_sources(tmp_path, FEATURES, repair="repair")


def test_text_in_another_encoding_and_a_name_given_twice_are_named(tmp_path):
    csvs(tmp_path)
    (tmp_path / "users.csv").write_bytes("user_id,age,plan\n1,30,é\n2,,c\n".encode("latin-1"))
    (tmp_path / "videos.csv").write_text("video_id,tags,tags\n7,a,b\n")
    with pytest.raises(DataError, match=r"(?s)users.csv is not UTF-8 .*iconv.*videos.csv names the column 'tags' twice"):
        read_sources(tmp_path, FEATURES, repair="repair")


def test_a_file_that_is_neither_parquet_nor_csv_is_named(tmp_path):
    written(tmp_path)
    (tmp_path / "users.parquet").rename(tmp_path / "users.xlsx")
    (tmp_path / "videos.parquet").unlink()
    (tmp_path / "videos").mkdir()
    frames()["videos"].write_parquet(tmp_path / "videos" / "a.parquet")
    (tmp_path / "videos" / "b.orc").touch()
    with pytest.raises(
        DataError, match=r"(?s)users.xlsx is neither Parquet nor CSV.*videos/ holds 2 files, 1 of which are neither"
    ):
        read_sources(tmp_path, FEATURES, repair="repair")


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("impressions.csv", lambda text: gzip.compress(text.encode()), "is packed by gzip, .*csv.gz"),
        ("impressions.csv", lambda text: bz2.compress(text.encode()), "is packed by bzip2, .*csv.bz2"),
        ("impressions.csv", lambda text: b"PK\x03\x04" + text.encode(), "is a zip archive or a workbook"),
        ("impressions.csv", lambda text: b"PAR1" + text.encode(), "is Parquet, .*end in .parquet"),
        ("impressions.csv", lambda text: text.encode("utf-32"), "is UTF-32, .*iconv -f UTF-32"),
        ("impressions.csv", lambda text: text.split("\n", 1)[1].encode(), "begins with '1,1,7,.*expected a header line with"),
        ("impressions.csv", lambda text: f"# of March\n{text}".encode(), "begins with '# of March', which names no column"),
    ],
)
def test_a_file_that_is_no_csv_is_told_by_its_kind(name, write, said, tmp_path, capfd):
    csvs(tmp_path)
    (tmp_path / name).write_bytes(write((tmp_path / "impressions.csv").read_text()))
    with pytest.raises(DataError, match=said):
        read_sources(tmp_path, FEATURES, repair="repair")
    assert capfd.readouterr().err == ""


def test_files_put_behind_one_another_repeat_their_header(tmp_path):
    header, *lines = frames()["impressions"].write_csv().split("\n")
    csvs(tmp_path, impressions="\n".join([header, lines[0], header, *lines[1:]]))
    assert read(tmp_path).impressions["user_id"].to_list() == [1, 1, 2]
    assert "impressions: lines that repeat the header are left out (1)" in said(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["impressions.csv.zip", "impressions.jsonl", "impressions.txt", "Impressions.parquet", "impression.parquet",
     "impressions_2025-03-10.parquet", "Impressions/a.parquet"],
)  # fmt: skip
def test_a_log_of_another_form_or_name_is_not_passed_over_as_none(name, tmp_path):
    written(tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "impressions.parquet").rename(tmp_path / name)
    told = rf"impressions.parquet is missing; {name.split('/')[0]} is (neither Parquet nor CSV|no folder impressions/)"
    for attempt in (
        lambda: staged(tmp_path, tmp_path / "out" / "tables"),
        lambda: read_sources(tmp_path, FEATURES, repair="r"),
    ):
        with pytest.raises(DataError, match=told):
            attempt()


# ---- folder names ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "date=2025-03-10",
        "date=20250310",
        "dt=2025-3-10",
        "ds=2025-03-10",
        "day=2025%2F03%2F10",
        "day=2025-03-10 00%3A00%3A00",
        "Date=2025-03-10T00%3A00%3A00/hour=3",
        "year=2025/month=3/day=10",
        "year=2025/month=03/day=10",
        "yyyy=2025/mm=3/dd=10",
    ],
)
def test_a_day_in_folder_names_is_read_as_people_write_it(name, tmp_path):
    written(tmp_path)
    mine = frames()["impressions"]
    (tmp_path / "impressions.parquet").unlink()
    (tmp_path / "impressions" / name).mkdir(parents=True)
    mine.drop("day").write_parquet(tmp_path / "impressions" / name / "part-0.parquet")
    assert read(tmp_path).impressions.equals(mine.select(*mine.columns[:4], *mine.columns[5:], "day"))
    assert CanonicalTables(root=str(tmp_path)).by_day().keys() == {"2025-03-10"}
    report = staged(tmp_path, tmp_path / "out" / "tables")
    assert (report["impressions"], report["first_day"]) == (3, "2025-03-10")
    assert ("hour" in name) == any("folder names hold 'hour'" in note for note in report["notes"])


@pytest.mark.parametrize("name", ["date=2025-02-30", "date=25-03-10", "date=today", "date=2025-03", "year=2025/month=13/day=1"])
def test_a_folder_that_names_no_day_is_refused_by_name(name, tmp_path):
    written(tmp_path)
    (tmp_path / "impressions.parquet").unlink()
    (tmp_path / "impressions" / name).mkdir(parents=True)
    frames()["impressions"].drop("day").write_parquet(tmp_path / "impressions" / name / "part-0.parquet")
    for attempt in (
        lambda: staged(tmp_path, tmp_path / "out" / "tables"),
        lambda: read_sources(tmp_path, FEATURES, repair="r"),
    ):
        with pytest.raises(
            DataError, match=rf"{name}: the folder name holds the day '.*', expected a date like date=2025-03-10"
        ):
            attempt()


@pytest.mark.parametrize("name", ["date=2025-03-10/dt=2025-03-11", "year=2025/month=3/day=10/ds=20250311"])
def test_folders_that_name_two_days_are_refused(name, tmp_path):
    written(tmp_path)
    (tmp_path / "impressions.parquet").unlink()
    for each, said in ((name, "two"), (name.replace("11", "10"), "one")):
        (tmp_path / said / "impressions" / each).mkdir(parents=True)
        frames()["impressions"].drop("day").write_parquet(tmp_path / said / "impressions" / each / "part-0.parquet")
        for table in ("users", "videos"):
            frames()[table].write_parquet(tmp_path / said / f"{table}.parquet")
    assert len(read(tmp_path / "one").impressions) == 3
    with pytest.raises(DataError, match=r"the folder names hold two days, 2025-03-10 and '2025.*11', expected only"):
        read_sources(tmp_path / "two", FEATURES, repair="repair")


def test_values_of_folders_are_decoded_null_is_null_and_a_row_that_says_otherwise_is_refused(tmp_path):
    written(tmp_path)
    (tmp_path / "impressions.parquet").unlink()
    mine = frames()["impressions"]
    for row, surface in enumerate(("a%20b%2Fc", "__HIVE_DEFAULT_PARTITION__", "feed")):
        folder = tmp_path / "impressions" / "date=2025-03-10" / f"surface={surface}"
        folder.mkdir(parents=True)
        part = mine[row : row + 1] if surface == "feed" else mine[row : row + 1].drop("surface")
        part.with_columns(pl.lit("home").alias("surface") if surface == "feed" else []).write_parquet(folder / "part-0.parquet")
    sources = read_sources(tmp_path, FEATURES, repair="repair")
    assert {*sources["impressions"].frame["surface"]} == {"a b/c", None, "home"}
    assert wrong(tmp_path) == [("mistyped", "surface is not that of its folder", 1)]
    report = staged(tmp_path, tmp_path / "out" / "tables")
    assert report["rejected"] == {"impressions surface is not that of its folder": 1}


def test_two_spellings_of_a_day_are_one_day(tmp_path):
    written(tmp_path)
    (tmp_path / "impressions.parquet").unlink()
    mine = frames()["impressions"].drop("day")
    for name, rows in {"date=2025-03-10": mine[:2], "date=20250310": mine[2:]}.items():
        (tmp_path / "impressions" / name).mkdir(parents=True)
        rows.write_parquet(tmp_path / "impressions" / name / "part-0.parquet")
    assert staged(tmp_path, tmp_path / "out" / "tables")["impressions"] == 3


@pytest.mark.parametrize("numbers", [True, False])
def test_text_ids_are_of_the_kind_that_is_known(numbers, tmp_path):
    sources = read_sources(csvs(tmp_path), FEATURES, repair="repair", numbers={"user_id": numbers})
    kinds = {sources[table].frame.schema["user_id"] for table in ("impressions", "users")}
    assert kinds == {pl.Int64 if numbers else pl.String}


def test_ids_of_a_csv_are_of_the_kind_that_parquet_beside_it_has(tmp_path):
    mine = frames()["impressions"].with_columns(
        pl.col("user_id").cast(pl.String).cast(pl.Categorical), pl.col("video_id").cast(pl.Int32)
    )
    csvs(tmp_path)
    (tmp_path / "impressions.csv").unlink()
    mine.write_parquet(tmp_path / "impressions.parquet")
    tables = read(tmp_path)
    assert tables.users["user_id"].to_list() == ["1", "2"]
    assert tables.videos["video_id"].to_list() == [7, 8]


def test_a_day_without_rows_whose_columns_have_no_type_is_none(tmp_path):
    """As pandas writes an empty frame."""
    written(tmp_path)
    (tmp_path / "impressions.parquet").unlink()
    mine = frames()["impressions"].drop("day")
    for day, rows in {"2025-03-10": mine, "2025-03-11": mine.clear().cast(pl.Null)}.items():
        (tmp_path / "impressions" / f"date={day}").mkdir(parents=True)
        rows.write_parquet(tmp_path / "impressions" / f"date={day}" / "a.parquet")
    assert len(read(tmp_path).impressions) == 3
    report = staged(tmp_path, tmp_path / "out" / "tables")
    assert (report["impressions"], report["last_day"], report["rejected"]) == (3, "2025-03-10", {})


def test_days_that_a_folder_leaves_open_are_null_and_named(tmp_path):
    written(tmp_path)
    (tmp_path / "impressions.parquet").unlink()
    for name in ("day=2025-03-10", "day=__HIVE_DEFAULT_PARTITION__"):
        (tmp_path / "impressions" / name).mkdir(parents=True)
    frames()["impressions"].drop("day")[:2].write_parquet(tmp_path / "impressions" / "day=2025-03-10" / "a.parquet")
    frames()["impressions"].drop("day")[2:].write_parquet(
        tmp_path / "impressions" / "day=__HIVE_DEFAULT_PARTITION__" / "a.parquet"
    )
    assert wrong(tmp_path) == [("missing", "day is null", 1)]
    assert staged(tmp_path, tmp_path / "out" / "tables")["rejected"] == {"impressions day is null": 1}


@pytest.mark.parametrize("name", ["2025/03/10", "2025-03-10", "event_date=2025-03-10", "year=2025/month=3"])
def test_folders_whose_day_is_not_read_are_told_how_to_be_named(name, tmp_path):
    written(tmp_path)
    (tmp_path / "impressions.parquet").unlink()
    (tmp_path / "impressions" / name).mkdir(parents=True)
    frames()["impressions"].drop("day").write_parquet(tmp_path / "impressions" / name / "part-0.parquet")
    assert any("name it so: date=2025-03-10" in what for _, what, _ in wrong(tmp_path))


# ---- what is missing ---------------------------------------------------------------------------------------------------


def test_an_outcome_that_is_never_there_is_said_with_what_helps(tmp_path):
    written(tmp_path, impressions=frames()["impressions"].drop("long_view", "share"))
    told = said(tmp_path)
    assert told == staged(tmp_path, tmp_path / "out" / "tables")["notes"]
    long_view, share = told
    assert long_view.startswith("impressions: long_view is absent and counts as false")
    assert "labels.long_view_s=SECONDS" in long_view
    assert share == "impressions: share is absent and counts as false: its rates stay 0"
    assert check_log(read_sources(tmp_path, FEATURES, repair="repair"), FEATURES) == []


def test_an_outcome_that_is_said_in_part_of_the_rows_is_told(tmp_path):
    written(tmp_path, impressions=frames()["impressions"].with_columns(like=pl.Series([True, None, False])))
    (told,) = said(tmp_path)
    assert told.startswith("impressions: like is absent in 1 of 3 rows and counts as false there")
    assert staged(tmp_path, tmp_path / "out" / "tables")["notes"] == [told]


def test_an_outcome_that_cannot_be_read_is_not_told_to_be_missing(tmp_path):
    written(tmp_path, impressions=frames()["impressions"].with_columns(click=pl.Series(["maybe"] * 3)))
    assert said(tmp_path) == ["impressions: click: String, read as Boolean"]


def test_a_column_without_a_value_and_one_in_capitals_are_named(tmp_path):
    mine = frames()["impressions"].with_columns(watch_ms=pl.lit(None)).rename({"user_id": "USER_ID"})
    told = [what for _, what, _ in wrong(written(tmp_path, impressions=mine))]
    assert "impressions.watch_ms holds no value, expected one in every row" in told
    assert any("unknown column 'USER_ID'; did you mean 'user_id'?" in what for what in told)


def test_the_reason_for_an_empty_catalogue_is_that_of_the_rows_refused_while_reading(tmp_path):
    csvs(tmp_path, videos="video_id,duration_ms\n7,long\n8,short\n")
    with pytest.raises(
        DataError, match=r"no row of the videos table passes \(duration_ms is not a whole number of type Int64: 2\)"
    ):
        staged(tmp_path, tmp_path / "out" / "tables")


def test_notes_of_days_that_stayed_are_kept(tmp_path):
    mine = frames()["impressions"].with_columns(pl.col("watch_ms").cast(pl.Int32)).drop("day")
    written(tmp_path / "log")
    (tmp_path / "log" / "impressions.parquet").unlink()
    (tmp_path / "log" / "impressions" / "date=2025-03-10").mkdir(parents=True)
    mine.write_parquet(tmp_path / "log" / "impressions" / "date=2025-03-10" / "a.parquet")
    wanted = ["impressions: watch_ms: Int32, read as Int64"]
    assert staged(tmp_path / "log", tmp_path / "tables")["notes"] == wanted
    assert staged(tmp_path / "log", tmp_path / "tables")["notes"] == wanted
