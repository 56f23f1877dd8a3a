"""Batches of whole groups."""

from itertools import pairwise

import numpy as np
import pytest

from watchnext.ranking.training.groups import GroupedBatches


def batches(features, rows, *, seed: int, within: str = "viewer", epochs: int = 1) -> list[list[dict]]:
    made = GroupedBatches(features=features, rows=rows, within=within, batch_size=64, seed=seed)
    found = []
    for epoch in range(epochs):
        made.set_epoch(epoch)
        found.append(list(made))
    return found


@pytest.mark.parametrize("within", ["viewer", "request"])
def test_rows_are_grouped_by_who_was_shown_them(world_features, within):
    rows = world_features.rows("valid")
    users, times = (world_features.columns[name][rows] for name in ("user_rows", "time_ms"))
    keys = list(zip(users, times, strict=True)) if within == "request" else list(users)
    groups = GroupedBatches(features=world_features, rows=rows, within=within, batch_size=64, seed=0).groups
    for i in range(0, len(rows), 7):
        for j in range(0, len(rows), 5):
            assert (groups[i] == groups[j]) == (keys[i] == keys[j])


def test_every_row_comes_once_an_epoch_and_groups_stay_together(world_features):
    rows = world_features.rows("train")
    (epoch,) = batches(world_features, rows, seed=0)
    assert all(len(batch["targets"]) == 64 for batch in epoch[:-1])
    seen = np.concatenate([batch["user_rows"].numpy() for batch in epoch])
    assert np.array_equal(np.sort(seen), np.sort(world_features.columns["user_rows"][rows]))
    parts = [set(batch["user_rows"].tolist()) for batch in epoch]
    for user in set(seen.tolist()):
        places = [place for place, part in enumerate(parts) if user in part]
        assert places == list(range(places[0], places[-1] + 1))
    assert all(len(before & after) <= 1 for before, after in pairwise(parts))
    for batch in epoch:
        assert len(set(batch["groups"].tolist())) == len(set(batch["user_rows"].tolist()))


def test_one_seed_gives_one_order_and_epochs_differ(world_features):
    rows = world_features.rows("train")[:600]
    (first, second), (again, _) = (batches(world_features, rows, seed=1, epochs=2) for _ in range(2))
    orders = [[batch["video_rows"].tolist() for batch in epoch] for epoch in (first, again, second)]
    assert orders[0] == orders[1] != orders[2]


def test_no_rows_give_no_batches(world_features):
    assert batches(world_features, np.zeros(0, np.int64), seed=0) == [[]]
