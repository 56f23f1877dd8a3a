import os
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from watchnext.cli import composed, instantiate
from watchnext.data.loaders.sequences import Sequences
from watchnext.data.splits import TimeSplit
from watchnext.data.tables import DataError
from watchnext.data.validation import validate
from watchnext.features.dataset.batches import NO_INPUTS
from watchnext.schema import FeatureSchema

ROOT = Path(__file__).resolve().parents[3]
CONF = ROOT / "conf"
SCHEMA = FeatureSchema.load(CONF / "features" / "sequences.yaml")
TOYS = Path(os.environ.get("WATCHNEXT_SHARED_DATA", ROOT.parent / "shared" / "data")) / "sequences" / "Toys_and_Games.txt"


def read(folder: Path, text: str):
    path = folder / "log.txt"
    path.write_text(text, encoding="utf-8")
    return Sequences(path=str(path)).read()


def test_the_order_of_a_line_becomes_days_that_end_together(tmp_path):
    tables = read(tmp_path, "5 30 10 20\n2 10 40\n").tables
    rows = tables.impressions
    assert rows.select("user_id", "video_id", "day").rows() == [
        (5, 30, date(2019, 12, 30)),
        (5, 10, date(2019, 12, 31)),
        (2, 10, date(2019, 12, 31)),
        (5, 20, date(2020, 1, 1)),
        (2, 40, date(2020, 1, 1)),
    ]
    assert rows["time_ms"].is_sorted()
    assert rows["time_ms"].n_unique() == 5
    assert rows["request_id"].n_unique() == 5
    assert tables.users["user_id"].to_list() == [2, 5]
    assert tables.videos["video_id"].to_list() == [10, 20, 30, 40]
    checked = validate(tables, SCHEMA)
    assert checked.rejected.height == 0
    assert checked.tables.impressions.select("watch_ms", "click", "long_view", "like").unique().rows() == [
        (30_000, True, True, False)
    ]


def test_one_day_each_for_validation_and_test_is_leave_one_out(tmp_path):
    rows = read(tmp_path, "1 7 8 9 4\n2 8 7 9\n3 9 8 7 4 5\n").tables.impressions
    split = TimeSplit(valid_days=1, test_days=1).assign(rows["day"])
    held_out = rows.with_columns(split=pl.Series(split)).filter(pl.col("split") > 0).sort("user_id", "split")
    assert held_out.select("user_id", "video_id", "split").rows() == [
        *[(1, 9, 1), (1, 4, 2)],
        *[(2, 7, 1), (2, 9, 2)],
        *[(3, 4, 1), (3, 5, 2)],
    ]


def test_bad_lines_are_refused_by_their_number(tmp_path):
    loaded = read(tmp_path, "1 7 8\n\n2\n  3\t9   8 \n1 9\n")
    assert loaded.rejected.rows() == [
        ("impressions", 1, "empty line", "log.txt line 2: "),
        ("impressions", 2, "line without an item", "log.txt line 3: 2"),
        ("impressions", 4, "second line of a viewer", "log.txt line 5: 1 9"),
    ]
    assert loaded.tables.impressions.sort("user_id", "time_ms").select("user_id", "video_id").rows() == [
        *[(1, 7), (1, 8)],
        *[(3, 9), (3, 8)],
    ]


def test_an_item_that_comes_again_is_kept_each_time(tmp_path):
    tables = read(tmp_path, "1 7 7 8\n").tables
    assert tables.impressions["video_id"].to_list() == [7, 7, 8]
    assert validate(tables, SCHEMA).rejected.height == 0


@pytest.mark.parametrize("word", ["B00A", "007", "+5", "99999999999999999999"])
def test_ids_stay_as_given_where_a_number_would_change_them(tmp_path, word):
    tables = validate(read(tmp_path, f"1 7 {word}\n").tables, SCHEMA).tables
    assert tables.impressions["video_id"].to_list() == ["7", word]
    assert tables.videos["video_id"].dtype == pl.String
    assert tables.impressions["user_id"].to_list() == [1, 1]


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    monkeypatch.delenv("SEQUENCES_FILE", raising=False)
    with pytest.raises(DataError, match="export SEQUENCES_FILE"):
        instantiate(composed(["data=sequences"], CONF).data.loader).read()
    with pytest.raises(DataError, match=f"{tmp_path} is not a file"):
        Sequences(path=str(tmp_path)).read()
    for text in ("", "\n", "1\n2\n"):
        with pytest.raises(DataError, match="holds no line"):
            read(tmp_path, text)
    (tmp_path / "log.txt").write_bytes(b"1 caf\xe9\n")
    with pytest.raises(DataError, match="not UTF-8"):
        Sequences(path=str(tmp_path / "log.txt")).read()


def test_the_tables_go_through_the_feature_stage(feature_stage, tmp_path, monkeypatch):
    (tmp_path / "log.txt").write_text("1 7 8 9 4\n2 8 7 9\n3 9 8 7 4 5\n")
    monkeypatch.setenv("SEQUENCES_FILE", str(tmp_path / "log.txt"))
    data = composed(["data=sequences"], CONF).data
    tables = validate(instantiate(data.loader).read().tables, SCHEMA).tables
    features = feature_stage(SCHEMA, tables, instantiate(data.split), tmp_path)
    # Whoever is tested saw all of their items but the last, latest first.
    test = features.rows("test")
    seen = [features.catalogue.video_ids[rows[rows >= 0]].tolist() for rows in features.blocks(test)["history_rows"]]
    assert seen == [[9, 8, 7], [7, 8], [4, 7, 8, 9]]
    batch = features.batch(test)
    assert all(np.isfinite(batch[name].numpy()).all() for name in batch if name not in NO_INPUTS)


@pytest.mark.skipif(not TOYS.exists(), reason=f"the Toys sequences are not at {TOYS}; set WATCHNEXT_SHARED_DATA")
def test_the_toys_file_of_the_papers():
    loaded = Sequences(path=str(TOYS)).read()
    assert loaded.rejected.height == 0
    tables = loaded.tables
    assert (tables.users.height, tables.videos.height, tables.impressions.height) == (19_412, 11_924, 167_597)
    split = TimeSplit(valid_days=1, test_days=1).assign(tables.impressions["day"])
    assert ((split == 1).sum(), (split == 2).sum()) == (19_412, 19_412)
    assert validate(tables, SCHEMA).rejected.height == 0
