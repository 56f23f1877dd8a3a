"""The probabilities of a release for logged slates, on one small real release and its store."""

from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from small_release import small_log
from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables, write_tables
from watchnext.data.tables import Tables
from watchnext.evaluation.off_policy.clusters import content_clusters
from watchnext.evaluation.off_policy.slate_log import OffPolicyError
from watchnext.evaluation.off_policy.slates.logged_slates import logged_slates
from watchnext.evaluation.off_policy.slates.release_policy import ReleasePolicy, marginals
from watchnext.evaluation.off_policy.value_report import value_report, value_table
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.reranking.diversity import Diversity
from watchnext.reranking.limits import SlateRules
from watchnext.reranking.rules.caps import CreatorCap
from watchnext.reranking.rules.rule import RuleContext
from watchnext.reranking.slate_policy import SlatePolicy
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.store import Store
from watchnext.types import Request

K = 4


@pytest.fixture(scope="module")
def recommender(release, tmp_path_factory):
    store = Store.open(tmp_path_factory.mktemp("store"), release, durable=False)
    yield Recommender(release, store)
    store.close()


@pytest.fixture(scope="module")
def clusters(release):
    return content_clusters(np.asarray(release.catalogue.vectors), seed=0)


def request_of(release, number: int) -> Request:
    return Request(f"r{number}", release.user_ids.value(3), K, release.as_of_ms, "home")


def test_a_slate_that_the_release_draws_has_its_propensities(release, recommender, clusters):
    policy, rng = ReleasePolicy(recommender, clusters), np.random.default_rng(0)
    for number in range(20):
        answer = recommender.recommend(request_of(release, number))
        rates = policy.rates(answer.request, answer.rows, rng)
        assert rates.given.tolist() == pytest.approx(answer.slate.propensities.tolist(), abs=1e-12)
        assert rates.clusters.sum(axis=1).tolist() == pytest.approx([1.0] * K)
        np.testing.assert_allclose(rates.features[:, :3], answer.predictions[:, :3], atol=1e-6)


def test_the_probability_at_a_position_is_how_often_the_release_puts_it_there(release, recommender, clusters, monkeypatch):
    monkeypatch.setattr("watchnext.evaluation.off_policy.slates.release_policy.DRAWS", 2000)
    query, counts = recommender.query(request_of(release, 0)), Counter()
    scored = recommender.rank(query, recommender.retrieval.retrieve(query, []))
    for number in range(2000):
        slate = recommender.rerank(replace(query, request=request_of(release, number)), scored)
        counts.update(enumerate(scored.candidates.rows[slate.picked].tolist()))
    shown = [max(rows, key=lambda at: counts[at])[1] for rows in ([at for at in counts if at[0] == k] for k in range(K))]
    rates = ReleasePolicy(recommender, clusters).rates(request_of(release, 0), np.array(shown), np.random.default_rng(1))
    assert rates.at_position.tolist() == pytest.approx([counts[k, row] / 2000 for k, row in enumerate(shown)], abs=0.06)
    above = [sum(counts[k, row] for row in shown[:k]) / 2000 for k in range(K)]
    assert rates.repeated.tolist() == pytest.approx(above, abs=0.06)


def test_a_video_that_is_no_candidate_has_no_probability(release, recommender, clusters):
    request = request_of(release, 0)
    retrieved = recommender.retrieve(request).rows
    out = next(row for row in range(len(release.catalogue)) if row not in retrieved)
    rates = ReleasePolicy(recommender, clusters).rates(request, np.array([out, int(retrieved[0])]), np.random.default_rng(0))
    assert rates.given[0] == rates.at_position[0] == 0
    assert np.isfinite(rates.features).all()


def test_slots_that_no_video_may_fill_have_no_probability():
    """Two videos of one creator under a cap of 1 that never bends."""
    rows = np.arange(2)
    facts = SimpleNamespace(creator_rows=np.zeros(2, np.int32))
    limits = SlateRules([CreatorCap(most=1)]).limits(rows, RuleContext(seen=rows[:0], region=None, facts=facts, region_bits={}))
    policy = SlatePolicy(
        rows=rows,
        outside=0,
        slots=3,
        relevance=np.array([1.0, 0.0]),
        similarity=None,
        diversity=Diversity(trade_off=1.0),
        limits=limits._replace(hard=1),
        epsilon=0.0,
        continuation=1.0,
    )
    assert marginals(policy, 3, np.random.default_rng(0)).tolist() == [[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]
    assert policy.following(rows[:1]).tolist() == [0.0, 0.0]


# ---- logs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def logged(feature_stage, once):
    """The release's tables with the propensities that their uniform draws have, and the split."""
    tables = small_log(feature_stage, once)[1]
    uniform = 1.0 / (len(tables.videos) - pl.col("position").cast(pl.Float32))
    impressions = tables.impressions.with_columns(propensity=uniform.cast(pl.Float32))
    return Tables(impressions, tables.users, tables.videos), TimeSplit(valid_days=1, test_days=1).assign(impressions["day"])


@pytest.fixture
def valued(release, logged, tmp_path):
    """Value the release on the log with other impressions or split, as on one that was stored."""

    def valued(impressions: pl.DataFrame | None = None, split=None, requests: int = 1000):
        tables = logged[0] if impressions is None else replace(logged[0], impressions=impressions)
        write_tables(tables, tmp_path / "tables")
        long_view = tables.impressions["long_view"].to_numpy()
        log = HeldOutLog(StoredTables.open(tmp_path / "tables"), logged[1] if split is None else split, long_view)
        return logged_slates(release, log, long_view.astype(np.float64), requests=requests, seed=0)

    return valued


def test_a_log_is_valued_from_its_tables(release, logged, valued):
    log, rates, left_out = valued()
    test = logged[0].impressions.filter(pl.Series(logged[1] == 2))
    assert len(log) == test["request_id"].n_unique()
    assert log.shown.sum() == len(test)
    assert left_out == {}
    assert log.propensity[log.shown].min() == pytest.approx(1 / len(logged[0].videos))
    assert (rates.given <= 1).all()
    assert (rates.cluster_logged > 0).all()
    text = value_table({"release": release.id, "reward": "long_view", "left_out": left_out, **value_report(log, rates)})
    assert text.count("!") == 11 + 4  # estimators, and a line for each level
    assert "no estimator has enough overlap" in text  # of so few requests
    assert "thin overlap" in text


def test_fewer_requests_are_spread_evenly(valued):
    log, _, _ = valued(requests=20)
    assert 10 <= len(log) <= 20


def test_requests_that_lack_something_are_left_out_and_counted(logged, valued):
    tables, split = logged
    impressions = tables.impressions.with_row_index("row")
    first = impressions.filter(pl.Series(split == 2))["row"][0]
    changed = impressions.with_columns(propensity=pl.when(pl.col("row") == first).then(None).otherwise("propensity")).drop(
        "row"
    )
    whole, _, _ = valued()
    log, _, left_out = valued(changed)
    assert left_out == {"a propensity is missing": 1}
    assert len(log) == len(whole) - 1


@pytest.mark.parametrize("name", ["propensity", "position"])
def test_a_log_without_propensities_or_positions_is_refused(logged, valued, name):
    tables, split = logged
    without = tables.impressions.with_columns(pl.lit(None, tables.impressions[name].dtype).alias(name))
    number = int((split == 2).sum())
    with pytest.raises(
        OffPolicyError, match=rf"{name} is missing in all {number} impressions of the test days.*run this again"
    ):
        valued(without)


def test_without_test_days_the_log_is_empty(logged, valued):
    with pytest.raises(OffPolicyError, match="the log has 0 rows"):
        valued(split=np.minimum(logged[1], 1))
