"""The profile that `check` prints: what a person knows of a log, in bounded plain text."""

import polars as pl
import pytest

from watchnext.data.check.profile import profile
from watchnext.data.structure import sound_columns
from watchnext.data.tables import Tables


def lines_of(tables: Tables, schema) -> list[str]:
    return "\n".join(profile(sound_columns(tables, schema)[0], schema)).split("\n")


def of(lines: list[str], name: str) -> str:
    return next(line.removeprefix(f"  {name}").strip() for line in lines if line.startswith(f"  {name} "))


def test_it_says_what_can_be_compared(world_tables, world_schema):
    days = world_tables.impressions["day"].unique().sort()
    few = world_tables.impressions.filter(pl.col("day") != days[1])
    lines = lines_of(Tables(few, world_tables.users, world_tables.videos), world_schema)
    top = few["user_id"].value_counts(sort=True)
    assert of(lines, "users") == f"{few['user_id'].n_unique()} with an impression, of 60 listed"
    assert of(lines, "days") == f"3 with rows, {days[0]} to {days[3]}; without: {days[1]}"
    assert of(lines, "most active").startswith(f"{top['user_id'][0]} {top['count'][0]} (")
    assert of(lines, "calendar") == "day is the date of time_ms at UTC+0 in 100% of the rows"
    assert of(lines, "click").split()[-2] == f"{100 * few['click'].mean():.3g}%"
    assert f"impressions: {len(few):,} rows" in lines
    assert any(line.startswith("  watch_ms     Int64         ms ") for line in lines)


@pytest.mark.parametrize("value", [2**62, -(2**62), 1_741_564_800_000_000_000, 0, None])
def test_it_is_printed_whatever_is_wrong(value, world_tables, world_schema):
    wild = {name: pl.lit(value, pl.Int64) for name in ("time_ms", "received_ms", "watch_ms", "upload_ms", "duration_ms")}
    frames = [
        frame.with_columns(**{name: wild[name] for name in wild if name in frame.columns})
        for frame in vars(world_tables).values()
    ]
    lines = lines_of(Tables(*frames), world_schema)
    assert len(lines) < 80
    assert max(map(len, lines)) < 250


def test_numbers_that_are_none_and_columns_without_a_value_are_printed(world_tables, world_schema):
    ages = pl.Series([float("inf"), 1e300, *[1.0] * (len(world_tables.users) - 2)])
    users = world_tables.users.with_columns(account_age_days=ages)
    lines = lines_of(Tables(world_tables.impressions, users, world_tables.videos), world_schema)
    assert "1 / 1 / 1" in of(lines, "account_age_days")
    assert of(lines, "account_age_days").endswith(" / inf")
    unwatched = world_tables.impressions.with_columns(watch_ms=pl.lit(None, pl.Int64))
    lines = lines_of(Tables(unwatched, users, world_tables.videos), world_schema)
    assert "mean watch –" in of(lines, "watches")


def test_a_moment_is_dated_in_the_unit_that_is_declared(world_tables, world_schema):
    mapping = world_schema.to_mapping()
    mapping["features"]["signup"] = {"kind": "numerical", "entity": "user", "unit": "s UTC"}
    users = world_tables.users.with_columns(signup=pl.lit(1_741_564_800, pl.Int64))
    lines = lines_of(Tables(world_tables.impressions, users, world_tables.videos), world_schema.from_mapping(mapping))
    assert of(lines, "signup").endswith("2025-03-10 to 2025-03-10")


def test_it_is_bounded_and_takes_any_part(world_tables, world_schema):
    long = world_tables.impressions.with_columns(user_id=pl.format("{}\n" + "x" * 50, pl.col("user_id")))
    lines = lines_of(
        Tables(long.drop("time_ms", "received_ms", "video_id"), world_tables.users, world_tables.videos), world_schema
    )
    assert len(lines) < 80
    assert max(map(len, lines)) < 250
    empty = Tables(*(frame.clear() for frame in vars(world_tables).values()))
    assert "impressions: 0 rows" in lines_of(empty, world_schema)
