"""The recall check measures under the filters of requests, and names the filter that it refuses."""

from types import SimpleNamespace

import numpy as np
import pytest
from index_data import QUERIES, RECIPES, VECTORS, brute

from watchnext.retrieval.index.live import LiveIndex
from watchnext.retrieval.index.prefilter import PreFilter
from watchnext.retrieval.index.recall_check import Probe, RecallCheck, groups_of, static_masks_of
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.index.vectors import FaissRecipe, VideoIndexError

RANDOM = np.random.default_rng(12)
CATALOGUE = SimpleNamespace(
    regions=np.where(RANDOM.random(3_000) < 0.5, RANDOM.integers(1, 4, 3_000), 0).astype(np.uint64),
    safety=RANDOM.choice(3, 3_000, p=(0.8, 0.15, 0.05)).astype(np.uint8),
    region_bits={"de": 0, "fr": 1},
)
PROBE = Probe(QUERIES, [np.sort(RANDOM.choice(3_000, 30, replace=False)) for _ in QUERIES])
NAMES = ["de, safe", "de, mature", "fr, safe", "fr, mature", "no region, safe", "no region, mature"]


def test_every_region_meets_every_level():
    masks = dict(static_masks_of(CATALOGUE))
    assert list(masks) == NAMES
    for row in range(3_000):
        bits, level = int(CATALOGUE.regions[row]), CATALOGUE.safety[row]
        assert masks["fr, mature"].mask[row] == ((bits == 0 or bits & 2 > 0) and level <= 1)
        assert masks["no region, safe"].mask[row] == (bits == 0 and level == 0)


def test_a_good_index_passes_with_every_figure(kind):
    index = VideoIndex.build(VECTORS, recipe=RECIPES[kind], groups=groups_of(CATALOGUE))
    found = RecallCheck(k=20, floor=0.9).check(index, VECTORS, CATALOGUE, PROBE)
    assert list(found) == ["as built", "after changes"]
    for recalls in found.values():
        assert list(recalls) == NAMES
        assert all(0.9 <= recall <= 1 for recall in recalls.values())
        assert kind != "exact" or set(recalls.values()) == {1.0}


def test_recall_by_hand():
    index = VideoIndex.build(VECTORS, recipe=FaissRecipe(factory="IVF{lists},SQ8", lists=100, compared=1))
    static_mask = dict(static_masks_of(CATALOGUE))["de, mature"]
    present = np.arange(3_000) % 5 > 0
    live = LiveIndex(index)
    live.remove(np.flatnonzero(~present))
    hits = 0
    for query, seen in zip(PROBE.queries, PROBE.seen, strict=True):
        allowed = static_mask.mask & present
        allowed[seen] = False
        expected = np.argsort(-np.where(allowed, VECTORS @ query, -9))[:20].tolist()
        assert expected == brute(VECTORS, query, 20, allowed)
        hits += len(set(live.search(query[None], 20, PreFilter(static_mask, seen))[0][0].tolist()) & set(expected))
    found = RecallCheck(k=20, floor=0).recall(live, VECTORS, present, {"x": static_mask}, PROBE)
    assert found == {"x": hits / (20 * len(QUERIES))}
    assert 0.3 < found["x"] < 1


def test_a_bad_index_is_refused_by_the_name_of_the_filter():
    index = VideoIndex.build(VECTORS, recipe=FaissRecipe(factory="IVF64,Flat", parameters="nprobe=1"))
    with pytest.raises(VideoIndexError, match=r"recall@20 under the filter 'de, safe', as built, is 0\.\d{4}, expected"):
        RecallCheck(k=20, floor=0.999).check(index, VECTORS, CATALOGUE, PROBE)


def test_an_index_that_loses_what_was_removed_is_refused_after_changes():
    """One that answers at first, and then goes on with an old state of the world: vectors that are not those of the rows."""
    index = VideoIndex.build(VECTORS, recipe=None)
    check = RecallCheck(k=20, floor=0.98, removed=0.3)
    live, (vectors, present) = check._changed(index, VECTORS)
    assert int((~present).sum()) == 900
    assert int((vectors != VECTORS).any(axis=1).sum()) > 800
    masks = dict(static_masks_of(CATALOGUE))
    assert min(check.recall(live, vectors, present, masks, PROBE).values()) == 1.0
    assert max(check.recall(LiveIndex(index), vectors, present, masks, PROBE).values()) < 0.9


def test_either_of_two_videos_with_one_vector_is_right():
    vectors = np.repeat(VECTORS[:300], 10, axis=0)
    index = VideoIndex.build(vectors[::-1].copy(), recipe=None, rows=np.arange(3_000)[::-1])
    found = RecallCheck(k=25, floor=0.98).check(index, vectors, CATALOGUE, PROBE)
    assert set(found["as built"].values()) == {1.0}


def test_nothing_to_index_and_nothing_to_measure_on_are_refused():
    empty = SimpleNamespace(regions=np.zeros(0, np.uint64), safety=np.zeros(0, np.uint8), region_bits={})
    index = VideoIndex.build(VECTORS[:0], recipe=None)
    with pytest.raises(VideoIndexError, match="the catalogue is empty"):
        RecallCheck(k=20, floor=0.5).check(index, VECTORS[:0], empty, PROBE)
    index = VideoIndex.build(VECTORS, recipe=None)
    with pytest.raises(VideoIndexError, match="recall@20 is nan: there are no validation queries"):
        RecallCheck(k=20, floor=0.5).check(index, VECTORS, CATALOGUE, Probe(QUERIES[:0], []))


def test_a_filter_that_allows_nothing_has_nothing_to_lose():
    catalogue = SimpleNamespace(regions=np.full(3_000, 2, np.uint64), safety=np.zeros(3_000, np.uint8), region_bits={"de": 0})
    index = VideoIndex.build(VECTORS, recipe=None)
    found = RecallCheck(k=20, floor=0.98).check(index, VECTORS, catalogue, PROBE)
    assert found["as built"]["no region, safe"] == 1.0
