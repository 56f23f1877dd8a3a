"""Columns against each other: every wrong unit is named with its factor, and an honest log is not accused."""

import polars as pl
import pytest

from watchnext.data.check.log_checks import check_log
from watchnext.data.consistency import contradictions, evidence_of, merged, offset_hint
from watchnext.data.loaders.canonical import CanonicalTables, read_sources
from watchnext.data.loaders.loaded import REJECTED, Loaded
from watchnext.data.stage import write_stage
from watchnext.data.tables import DataError, Tables
from watchnext.data.validation import validate
from watchnext.schema import FeatureSchema

DAY_MS = 86_400_000
UNITS = {
    "seconds": ("factor 1000:", lambda column: column // 1000),
    "minutes": ("factor 60000:", lambda column: column // 60_000),
    "microseconds": ("factor 1000:", lambda column: column * 1000),
    "nanoseconds": ("factor 1000000:", lambda column: column * 1_000_000),
}


def bent(tables: Tables, **columns: pl.Expr) -> Tables:
    """With other values in columns of whichever table has them."""
    frames = {}
    for name, frame in vars(tables).items():
        frames[name] = frame.with_columns(**{key: value for key, value in columns.items() if key in frame.columns})
    return Tables(**frames)


def judged(tables: Tables, schema: FeatureSchema) -> list[tuple[str, str, bool]]:
    return [(one.table, one.message, one.refused) for one in contradictions(evidence_of(vars(tables), schema), schema)]


def c(name: str) -> pl.Expr:
    return pl.col(name)


def some(every: int, changed: pl.Expr, others: pl.Expr) -> pl.Expr:
    return pl.when(pl.int_range(pl.len()) % every == 0).then(changed).otherwise(others)


def test_an_honest_log_is_not_accused(world_tables, world_schema):
    assert judged(world_tables, world_schema) == []
    halves = [bent(world_tables)] * 2
    halves = [
        Tables(world_tables.impressions[rows], world_tables.users, world_tables.videos)
        for rows in (slice(0, 900), slice(900, None))
    ]
    parts = [evidence_of(vars(half), world_schema) for half in halves]
    assert merged(parts) == evidence_of(vars(world_tables), world_schema)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(
    ("table", "column"), [("impressions", "time_ms"), ("impressions", "received_ms"), ("videos", "upload_ms")]
)
def test_a_moment_in_another_unit_is_refused_with_its_factor(table, column, unit, world_tables, world_schema):
    factor, change = UNITS[unit]
    (first, *_) = judged(bent(world_tables, **{column: change(c(column))}), world_schema)
    assert first[0] == table
    assert first[1].startswith(f"{column} and day contradict each other, {factor} {column} holds {unit} in")
    assert first[2]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("column", ["watch_ms", "duration_ms"])
def test_a_watch_beside_a_duration_in_another_unit(column, unit, world_tables, world_schema):
    factor, change = UNITS[unit]
    told = judged(bent(world_tables, **{column: change(c(column))}), world_schema)
    assert (told[0][0], told[0][2]) == ("impressions", True)
    assert told[0][1].startswith(f"watch_ms and duration_ms contradict each other, {factor}")


def test_watches_and_durations_both_in_another_unit(world_tables, world_schema):
    def both(unit: str) -> list[str]:
        change = UNITS[unit][1]
        told = judged(bent(world_tables, watch_ms=change(c("watch_ms")), duration_ms=change(c("duration_ms"))), world_schema)
        return [what.split(":")[0] for _, what, refused in told if refused]

    # What no video can be; and what takes longer than the wait for its outcome.
    assert any("duration_ms is about" in what and "it looks like seconds, factor 1000" in what for what in both("seconds"))
    assert any("watch_ms and received_ms contradict each other, factor about" in what for what in both("microseconds"))


@pytest.mark.parametrize(
    ("columns", "said", "refused"),
    [
        ({"upload_ms": c("upload_ms") + 60 * DAY_MS}, "upload_ms is more than a day after the video was shown in 2,982", True),
        ({"received_ms": c("time_ms") - DAY_MS}, "received_ms is before time_ms in 2,982 of 2,982 rows", True),
        ({"received_ms": c("received_ms") - c("time_ms")}, "received_ms and day contradict each other", True),
        ({"day": c("day") - pl.duration(days=365)}, "time_ms and day contradict each other: they lie days apart in", True),
        ({"time_ms": c("time_ms") // 1000, "day": pl.date(1970, 1, 21)}, "day lies before 1990 in 2,982 of 2,982 rows", True),
        ({"time_ms": c("time_ms") // DAY_MS * DAY_MS}, "all times are whole days", False),
        ({"time_ms": c("time_ms") // DAY_MS * DAY_MS - 8 * DAY_MS // 24}, "all times are whole days", False),
        ({"time_ms": c("time_ms") // 3_600_000 * 3_600_000}, "all times are whole hours", False),
        ({"watch_ms": some(20, pl.lit(80_000_000), c("watch_ms"))}, "more than 100 times", False),
        ({"time_ms": some(50, c("time_ms") // 1000, c("time_ms"))}, "factor 1000", True),
        ({"received_ms": some(4, pl.lit(0), c("received_ms"))}, "received_ms is before 1990 in 746 of 2,982 rows; does", False),
        ({"upload_ms": some(4, pl.lit(0), c("upload_ms"))}, "upload_ms is before 1990 in", False),
        ({"watch_ms": c("watch_ms") // 3_600_000}, "watch_ms is 0 in all 2,982 rows, so nothing counts as watched", False),
        ({"like": pl.lit(True)}, "like is true in all 2,982 rows: does the log lack skipped impressions", False),
    ],
)  # fmt: skip
def test_other_impossible_columns(columns, said, refused, world_tables, world_schema):
    told = judged(bent(world_tables, **columns), world_schema)
    assert [each[2] for each in told if said in each[1]] == [refused], told


@pytest.mark.parametrize("unit", ["seconds", "microseconds"])
def test_watches_of_some_days_in_another_unit(unit, world_tables, world_schema):
    day = world_tables.impressions["day"].unique().sort()[1]
    change = UNITS[unit][1]
    watches = pl.when(c("day") == day).then(change(c("watch_ms"))).otherwise(c("watch_ms"))
    told = [what for _, what, refused in judged(bent(world_tables, watch_ms=watches), world_schema) if refused]
    assert told[0].startswith("watch_ms contradicts itself, factor 1000: nine watches in ten are at most about")
    assert f"on {day}, and of" in told[0]


@pytest.mark.parametrize("layout", ["whole", "in days"])
def test_a_column_that_cannot_be_read_in_many_rows_refuses_the_log(layout, world_tables, world_schema, tmp_path):
    """Only rows without a watch, or without a click, could be read: figures would be of those alone."""
    seconds = world_tables.impressions.with_columns(c("watch_ms") / 1000)
    for name, frame in (vars(world_tables) | {"impressions": seconds}).items():
        if layout == "whole" or name != "impressions":
            frame.write_parquet(tmp_path / f"{name}.parquet")
    if layout == "in days":
        for (day,), rows in seconds.group_by("day"):
            (tmp_path / "impressions" / f"date={day}").mkdir(parents=True)
            rows.drop("day").write_parquet(tmp_path / "impressions" / f"date={day}" / "a.parquet")
    world_schema.save(tmp_path / "features.yaml")
    loader = CanonicalTables(root=str(tmp_path), features=str(tmp_path / "features.yaml"))
    told = r"watch_ms is not a whole number of type Int64, in .* of 2,982 rows: .*whole ms for seconds"
    with pytest.raises(DataError, match=told):
        write_stage(loader, world_schema, tmp_path / "tables")


def test_a_catalogue_of_which_no_video_passes_is_told_the_unit(world_tables, world_schema, tmp_path):
    for name, frame in vars(bent(world_tables, upload_ms=c("upload_ms") * 1000)).items():
        frame.write_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError, match="upload_ms and day contradict each other, factor 1000: upload_ms holds microseconds"):
        write_stage(CanonicalTables(root=str(tmp_path)), world_schema, tmp_path / "tables")


def test_a_raw_feature_that_is_a_moment_is_looked_at_too(world_tables, world_schema):
    mapping = world_schema.to_mapping()
    mapping["features"]["signup"] = {"kind": "numerical", "entity": "user", "unit": "s UTC"}
    schema, end = FeatureSchema.from_mapping(mapping), world_tables.impressions["time_ms"].max()
    users = world_tables.users.with_columns(signup=pl.lit(end // 1000 - 3 * 365 * 86_400, pl.Int64))
    assert judged(Tables(world_tables.impressions, users, world_tables.videos), schema) == []
    users = users.with_columns(c("signup") * 1000)
    (told,) = judged(Tables(world_tables.impressions, users, world_tables.videos), schema)
    assert told[0] == "users"
    assert "signup holds ms in" in told[1]


@pytest.mark.parametrize("unit", UNITS)
def test_a_catalogue_without_a_log_is_judged_by_itself(unit, world_tables, world_schema):
    catalogue = Tables(world_tables.impressions.clear(), world_tables.users, world_tables.videos)
    assert judged(catalogue, world_schema) == []
    change = UNITS[unit][1]
    uploads = judged(bent(catalogue, upload_ms=change(c("upload_ms"))), world_schema)
    assert [
        (table, f"looks like {unit}, factor 1" in what or unit == "minutes", refused) for table, what, refused in uploads
    ] == [("videos", True, True)]
    durations = judged(bent(catalogue, duration_ms=c("duration_ms") // 1000), world_schema)
    assert "it looks like seconds, factor 1000" in durations[0][1]


def test_a_few_rows_in_another_unit_are_rejected_one_by_one(world_tables, world_schema):
    few = pl.when(pl.int_range(pl.len()) < 3).then(c("time_ms") // 1000).otherwise(c("time_ms"))
    rejected = validate(bent(world_tables, time_ms=few), world_schema).rejected
    assert rejected["row"].to_list() == [0, 1, 2]
    assert rejected["reason"].unique().to_list() == ["time_ms does not fit its day, but would in a unit other than ms"]


def test_the_calendar_of_another_time_zone_is_a_hint(world_tables, world_schema):
    def hint(offset_h: float, configured: float) -> str | None:
        shifted = bent(world_tables, time_ms=c("time_ms") - round(offset_h * 3_600_000))
        return offset_hint(evidence_of(vars(shifted), world_schema), configured)

    assert hint(0, 0) is hint(5.5, 5.5) is None
    assert hint(5.5, 0).startswith("day is the date at UTC+5.5 in 100.0% of the rows, at UTC+0 in 8")
    assert "set data.utc_offset_h to -8" in hint(-8, 1)
    late = bent(world_tables, day=c("day") + pl.duration(days=1))  # no zone is so far east
    assert offset_hint(evidence_of(vars(late), world_schema), 0).startswith("day is the date of time_ms at no offset from UTC")


@pytest.mark.parametrize("layout", ["whole", "in days"])
def test_check_and_the_tables_stage_refuse_it(layout, world_tables, world_schema, tmp_path):
    """Also where no day by itself has enough rows to tell."""
    wrong = bent(world_tables, duration_ms=c("duration_ms") // 1000)
    log = tmp_path / "log"
    log.mkdir()
    for name, frame in vars(wrong).items():
        if layout == "whole" or name != "impressions":
            frame.write_parquet(log / f"{name}.parquet")
    if layout == "in days":
        for (day,), rows in wrong.impressions[::10].group_by("day"):
            (log / "impressions" / f"date={day}").mkdir(parents=True)
            rows.drop("day").write_parquet(log / "impressions" / f"date={day}" / "a.parquet")
    world_schema.save(tmp_path / "features.yaml")
    # The world's own bounds would reject every video first.
    mapping = world_schema.to_mapping()
    mapping["features"]["duration_ms"]["bounds"] = [None, None]
    schema = FeatureSchema.from_mapping(mapping)
    schema.save(tmp_path / "features.yaml")
    told = [one for one in check_log(read_sources(log, schema, repair="x"), schema) if one.kind == "contradiction"]
    assert "factor 1000" in told[0].message
    with pytest.raises(DataError, match=r"watch_ms and duration_ms contradict each other, factor 1000.*\n.*data check"):
        write_stage(CanonicalTables(root=str(log), features=str(tmp_path / "features.yaml")), schema, tmp_path / "tables")
    assert not (tmp_path / "tables" / "days.json").exists()


def test_a_suspicion_is_in_the_report(world_tables, world_schema, tmp_path):
    class Given:
        def read(self):
            times = c("time_ms") // DAY_MS * DAY_MS + DAY_MS
            tables = bent(world_tables, time_ms=times, received_ms=pl.lit(None, pl.Int64))
            return Loaded(tables, pl.DataFrame(schema=REJECTED))

    notes = write_stage(Given(), world_schema, tmp_path, utc_offset_h=0).report["notes"]
    days, zone = (note for note in notes if "time" in note)
    assert days.startswith("suspicious: impressions: all times are whole days")
    assert "day is the date at UTC-0.5 in 100.0% of the rows, at UTC+0 in 0.0%; set data.utc_offset_h to -0.5" in zone
