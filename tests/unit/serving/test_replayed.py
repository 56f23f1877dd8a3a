"""The replay under the leakage checks' own intervention: what a request could not know changes none of its scores."""

import numpy as np
import polars as pl
import pytest

from watchnext.data.tables import Tables
from watchnext.evaluation.replay import Replay
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.leakage.intervention import flip_outcomes


def scores_of(release, tables: Tables, split: np.ndarray) -> list[np.ndarray]:
    """Predictions of every held-out request, in time order."""
    replay = Replay(release=release, regime="streaming", slate=5, requests=0, depth=5)
    rows = release.video_ids.rows_of(tables.impressions.filter(pl.Series(split == 2))["video_id"])
    with replay.opened(tables, split) as (recommender, requests):
        return [recommender.score(request, rows[place]) for request, place in requests]


@pytest.mark.parametrize("early", [False, True])
def test_outcomes_turned_over_change_no_score_up_to_their_own_request(early, built, release):
    tables, split = built[1], np.asarray(FeatureSet.load(built[0]).columns["split"])
    times = tables.impressions["time_ms"].filter(pl.Series(split == 2)).unique().sort()
    moment = times[len(times) // 2]
    changed = (tables.impressions["time_ms"] >= moment).to_numpy()
    turned = Tables(flip_outcomes(tables.impressions, changed, early=early), tables.users, tables.videos)
    plain, others = scores_of(release, tables, split), scores_of(release, turned, split)
    upto = tables.impressions.filter(pl.Series(split == 2) & (pl.col("time_ms") <= moment))
    first = upto["request_id"].n_unique()
    assert 0 < first < len(plain)
    for mine, other in zip(plain[:first], others[:first], strict=True):
        np.testing.assert_array_equal(mine, other)
    assert any((mine != other).any() for mine, other in zip(plain[first:], others[first:], strict=True))
