from datetime import date
from pathlib import Path

import pytest

from watchnext.cli import composed, instantiate
from watchnext.data.loaders.movielens import MovieLens
from watchnext.data.splits import TimeSplit
from watchnext.data.tables import DataError, Tables
from watchnext.data.validation import validate
from watchnext.schema import FeatureSchema

CONF = Path(__file__).resolve().parents[3] / "conf"
SCHEMA = FeatureSchema.load(CONF / "features" / "movielens.yaml")
T = 978_300_760  # 2000-12-31 22:12:40 UTC, in seconds


def old(root: Path, ratings: list[str], movies: list[str] | None = None, users: list[str] | None = None) -> Path:
    """The 1M layout: `::` between fields, Latin-1, no header."""
    files = {
        "ratings.dat": ratings,
        "movies.dat": movies or ["1::Toy Story (1995)::Animation|Children's|Comedy", "2::Misérables, Les (1998)::Drama"],
        "users.dat": users or ["1::F::1::10::48067", "2::M::56::16::70072"],
    }
    for name, lines in files.items():
        (root / name).write_bytes("".join(f"{line}\n" for line in lines).encode("latin-1"))
    return root


def new(root: Path, ratings: list[str], movies: list[str] | None = None) -> Path:
    """The 32M layout: CSV in UTF-8 with a header, half stars, nothing of users."""
    listed = movies or ["1,Toy Story (1995),Adventure|Animation", '11,"American President, The (1995)",(no genres listed)']
    files = {
        "ratings.csv": ["userId,movieId,rating,timestamp", *ratings],
        "movies.csv": ["movieId,title,genres", *listed],
        "tags.csv": ["userId,movieId,tag,timestamp", "1,1,fun,5"],
        "links.csv": ["movieId,imdbId,tmdbId", "1,0114709,862"],
    }
    for name, lines in files.items():
        (root / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return root


def read(root: Path):
    return MovieLens(root=str(root)).read()


def checked(tables: Tables) -> Tables:
    found = validate(tables, SCHEMA)
    assert found.rejected.height == 0, found.rejected
    return found.tables


def test_a_rating_is_a_watch_that_is_known_when_it_was_given(tmp_path):
    tables = read(old(tmp_path, [f"2::1::4::{T + 9}", f"1::2::5::{T}", f"1::1::3::{T}"])).tables
    rows = checked(tables).impressions
    assert rows.select("user_id", "video_id", "time_ms", "watch_ms", "click", "long_view", "like").rows() == [
        (1, 2, T * 1000, 100_000, True, True, True),
        (1, 1, T * 1000, 60_000, True, False, False),
        (2, 1, (T + 9) * 1000, 80_000, True, True, False),
    ]
    assert rows["received_ms"].to_list() == rows["time_ms"].to_list()
    assert rows["day"].to_list() == [date(2000, 12, 31)] * 3
    assert rows["request_id"].n_unique() == 3


def test_films_and_viewers_of_1m(tmp_path):
    tables = checked(read(old(tmp_path, [f"1::1::3::{T}", f"2::2::3::{T}"])).tables)
    assert tables.videos.select("video_id", "tags", "release_year", "duration_ms").rows() == [
        (1, ["Animation", "Children's", "Comedy"], 1995, 100_000),
        (2, ["Drama"], 1998, 100_000),
    ]
    assert tables.users.select("user_id", "gender", "age_group", "occupation").rows() == [(1, "F", 1, 10), (2, "M", 56, 16)]


def test_films_and_viewers_of_32m(tmp_path):
    tables = checked(read(new(tmp_path, [f"7,11,0.5,{T}", f"3,1,4.5,{T}"])).tables)
    assert tables.impressions["watch_ms"].to_list() == [10_000, 90_000]
    assert tables.impressions["long_view"].to_list() == [False, True]
    assert tables.videos.select("video_id", "tags", "release_year").rows() == [
        (1, ["Adventure", "Animation"], 1995),
        (11, None, 1995),
    ]
    assert tables.users.select("user_id", "gender").rows() == [(3, None), (7, None)]


def test_who_is_rated_but_not_listed_gets_a_row_of_nulls(tmp_path):
    tables = checked(read(old(tmp_path, [f"9::8::3::{T}"])).tables)
    assert tables.videos.select("video_id", "tags").rows()[-1] == (8, None)
    assert tables.users.select("user_id", "gender").rows()[-1] == (9, None)


def test_a_malformed_line_is_refused_by_its_number(tmp_path):
    loaded = read(
        old(tmp_path, [f"1::1::3::{T}", "1::2::5", f"1::two::5::{T}"], movies=["1::Toy Story (1995)::Comedy", "2;;x"])
    )
    assert loaded.rejected.rows() == [
        ("impressions", 1, "malformed line", "ratings.dat line 2: 1::2::5"),
        ("impressions", 2, "malformed line", f"ratings.dat line 3: 1::two::5::{T}"),
        ("videos", 1, "malformed line", "movies.dat line 2: 2;;x"),
    ]
    assert checked(loaded.tables).impressions.height == 1


def test_latin_1_bytes_that_look_like_line_ends_are_none(tmp_path):
    loaded = read(old(tmp_path, [f"1::1::3::{T}"], movies=["1::A\x85B (1995)::Drama\r"]))
    assert loaded.rejected.height == 0
    assert loaded.tables.videos["tags"].to_list() == [["Drama"]]


def test_a_missing_file_or_column_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MOVIELENS_ROOT", raising=False)
    with pytest.raises(DataError, match="export MOVIELENS_ROOT"):
        instantiate(composed(["data=movielens"], CONF).data.loader).read()
    with pytest.raises(DataError, match=f"{tmp_path} holds neither ratings.dat"):
        read(tmp_path)
    new(tmp_path, [f"1,1,3.0,{T}"])
    monkeypatch.setenv("MOVIELENS_ROOT", str(tmp_path))
    assert instantiate(composed(["data=movielens"], CONF).data.loader).read().tables.impressions.height == 1
    (tmp_path / "ratings.csv").write_text("user,movieId,rating,timestamp\n")
    with pytest.raises(DataError, match="lacks the column 'userId'"):
        read(tmp_path)
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,one,3.0,4\n")
    with pytest.raises(DataError, match=r"ratings\.csv cannot be read as CSV"):
        read(tmp_path)
    (tmp_path / "movies.csv").unlink()
    (tmp_path / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,1,3.0,4\n")
    with pytest.raises(DataError, match=r"movies\.csv is missing"):
        read(tmp_path)


@pytest.mark.parametrize("layout", ["1M", "32M"])
def test_the_tables_go_through_the_feature_stage(feature_stage, layout, tmp_path):
    times = [T, T, T + 60, T + 86_400, T + 2 * 86_400]
    if layout == "1M":
        root = old(tmp_path, [f"1::{1 + i % 2}::4::{time}" for i, time in enumerate(times)])
    else:
        root = new(tmp_path, [f"1,{(1, 11)[i % 2]},4.0,{time}" for i, time in enumerate(times)])
    tables = checked(read(root).tables)
    features = feature_stage(SCHEMA, tables, TimeSplit(valid_days=1, test_days=1), tmp_path)
    # Ratings of one second do not see each other; a minute later both are known, however long the nominal watch.
    assert features.columns["history_len"].tolist() == [0, 0, 2, 3, 4]
    assert features.batch(features.rows("test"))["targets"].shape[0] == 1
