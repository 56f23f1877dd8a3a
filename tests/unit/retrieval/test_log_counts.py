"""Counts of a log that the sources read, against plain Python over its rows."""

from collections import Counter, defaultdict

import numpy as np
import pytest

from watchnext.data.storage import StoredTables
from watchnext.retrieval.sources import log_counts
from watchnext.retrieval.sources.log_counts import counted, training_watches
from watchnext.retrieval.sources.trending import Trending

HALF_LIFE_H = 12.0


@pytest.mark.parametrize("least", ["watch", "long_view"])
@pytest.mark.parametrize("chunk", [97, 1_000_000])
def test_training_watches_are_those_of_training_rows_in_their_order(
    world_features, world_tables, world_split, monkeypatch, least, chunk
):
    monkeypatch.setattr(log_counts, "CHUNK", chunk)
    users = world_tables.users["user_id"].to_list()
    wanted = defaultdict(list)
    for row, split in zip(world_tables.impressions.iter_rows(named=True), world_split, strict=True):
        if split == 0 and (row["watch_ms"] > 0 if least == "watch" else row["long_view"]):
            wanted[row["user_id"]].append(row["video_id"])
    histories = training_watches(world_features, least=least)
    ids = world_features.catalogue.video_ids
    for place, user in enumerate(users):
        mine = histories.rows[histories.starts[place] : histories.starts[place + 1]]
        assert [int(ids[row]) for row in mine] == wanted[user]
    assert (len(histories.starts) - 1, histories.videos) == (len(users), len(ids))


def test_counts_by_surface_and_region_are_those_of_the_log(world_folder, world_features, world_tables):
    until = world_features.report["as_of_ms"]
    regions = dict(world_tables.users.select("user_id", "region").iter_rows())
    ids = world_features.catalogue.ids
    wanted, events = defaultdict(Counter), Counter()
    for row in world_tables.impressions.iter_rows(named=True):
        known_at = row["received_ms"] if row["received_ms"] is not None else row["time_ms"] + row["watch_ms"]
        if row["long_view"] and known_at < until:
            region = regions[row["user_id"]]
            events.update([("", region), (row["surface"], region)])
            for place in ((None, None), (None, region), (row["surface"], region)):
                wanted[place][int(ids.rows([row["video_id"]])[0])] += 0.5 ** ((until - known_at) / 3_600_000 / HALF_LIFE_H)
    stored = StoredTables.open(world_folder.parent / "tables")
    found = counted(stored, ids, until_ms=until, count="long_view", half_life_h=HALF_LIFE_H, segments=3)
    named = [pair for pair in events if pair[0]]
    assert [tuple(pair) for pair in found.segments] == sorted(named, key=lambda pair: (-events[pair], pair))[:3]
    busiest = sorted((pair[1] for pair in events if not pair[0]), key=lambda region: (-events["", region], region))
    assert found.regions.tolist() == busiest[:3]
    trending = Trending(found)
    places = [(None, None), *((None, region) for region in found.regions), *map(tuple, found.segments)]
    for place in places:
        line = trending.levels(*place)[-1]
        own = wanted[place]
        np.testing.assert_allclose(found.table[line], [own[row] for row in range(len(ids.ids))], rtol=1e-4, atol=1e-6)


def test_a_log_in_which_nothing_happened_has_no_counts(world_folder, world_features):
    stored = StoredTables.open(world_folder.parent / "tables")
    found = counted(stored, world_features.catalogue.ids, until_ms=0, count="long_view", half_life_h=1.0, segments=3)
    assert found.table.shape == (1, len(world_features.catalogue))
    assert not found.table.any()
