"""Milvus beside the tests of every index: what is pushed down, what is made once, and what is refused."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from index_data import QUERIES, VECTORS, brute
from tests.unit.serving.bento_server import free_port

from watchnext.retrieval.index import milvus as milvus_module
from watchnext.retrieval.index.milvus import VARIABLE, MilvusIndex, MilvusRecipe
from watchnext.retrieval.index.prefilter import PreFilter, pack_bits
from watchnext.retrieval.index.recall_check import groups_of, static_masks_of
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.index.vectors import VideoIndexError

RECIPE = MilvusRecipe(kind="FLAT", wait_s=60.0)  # which compares all
RANDOM = np.random.default_rng(3)
CATALOGUE = SimpleNamespace(
    regions=RANDOM.choice(np.array([0, 1, 2, 3], np.uint64), 3_000),
    safety=RANDOM.integers(0, 3, 3_000).astype(np.uint8),
    region_bits={"de": 0, "fr": 1},
)
GROUPS = groups_of(CATALOGUE)


@pytest.fixture(scope="module")
def index(milvus) -> MilvusIndex:
    return RECIPE.build(VECTORS, GROUPS)


def found(index: MilvusIndex, mask: np.ndarray, k: int) -> np.ndarray:
    return index.candidates(QUERIES[0], k, pack_bits(mask), int(mask.sum()))


def drop(index: MilvusIndex) -> None:
    index._client.drop_collection(index._name)


def test_videos_of_one_group_are_kept_or_excluded_together():
    assert len(np.unique(GROUPS)) == 12
    for _, static_mask in static_masks_of(CATALOGUE):
        kept = np.bincount(GROUPS, static_mask.mask) / np.bincount(GROUPS)
        assert set(kept.tolist()) == {0.0, 1.0}


def test_a_static_mask_of_the_rules_is_an_expression_of_groups(index, monkeypatch):
    """So that however many videos it excludes, none is named."""
    monkeypatch.setattr(milvus_module, "MOST_HIDDEN", 0)
    for _, static_mask in static_masks_of(CATALOGUE):
        positions = found(index.part(static_mask.mask), static_mask.mask, 100)
        assert positions.tolist() == brute(VECTORS, QUERIES[0], 100, static_mask.mask)


def test_what_else_a_viewer_may_not_get_is_named_up_to_a_limit(index, monkeypatch):
    static_mask = dict(static_masks_of(CATALOGUE))["de, mature"]
    mask = static_mask.mask.copy()
    mask[brute(VECTORS, QUERIES[0], 200)] = False
    mask[np.flatnonzero(GROUPS[np.argmax(mask)] == GROUPS)[::2]] = False  # a group is kept in part, as by a filter of tags
    part = index.part(static_mask.mask)
    assert found(part, mask, 100).tolist() == brute(VECTORS, QUERIES[0], 100, mask)
    monkeypatch.setattr(milvus_module, "MOST_HIDDEN", int((static_mask.mask & ~mask).sum()) - 1)
    assert len(found(part, mask, 100)) == 0
    whole = VideoIndex.build(VECTORS, recipe=RECIPE, groups=GROUPS)  # which is then searched exactly
    rows, _ = whole.search(QUERIES[:1], 100, PreFilter(static_mask, np.flatnonzero(~mask)))
    assert rows[0].tolist() == brute(VECTORS, QUERIES[0], 100, mask)


def test_a_collection_is_made_once_and_anew_where_it_is_gone(index, tmp_path):
    again = RECIPE.build(VECTORS, GROUPS)
    assert again._name == index._name
    assert RECIPE.build(VECTORS[::-1], GROUPS)._name != index._name
    built = VideoIndex.build(VECTORS, recipe=RECIPE, groups=GROUPS)
    built.save(tmp_path)
    before = built.search(QUERIES, 20)[0]
    drop(index)
    with pytest.raises(VideoIndexError, match="does not answer or refuses"):
        built.search(QUERIES, 20)
    np.testing.assert_array_equal(VideoIndex.load(tmp_path).search(QUERIES, 20)[0], before)
    np.testing.assert_array_equal(built.search(QUERIES, 20)[0], before)


def test_a_collection_that_was_left_half_made_is_completed(milvus):
    vectors = VECTORS[:500] + np.float32(0.01)
    whole = RECIPE.build(vectors, GROUPS[:500])
    drop(whole)
    half = MilvusIndex(RECIPE, whole._client, whole._name, GROUPS[:500])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(milvus_module, "BATCH", 200)
        patch.setattr(half._client, "flush", lambda *_, **__: sys.exit("killed"))
        with pytest.raises(SystemExit):
            half.fill(vectors)
    again = RECIPE.build(vectors, GROUPS[:500])
    assert sorted(found(again, np.ones(500, bool), 500)) == list(range(500))


def test_a_collection_of_other_vectors_is_refused(milvus):
    vectors = VECTORS[:500] + np.float32(0.02)
    name, client = (index := RECIPE.build(vectors, GROUPS[:500]))._name, index._client
    client.upsert(name, [{"position": at, "vector": -vectors[at], "part": 0} for at in range(500)])
    with pytest.raises(VideoIndexError, match=rf"collection {name} finds 0\.\d\d of what exact search finds, .*drop it"):
        RECIPE.build(vectors, GROUPS[:500])
    client.delete(name, ids=[7])
    with pytest.raises(VideoIndexError, match=rf"collection {name} holds 499 vectors, expected 500; drop it"):
        RECIPE.build(vectors, GROUPS[:500])


def test_a_server_that_stops_fails_the_search_and_is_named(milvus_lite, monkeypatch):
    with milvus_lite() as server:
        monkeypatch.setenv(VARIABLE, server.url.replace("//", "//user:secret@"))
        index = RECIPE.build(VECTORS, GROUPS)
        server.stop()
    index._recipe = replace(RECIPE, wait_s=1.0)
    with pytest.raises(VideoIndexError, match=f"the Milvus at {server.url} does not answer") as refusal:
        found(index, np.ones(3_000, bool), 5)
    assert "secret" not in str(refusal.value)


@pytest.mark.usefixtures("milvus_lite")  # its client
def test_no_server_at_the_address_is_named(monkeypatch):
    monkeypatch.setattr(milvus_module, "CONNECT_S", 0.5)
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv(VARIABLE, f"http://user:secret@{address}")
    with pytest.raises(VideoIndexError, match=f"the Milvus at http://{address} does not answer") as refusal:
        RECIPE.build(VECTORS, GROUPS)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("url", ["", "localhost:19530", "milvus.db", "http://"])
def test_an_address_that_is_none_is_refused(url, monkeypatch):
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(VideoIndexError, match=f"WATCHNEXT_MILVUS is {url!r}, expected http://HOST:PORT of a Milvus"):
        RECIPE.build(VECTORS, GROUPS)


def test_milvus_without_its_client_names_the_command(monkeypatch):
    monkeypatch.setenv(VARIABLE, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(
        VideoIndexError, match=r"needs pymilvus, which is not installed; run `pip install 'watchnext\[milvus\]'`"
    ):
        RECIPE.build(VECTORS, GROUPS)


def test_a_release_names_no_address(index, tmp_path):
    VideoIndex.build(VECTORS, recipe=RECIPE, groups=GROUPS).save(tmp_path)
    meta = json.loads((tmp_path / "index.json").read_text())
    assert meta["kind"] == "milvus"
    assert {*meta["files"]} == {"vectors.npy", "rows.npy", "groups.npy", "milvus.json"}
    assert all(b"127.0.0.1" not in path.read_bytes() for path in tmp_path.iterdir())
