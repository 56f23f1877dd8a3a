"""Ids outside, rows inside."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchnext.features.catalogue import Catalogue, Ids, codes_of, padded
from watchnext.serving.store.tables.journal import id_key, id_of

VIDEOS = pl.DataFrame(
    {
        "video_id": ["b", "a", "c"],
        "creator_id": ["z", None, "y"],
        "upload_ms": [5, None, 7],
        "duration_ms": [None, 1_000, 2_000],
        "tags": [["t2", "t1", "t3"], None, []],
        "regions": [["se", "de"], None, ["de"]],
        "safety": ["unsafe", None, "mature"],
        "fingerprint": [9, None, -4],
        "vector": [[1.0, 2.0], None, [3.0, 4.0]],
    },
    schema_overrides={"vector": pl.List(pl.Float32)},
)


def catalogue(**columns) -> Catalogue:
    return Catalogue.of(VIDEOS.with_columns(**columns), tags_per_video=2, dimension=2)


def test_a_catalogue_by_hand():
    found = catalogue()
    assert len(found) == 3
    assert found.video_ids.tolist() == [b"b", b"a", b"c"]
    assert found.creator_names[found.creator_rows[[0, 2]]].tolist() == ["z", "y"]
    assert found.creator_rows[1] == -1
    assert [[str(found.tag_names[tag]) for tag in row if tag >= 0] for row in found.tag_rows] == [["t2", "t1"], [], []]
    assert found.safety.tolist() == [2, 0, 1]
    assert found.fingerprints.tolist() == [9, 0, -4]
    assert found.vectors.tolist() == [[1, 2], [0, 0], [3, 4]]
    np.testing.assert_array_equal(found.upload_ms, [5, np.nan, 7])
    np.testing.assert_array_equal(found.duration_ms, [np.nan, 1000, 2000])
    bits = found.region_bits
    assert found.regions.tolist() == [1 << bits["se"] | 1 << bits["de"], 0, 1 << bits["de"]]


def test_saved_and_read_again_is_the_same(tmp_path):
    catalogue().save(tmp_path)
    again = Catalogue.load(tmp_path)
    for name, values in vars(catalogue()).items():
        np.testing.assert_array_equal(values, getattr(again, name), err_msg=name)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere holds no arrays; run `dvc repro`"):
        Catalogue.load(tmp_path / "nowhere")


def test_sixty_four_regions_fit_and_one_more_is_refused():
    names = [f"r{i:02}" for i in range(65)]
    found = catalogue(regions=pl.Series([names[:64], None, names[63:64]]))
    assert found.regions.tolist() == [2**64 - 1, 0, 1 << 63]
    for regions in ([names, None, None], [names[:40], names[40:], None]):
        with pytest.raises(ValueError, match="names 65 regions, expected at most 64"):
            catalogue(regions=pl.Series(regions))


def test_nothing_but_ids_makes_a_catalogue():
    empty = {name: pl.lit(None, VIDEOS.schema[name]) for name in VIDEOS.columns if name != "video_id"}
    found = catalogue(**empty)
    assert (found.creator_rows == -1).all()
    assert (found.tag_rows == -1).all()
    assert not found.vectors.any()
    assert len(found.creator_names) == len(found.tag_names) == len(found.region_names) == 0


@pytest.mark.parametrize("values", [["b", "a", "ü"], [7, -3, 2**63 - 1]])
def test_ids_find_their_rows_and_unknown_ones_none(values):
    ids = Ids.of(pl.Series(values))
    unknown = "no" if ids.are_strings else 5
    assert ids.rows([values[2], unknown, values[0]]).tolist() == [2, -1, 0]
    assert ids.rows_of(pl.Series([values[1], values[1]])).tolist() == [1, 1]
    assert [ids.value(row) for row in range(3)] == values
    assert ids.rows([]).tolist() == []


def test_an_id_of_the_other_kind_is_unknown():
    assert Ids.of(pl.Series(["1", "2"])).rows([1, "1"]).tolist() == [-1, 0]
    assert Ids.of(pl.Series([1, 2])).rows(["1", 1, None]).tolist() == [-1, 0, -1]
    assert Ids.of(pl.Series([1, 2])).rows_of(pl.Series(["1"])).tolist() == [-1]


def test_no_id_is_another_ones_stand_in():
    least = -(2**63)
    assert Ids.of(pl.Series([least, 0])).rows(["1", None, 2**63, True, 0.0, 0, least]).tolist() == [-1, -1, -1, -1, -1, 1, 0]


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=16)
numbers = st.integers(-(2**63), 2**63 - 1)
others = st.one_of(words, numbers, st.floats(), st.booleans(), st.none(), st.integers(2**63), numbers.map(str))


@given(
    known=st.one_of(st.lists(words, min_size=1, unique=True), st.lists(numbers, min_size=1, unique=True)),
    asked=st.lists(others),
)
def test_every_id_comes_back_as_it_was_given_and_nothing_else_is_one(known, asked):
    ids = Ids.of(pl.Series(known))
    assert [ids.value(row) for row in ids.rows(known)] == known
    assert [id_of(id_key(one)) for one in known] == known
    for one, row in zip(asked, ids.rows(asked).tolist(), strict=True):
        same = [i for i, each in enumerate(known) if type(each) is type(one) and each == one]
        assert row == (same[0] if same else -1)


def test_a_string_id_that_only_starts_alike_is_another_one():
    assert Ids.of(pl.Series(["video1", "x"])).rows(["video", "video12", "video1", ""]).tolist() == [-1, -1, 0, -1]


def test_without_ids_none_is_known():
    assert Ids.of(pl.Series([], dtype=pl.String)).rows(["a"]).tolist() == [-1]
    assert Ids.of(pl.Series([], dtype=pl.Int64)).rows([1]).tolist() == [-1]


def test_lists_are_cut_and_padded():
    rows, names = padded(pl.Series([["b", None, "a", "c"], None, [], ["c"]]), 3)
    assert [[names[row] for row in each if row >= 0] for each in rows] == [["b", "a"], [], [], ["c"]]
    assert rows.dtype == np.int32
    assert rows[0, 2] == -1  # a null takes a place of the width, and none in the row
    assert padded(pl.Series([[3, 1]]), 2)[1] == ["3", "1"]


def test_codes_count_distinct_values_as_they_first_occur():
    rows, names = codes_of(pl.Series([30, None, 4, 30]))
    assert (rows.tolist(), names) == ([0, -1, 1, 0], ["30", "4"])
