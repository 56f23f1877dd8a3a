"""A trained ranker's calibration, its report by slice, the heads it has, and the trade-off between two of them."""

import json
import logging
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from watchnext.ranking.__main__ import curve
from watchnext.ranking.analysis.reliability_report import slices_of, write_reliability_report
from watchnext.ranking.calibration.calibration import Calibration
from watchnext.ranking.calibration.curves import fit_calibration
from watchnext.ranking.heads import WATCH
from watchnext.ranking.models.linear import LogisticRegression
from watchnext.ranking.scoring import Ranker, scored
from watchnext.ranking.training.ranking_losses import Listwise, MultiTask
from watchnext.ranking.training.ranking_module import RankingModule
from watchnext.reranking.value import Value
from watchnext.types import TARGETS

METHODS = {"click": "isotonic", "long_view": "isotonic", "like": "platt", "watch_s": "isotonic"}


def module_of(features, loss) -> RankingModule:
    torch.manual_seed(0)
    rest = {"learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 256, "monitor": "valid/auc_long_view", "patience": 2}
    return RankingModule(features=features, network=partial(LogisticRegression), loss=loss, **rest)


@pytest.fixture(scope="module")
def trained(world_features) -> RankingModule:
    """Two epochs by hand."""
    module = module_of(world_features, MultiTask(weights=dict.fromkeys(TARGETS, 1.0)))
    optimizer = module.configure_optimizers()
    for batch in [*module.loader("train", seed=0), *module.loader("train", seed=1)]:
        optimizer.zero_grad()
        module.objective(batch).backward()
        optimizer.step()
    return module.eval()


def calibrated(features, network) -> Calibration:
    rows = features.rows("valid")
    return fit_calibration(scored(features, network, rows), features.columns["targets"][rows], methods=METHODS)


def test_trust_is_what_is_loaded_and_scored_again(trained, world_features, tmp_path):
    trained.save(tmp_path)
    found = write_reliability_report(world_features, trained.network, tmp_path, methods=METHODS)
    ranker = Ranker.load(tmp_path, schema=world_features.pipeline.schema, repair="python train.py")
    rows = {split: world_features.rows(split) for split in ("valid", "test")}
    raw = scored(world_features, trained.network, rows["test"])
    expected = calibrated(world_features, trained.network)
    assert np.array_equal(ranker.scored(world_features, rows["test"]), expected(raw))
    served = ranker.scored(world_features, rows["valid"])
    happened = world_features.columns["targets"][rows["valid"]]
    assert served.mean(0) == pytest.approx(happened.mean(0), rel=0.05)
    assert found["test/mean_ratio_watch_s"] != found["uncalibrated/mean_ratio_watch_s"]
    assert "uncalibrated/auc_long_view" not in found
    watched = world_features.columns["targets"][rows["test"], WATCH].mean()
    assert found["test/mean_ratio_watch_s"] == pytest.approx(expected(raw)[:, WATCH].mean() / watched, rel=1e-4)
    tables = json.loads((tmp_path / "reliability.json").read_text())
    assert set(tables) == set(TARGETS[:WATCH])
    assert {row["slice"] for row in tables["long_view"]} == {"all", "surface", "duration", "video_age", "activity"}
    assert {path.suffix for path in (tmp_path / "calibration").rglob("*.*")} == {".npy"}
    assert len(list(tmp_path.glob("reliability_*.png"))) == WATCH


def test_slices_are_those_of_the_log(world_features, world_tables):
    rows = world_features.rows("test")
    found = slices_of(world_features, rows)
    log = world_tables.impressions[rows.tolist()]
    assert found["surface"].tolist() == log["surface"].fill_null("unknown").to_list()
    videos = dict(zip(world_tables.videos["video_id"], world_tables.videos["duration_ms"], strict=True))
    for name, video in zip(found["duration"], log["video_id"], strict=True):
        seconds = (videos[video] or 0) / 1000
        expected = "under 7 s" if 0 < seconds < 7 else "7 to 15 s" if 7 <= seconds < 15 else None
        assert expected is None or name == expected


def test_a_head_of_one_class_passes_through_and_is_named(world_features, trained, caplog):
    rows = world_features.rows("valid")
    predictions, targets = scored(world_features, trained.network, rows), world_features.columns["targets"][rows].copy()
    targets[:, TARGETS.index("like")] = 0.0
    targets[:, WATCH] = 0.0
    with caplog.at_level(logging.WARNING):
        calibration = fit_calibration(predictions, targets, methods=METHODS)
    assert set(calibration.curves) == {"click", "long_view"}
    assert np.array_equal(calibration(predictions)[:, 2:], predictions[:, 2:])
    assert "like is 0 in all validation rows: its predictions stay uncalibrated" in caplog.text
    assert "watch_s is 0" in caplog.text
    with caplog.at_level(logging.WARNING):
        assert fit_calibration(predictions[:0], targets[:0], methods=METHODS).curves == {}
    assert "no validation rows: predictions of like stay uncalibrated" in caplog.text


@pytest.mark.parametrize("test_days", ["one class", "no rows"])
def test_figures_that_test_days_cannot_tell_are_undefined(world_features, trained, test_days, tmp_path):
    targets, split = (np.array(world_features.columns[name]) for name in ("targets", "split"))
    if test_days == "one class":
        targets[split == 2] = 0.0
    else:
        split[split == 2] = -1
    features = replace(world_features, columns={**world_features.columns, "targets": targets, "split": split})
    found = write_reliability_report(features, trained.network, tmp_path, methods=METHODS)
    assert all(np.isnan(found[f"test/{figure}_like"]) for figure in ("auc", "gauc"))
    assert np.isnan(found["test/mean_ratio_watch_s"])
    assert np.isnan(found["test/logloss_like"]) == (test_days == "no rows")
    text = (tmp_path / "reliability.json").read_text()
    assert json.loads(text)["like"][0]["auc"] is None if test_days == "one class" else json.loads(text)["like"] == []
    assert "NaN" not in text
    assert (tmp_path / "reliability_like.png").stat().st_size > 500


def test_a_head_that_the_ranker_lacks_is_named(world_features, tmp_path):
    module_of(world_features, Listwise(target="long_view", within="viewer")).save(tmp_path)
    ranker = Ranker.load(tmp_path, schema=world_features.pipeline.schema, repair="python train.py")
    ranker.require(["long_view"], by="reranking.value.weights")
    with pytest.raises(ValueError, match=r"value\.weights needs the head 'like', .* was trained for long_view only"):
        ranker.require(["long_view", "like"], by="reranking.value.weights")


def test_the_trade_off_of_a_trained_ranker(trained, world_features):
    ranker = Ranker(trained.network, calibrated(world_features, trained.network))
    settings = {"weights": {"click": 0.2, "long_view": 1.0, "watch_s": 0.3}, "steps": 3, "k": 2, "split": "valid"}
    value = partial(Value, watch_half_s=30.0)
    points = curve(world_features, ranker, value, first="watch_s", second="click", **settings)
    assert [point.share for point in points] == [0.0, 0.5, 1.0]
    assert set(points[0].metrics) == {"watch_s@2", "click@2"}
    assert points[0].weights == {"click": 0.5, "long_view": 1.0, "watch_s": 0.0}
    assert 0 < points[0].metrics["click@2"] < 1
    with pytest.raises(ValueError, match="trade_off needs the head 'share'"):
        curve(world_features, ranker, value, first="share", second="click", **settings)
    with pytest.raises(ValueError, match="split 'validation' has no impressions, expected a non-empty one of train"):
        curve(world_features, ranker, value, first="watch_s", second="click", **settings | {"split": "validation"})
