"""The replay under the leakage checks' own intervention: what a request could not know changes none of its scores."""

import numpy as np
import polars as pl
import pytest
from omegaconf import OmegaConf

from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import Tables, in_order
from watchnext.evaluation.__main__ import replays
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.evaluation.replay.replay import Replay
from watchnext.evaluation.report.ranking_report import skew
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.dataset.freshness import REGIMES
from watchnext.features.dataset.labels import Labels
from watchnext.features.leakage.intervention import flip_outcomes


def stored(tables: Tables, split: np.ndarray, folder) -> HeldOutLog:
    """The tables on disk, day by day, without labels."""
    write_tables(tables, folder)
    return HeldOutLog(StoredTables.open(folder), split, np.zeros(len(split)))


def scores_of(release, log: HeldOutLog) -> list[np.ndarray]:
    """Predictions of every held-out request, in time order."""
    replay = Replay(release=release, regime="streaming", slate=5, requests=0, depth=5)
    with replay.opened(log) as (recommender, requests):
        return [recommender.score(each.request, each.rows) for each in requests]


@pytest.mark.parametrize("early", [False, True])
def test_outcomes_turned_over_change_no_score_up_to_their_own_request(early, built, release, tmp_path):
    tables, split = built[1], np.asarray(FeatureSet.load(built[0]).columns["split"])
    times = tables.impressions["time_ms"].filter(pl.Series(split == 2)).unique().sort()
    moment = times[len(times) // 2]
    changed = (tables.impressions["time_ms"] >= moment).to_numpy()
    turned = Tables(flip_outcomes(tables.impressions, changed, early=early), tables.users, tables.videos)
    plain, others = (
        scores_of(release, stored(log, split, tmp_path / name)) for name, log in {"a": tables, "b": turned}.items()
    )
    upto = tables.impressions.filter(pl.Series(split == 2) & (pl.col("time_ms") <= moment))
    first = upto["request_id"].n_unique()
    assert 0 < first < len(plain)
    for mine, other in zip(plain[:first], others[:first], strict=True):
        np.testing.assert_array_equal(mine, other)
    assert any((mine != other).any() for mine, other in zip(plain[first:], others[first:], strict=True))


def one_by_one(tables: Tables) -> tuple[Tables, np.ndarray]:
    """The log with every held-out video requested alone, by one of three viewers, a minute after the last; and its split."""
    impressions, split = tables.impressions, TimeSplit(valid_days=1, test_days=1)
    test = pl.Series(split.assign(impressions["day"]) == 2)
    users = impressions["user_id"].unique().sort()[:3]
    alone = impressions.with_columns(
        request_id=pl.when(test).then(pl.format("alone{}", pl.int_range(pl.len()))).otherwise("request_id"),
        user_id=pl.when(test).then(users.gather(pl.int_range(len(impressions), eager=True) % 3)).otherwise("user_id"),
        time_ms=pl.when(test).then(pl.col("time_ms") + 60_000 * pl.col("position")).otherwise("time_ms"),
    )
    ordered = in_order(alone)
    return Tables(ordered, tables.users, tables.videos), split.assign(ordered["day"])


@pytest.mark.parametrize("regime", ["streaming", "daily", "frozen", "request"])
def test_a_regime_reads_offline_what_the_replay_serves(regime, built, release, world_schema, tmp_path):
    """Skew: every held-out impression, scored by the store and from the feature stage's own columns."""
    tables, split = one_by_one(built[1])
    write_tables(tables, tmp_path / "tables")
    builder = FeatureBuilder(schema=world_schema, labels=Labels(), utc_offset_h=0, regime=regime, min_count=1)
    builder.build(StoredTables.open(tmp_path / "tables"), TimeSplit(valid_days=1, test_days=1), tmp_path / "features")
    features = FeatureSet.load(tmp_path / "features")
    replay = Replay(release=release, regime=regime, slate=5, requests=0, depth=5)
    found = replay.run(HeldOutLog(StoredTables.open(tmp_path / "tables"), split, np.zeros(len(split))))
    batch = {name: values.numpy() for name, values in features.batch(features.rows("test")).items()}
    offline = [  # one at a time: the compiled network takes one viewer
        release.calibration(release.ranker({name: values[i : i + 1] for name, values in batch.items()}))[0]
        for i in range(len(found.scores))
    ]
    assert skew(found.scores, np.array(offline)) == pytest.approx({"skew": 0, "skew_watch_s": 0}, abs=1e-5)
    if regime == "request":
        sizes = np.unique(found.groups, return_counts=True)[1]
        assert sizes.max() > 3
        assert len(sizes) > 10


@pytest.mark.parametrize("regime", ["streaming", "request"])
def test_a_log_of_slates_is_replayed_once_for_two_regimes(regime, built, release, tmp_path):
    slates = built[1].impressions.filter(pl.len().over("request_id") > 1)
    tables, split = Tables(slates, built[1].users, built[1].videos), TimeSplit(valid_days=1, test_days=1).assign(slates["day"])
    settings = {"requests": 3, "slate": 5, "retrieval_k": [5]}
    config = OmegaConf.create({"regime": regime, "evaluation": settings})
    log = stored(tables, split, tmp_path / "slates")
    found = replays(config, release, log)
    assert set(found) == set(REGIMES)
    assert found["request"] is found["streaming"]
    assert len(found["request"].traces) == 3
    other = Replay(release=release, regime=min(REGIMES[2:], key=regime.__eq__), slate=5, requests=0, depth=5)
    np.testing.assert_array_equal(other.run(log).scores, found[regime].scores)
    alone = replays(config, release, stored(*one_by_one(built[1]), tmp_path / "alone"))
    assert not np.array_equal(alone["request"].scores, alone["streaming"].scores)


@pytest.mark.parametrize("regime", REGIMES)
def test_traced_requests_alone_meet_the_state_that_they_meet_among_all(regime, built, release, tmp_path):
    tables, split = built[1], np.asarray(FeatureSet.load(built[0]).columns["split"])
    log = stored(tables, split, tmp_path)
    replay = Replay(release=release, regime=regime, slate=5, requests=4, depth=5)
    met = {}
    for traced_only in (False, True):
        with replay.opened(log, traced_only=traced_only) as (recommender, requests):
            traced = ((each.request, recommender.score(each.request, each.rows)) for each in requests if len(each.watched))
            met[traced_only] = {request.request_id: (request, scores) for request, scores in traced}
    assert 1 < len(met[True]) == len(met[False])
    for request_id, (request, scores) in met[True].items():
        assert request == met[False][request_id][0]
        np.testing.assert_array_equal(scores, met[False][request_id][1])
