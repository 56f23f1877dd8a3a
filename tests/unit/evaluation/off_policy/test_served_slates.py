"""A served log is valued: its propensities, the outcomes of the journal, and the release on the state of every moment."""

from contextlib import closing
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from served_traffic import serve
from watchnext.evaluation.off_policy.slate_log import OffPolicyError
from watchnext.evaluation.off_policy.slates.served_slates import served_slates
from watchnext.evaluation.off_policy.value_report import value_report, value_table
from watchnext.features.dataset.labels import Labels
from watchnext.serving.store.store import Store

DAYS, K = 4, 6


@pytest.fixture(scope="module")
def traffic(release, tmp_path_factory):
    """The folder of a served log, the store that heard its outcomes, and the answers."""
    folder = tmp_path_factory.mktemp("traffic")
    answers = serve(release, folder / "store", folder / "served", days=DAYS)
    with closing(Store.reader(folder / "store", release)) as store:
        yield folder / "served", store, answers


def value(release, traffic, *, reward="click", requests=1000, served=None):
    folder, store, _ = traffic
    return served_slates(release, served or folder, store, Labels(), reward, requests=requests, seed=0)


def test_a_release_has_weights_of_one_on_its_own_slates(release, traffic):
    log, rates, left_out = value(release, traffic)
    later = traffic[2][len(traffic[2]) // 2 - 1 :]
    assert left_out == {"outcomes may still come": 1}
    assert len(log) == len(later) - 1
    by_request = {tuple(answer.slate.propensities.tolist()) for answer in later}
    assert {tuple(row) for row in log.propensity.tolist()} <= by_request
    np.testing.assert_allclose(rates.given, log.propensity, atol=1e-12)
    assert (rates.cluster_logged > 0).all()
    report = value_report(log, rates)
    assert report["estimates"]["slate ips"]["value"] == pytest.approx(report["logged"][0])
    assert "the log itself" in value_table({"release": "r", "reward": "click", "left_out": left_out, **report})


def test_a_reward_is_of_the_first_outcome_and_0_without_one(release, traffic):
    log, _, _ = value(release, traffic)
    assert log.reward.tolist() == [[1.0, 0.0] * (K // 2)] * len(log)
    seconds, _, _ = value(release, traffic, reward="watch_s")
    assert seconds.reward.tolist() == [[9.0, 0.0] * (K // 2)] * len(log)


def test_another_release_has_weights_of_its_own(release, traffic):
    by_value = release.reranker.to_config() | {"exploration": {"epsilon": 0.0}}
    other = replace(release, reranker=type(release.reranker).from_config(by_value))
    log, rates, _ = value(other, traffic)
    assert {*np.unique(rates.given)} <= {0.0, 1.0}
    assert (log.propensity > 0).all()


def test_fewer_requests_are_spread_evenly_over_the_later_half(release, traffic):
    assert 8 <= len(value(release, traffic, requests=12)[0]) <= 12


def test_answers_that_cannot_be_weighed_are_counted(release, traffic, tmp_path):
    parts = [pl.read_parquet(part) for part in traffic[0].glob("hour=*/part-*.parquet")]
    answers = pl.concat(parts).sort("as_of_ms")
    asked = ['{"mirrored":true}', '{"exclude":[1]}', *answers["asked"][2:]]
    changed = answers.with_columns(asked=pl.Series(asked), release=pl.Series(["r", "other", *answers["release"][2:]]))
    late = changed.with_columns(why=pl.when(pl.int_range(pl.len()) == 2).then(pl.lit(["ranker_late"])).otherwise("why"))
    (tmp_path / "hour=2023112000").mkdir()
    late.write_parquet(tmp_path / "hour=2023112000" / "part-0.parquet")
    _, _, left_out = value(release, traffic, served=tmp_path)
    assert left_out == {
        "nobody saw it": 1,
        "it was precomputed or degraded, or events came meanwhile": 1,
        "it names videos by rows of another release": 1,
        "outcomes may still come": 1,
    }


def test_a_log_without_answers_is_refused(release, traffic, tmp_path):
    with pytest.raises(OffPolicyError, match="has no answer that can be weighed"):
        value(release, traffic, served=tmp_path)
