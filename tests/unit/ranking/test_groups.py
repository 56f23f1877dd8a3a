"""Batches of whole groups."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from watchnext.features.dataset.batches import FeatureSet
from watchnext.ranking.training.groups import GroupedBatches
from watchnext.ranking.training.ranking_losses import Pairwise
from watchnext.types import TARGETS


def batches(features, rows, *, seed: int, within: str = "viewer", epochs: int = 1) -> list[list[dict]]:
    made = GroupedBatches(features=features, rows=rows, within=within, batch_size=64, seed=seed)
    found = []
    for epoch in range(epochs):
        made.set_epoch(epoch)
        found.append(list(made))
    return found


def test_rows_are_grouped_by_who_was_shown_them(world_features):
    rows = world_features.rows("train")
    users = world_features.columns["user_rows"][rows]
    groups = GroupedBatches(features=world_features, rows=rows, within="viewer", batch_size=64, seed=0).groups
    for i in range(0, len(rows), 17):
        assert np.array_equal(groups == groups[i], users == users[i])


def shown(features, *impressions: tuple[int, int, int]) -> FeatureSet:
    """Put the training impressions (viewer, minute, long view) in place of those of a feature set."""
    users, minutes, happened = np.array(impressions).T
    targets = np.repeat(happened[:, None], len(TARGETS), axis=1).astype(np.float32)
    columns = {"user_rows": users, "time_ms": minutes * 60_000.0, "targets": targets, "split": np.zeros_like(users)}
    return replace(features, columns=columns)


def test_requests_of_training_are_slates_and_otherwise_sessions(world_features):
    # Viewer 1: a session of three requests, with a slate of two amid it; half an hour later another one. Viewer 2: a lone one.
    features = shown(world_features, (1, 0, 0), (1, 20, 1), (2, 20, 0), (1, 29, 0), (1, 29, 1), (1, 40, 0), (1, 70, 0))
    groups = GroupedBatches(features=features, rows=np.arange(7), within="request", batch_size=64, seed=0).groups
    assert groups.tolist() == [0, 0, 1, 2, 2, 0, 3]


def test_a_log_without_slates_gives_pairs_of_its_sessions(world_features):
    features = shown(world_features, *((1, 3 * minute, minute % 2) for minute in range(6)))
    batches = GroupedBatches(features=features, rows=np.arange(6), within="request", batch_size=64, seed=0)
    assert batches.has_order("long_view")
    logits, targets = torch.zeros(6, len(TARGETS)), torch.from_numpy(features.columns["targets"])
    loss = Pairwise(target="long_view", within="request")(logits, targets, torch.from_numpy(batches.groups))
    assert loss.item() == pytest.approx(np.log(2.0))


@pytest.mark.parametrize("impressions", [[(1, 0, 1), (1, 30, 0), (2, 0, 0)], [(1, 0, 1), (1, 1, 1), (2, 0, 0)]])
def test_groups_of_one_label_have_no_order(world_features, impressions):
    features = shown(world_features, *impressions)
    batches = GroupedBatches(features=features, rows=np.arange(3), within="request", batch_size=64, seed=0)
    assert not batches.has_order("long_view")


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
