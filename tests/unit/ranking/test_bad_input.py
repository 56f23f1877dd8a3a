"""Columns that say nothing, and values that training has not seen, through the feature stage into a ranker."""

from functools import partial

import numpy as np
import polars as pl
import pytest
import torch

from watchnext.data.splits import TimeSplit
from watchnext.data.tables import Tables
from watchnext.ranking.heads import predictions
from watchnext.ranking.models.linear import LogisticRegression
from watchnext.ranking.training.ranking_losses import MultiTask
from watchnext.ranking.training.ranking_module import RankingModule
from watchnext.ranking.watch_time.ordinal import Ordinal
from watchnext.types import TARGETS


@pytest.fixture(scope="module")
def empty_columns(feature_stage, world_schema, world_tables, tmp_path_factory):
    """The log with columns all null or constant, an outcome that never happens, and a surface of the last day alone."""
    log = world_tables.impressions
    last = pl.col("day") == log["day"].max()
    log = log.with_columns(
        pl.when(last).then(pl.lit("television")).otherwise("surface").alias("surface"), pl.lit(False).alias("like")
    )
    users = world_tables.users.with_columns(
        pl.lit(None, pl.String).alias("age_group"), pl.lit("ios").alias("device"), pl.lit(40.0).alias("account_age_days")
    )
    nothing = {"duration_ms": pl.Int64, "language": pl.String, "vector": pl.List(pl.Float32), "tags": pl.List(pl.String)}
    videos = world_tables.videos.with_columns(*(pl.lit(None, kind).alias(name) for name, kind in nothing.items()))
    tables, split = Tables(log, users, videos), TimeSplit(valid_days=1, test_days=1)
    return feature_stage(world_schema, tables, split, tmp_path_factory.mktemp("empty"), min_count=2)


def test_constant_and_empty_columns_train_and_predict(empty_columns):
    torch.manual_seed(0)
    loss = MultiTask(weights=dict.fromkeys(TARGETS, 1.0))
    rest = {"weight_decay": 0.0, "batch_size": 256, "monitor": "valid/auc_long_view", "patience": 2}
    module = RankingModule(features=empty_columns, network=partial(LogisticRegression), loss=loss, learning_rate=0.02,
                           watch_time=partial(Ordinal, thresholds=6, groups=3), **rest)  # fmt: skip
    optimizer, losses = module.configure_optimizers(), []
    for seed in range(3):
        total = 0.0
        for batch in module.loader("train", seed=seed):
            optimizer.zero_grad()
            found = module.objective(batch)
            found.backward()
            optimizer.step()
            total += found.item()
        losses.append(total)
    assert losses[-1] < losses[0]
    test = empty_columns.batch(empty_columns.rows("test"))
    assert (test["video_duration_s"] == 0).all()
    with torch.no_grad():
        found = predictions(module.network(test))
        assert found.isfinite().all()
        assert found[:, TARGETS.index("like")].max() < 0.3  # it never happened
        unseen = test["context_codes"].clone()
        place = [feature.name for feature in empty_columns.pipeline.schema.of("context")].index("surface")
        assert (unseen[:, place] == 0).all()  # a surface that training has not seen is the unknown one
        assert np.ptp(found[:, 0].numpy()) > 0.01
