"""The training of a ranking network, put together by hand: watch-time head, position tower, propensity weights."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from watchnext.ranking.heads import WATCH, predictions
from watchnext.ranking.models.linear import LogisticRegression
from watchnext.ranking.training.debias import InversePropensity, PositionBias
from watchnext.ranking.training.ranking_losses import Listwise, MultiTask, Pairwise, WeightedLosses
from watchnext.ranking.training.ranking_module import RankingModule
from watchnext.ranking.watch_time.ordinal import Ordinal
from watchnext.types import TARGETS

WEIGHTS = {"click": 0.5, "long_view": 1.0, "like": 0.25, "watch_s": 0.2}


def module_of(features, loss=None, **settings) -> RankingModule:
    torch.manual_seed(0)
    rest = {"learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 64, "monitor": "valid/auc_long_view", "patience": 2}
    network = partial(LogisticRegression)
    return RankingModule(features=features, network=network, loss=loss or MultiTask(weights=WEIGHTS), **rest, **settings)


@pytest.fixture
def batch(world_features) -> dict[str, torch.Tensor]:
    rows = np.sort(np.random.default_rng(0).choice(world_features.rows("train"), 50, replace=False))
    return world_features.batch(rows)


def test_position_and_propensity_of_a_row_are_those_of_its_log(world_features, world_tables, batch):
    log = world_tables.impressions
    assert world_features.columns["position"].tolist() == log["position"].to_list()
    assert world_features.columns["propensity"] == pytest.approx(log["propensity"].to_numpy())
    assert batch["position"].max() > 0


def test_the_objective_by_hand(world_features, batch):
    settings = {"watch_time": partial(Ordinal, thresholds=6, groups=3), "inverse_propensity": 5.0}
    module = module_of(world_features, position_bias=partial(PositionBias, positions=4), **settings)
    with torch.no_grad():
        module.position_bias.table.normal_()
        raw = module.network.network(batch) + module.position_bias(batch["position"])
        weights = InversePropensity(propensities=world_features.columns["propensity"][world_features.rows("train")], most=5.0)(
            batch["propensity"]
        )
        rows = [
            binary_cross_entropy_with_logits(raw[:, place], batch["targets"][:, place], reduction="none")
            for place in range(WATCH)
        ]
        head = module.network.watch_time
        rows.append(head.losses(raw[:, WATCH:], batch["targets"][:, WATCH], batch["video_duration_s"][:, 0]))
        expected = sum(WEIGHTS[name] * (row * weights).sum() / weights.sum() for name, row in zip(TARGETS, rows, strict=True))
        assert raw.shape == (50, WATCH + 6)
        assert weights.std() > 0.1
        assert module.objective(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_served_network_knows_no_position(world_features, batch):
    plain, biased = module_of(world_features), module_of(world_features, position_bias=partial(PositionBias, positions=4))
    with torch.no_grad():
        biased.position_bias.table.normal_()
        assert torch.equal(plain.network(batch), biased.network(batch))
        assert biased.objective(batch).item() != plain.objective(batch).item()
    assert plain.network.state_dict().keys() == biased.network.state_dict().keys()


def test_a_head_is_fitted_on_the_training_rows_when_the_module_is_made(world_features, batch):
    """At the logits that say what the training rows did, seconds are the mean of the duration group."""
    module = module_of(world_features, watch_time=partial(Ordinal, thresholds=6, groups=2))
    rows, head = world_features.rows("train"), module.network.watch_time
    watch = world_features.columns["targets"][rows, WATCH].astype(np.float64)
    duration = world_features.batch(rows)["video_duration_s"][:, 0].numpy()
    short = (duration > 0) & (duration < head.edges[1].item())
    beyond = np.clip((watch[short, None] > head.thresholds[1].numpy()).mean(0), 1e-6, 1 - 1e-6)
    logits = torch.from_numpy(np.log(beyond / (1 - beyond)))[None].float()
    assert head.seconds(logits, torch.tensor([duration[short][0]])).item() == pytest.approx(watch[short].mean(), rel=0.01)
    found = predictions(module.network(batch).detach())
    assert found.shape == (50, len(TARGETS))
    assert found.isfinite().all()


def test_row_weights_are_repeated_rows():
    """An integer weight is that many copies of a row, for every loss."""
    random = torch.Generator().manual_seed(1)
    logits, groups = torch.randn(12, len(TARGETS), generator=random), torch.arange(12) % 3
    targets = (torch.rand(12, len(TARGETS), generator=random) < 0.5).float()
    watch, weights = torch.rand(12, generator=random), torch.ones(12)
    weights[::2] = 3.0
    copies = torch.repeat_interleave(torch.arange(12), weights.long())
    loss = MultiTask(weights=WEIGHTS)
    expected = loss(logits[copies], targets[copies], None, watch[copies])
    torch.testing.assert_close(loss(logits, targets, None, watch, weights), expected)
    order = Pairwise(target="click", within="viewer"), Listwise(target="click", within="viewer")
    for ranked in order:
        by_hand, total = 0.0, 0.0
        for i in range(12):
            mine = [j for j in range(12) if groups[j] == groups[i] and (j == i or targets[j, 0] < 1)]
            others = [j for j in mine if j != i]
            every = [j for j in range(12) if groups[j] == groups[i]]
            if targets[i, 0] and others:
                if ranked is order[0]:
                    parts = [torch.nn.functional.softplus(logits[j, 0] - logits[i, 0]) for j in others]
                else:
                    parts = [logits[every, 0].logsumexp(0) - logits[i, 0]]
                by_hand += weights[i] * sum(parts)
                total += weights[i] * len(parts)
        torch.testing.assert_close(ranked(logits, targets, groups, None, weights), by_hand / total)


def test_a_loss_names_the_heads_it_trains():
    order = Listwise(target="like", within="viewer")
    few = MultiTask(weights={"watch_s": 1.0, "click": 0.5, "long_view": 0.0})
    assert few.heads == ("click", "watch_s")
    assert WeightedLosses(losses={"a": few, "b": order}, weights={"a": 1.0, "b": 1.0}).heads == ("click", "like", "watch_s")
