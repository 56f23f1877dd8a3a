"""Every conf/loss/*.yaml on a real network: its batches, and that it learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from watchnext.metrics import gauc
from watchnext.nn.trainable import NothingToLearnError
from watchnext.ranking.training.ranking_module import RankingModule
from watchnext.types import TARGETS

CONF = Path(__file__).resolve().parents[3] / "conf"
LOSSES = sorted(path.stem for path in (CONF / "loss").glob("*.yaml"))


def module_of(features, loss: str) -> RankingModule:
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        hidden = ["model=mlp", "model.module.hide=[own_state,user_id]", "model.module.batch_size=256"]
        config = compose("config", [*hidden, f"loss@model.module.loss={loss}"])
    torch.manual_seed(0)
    return instantiate(config.model.module)(features=features)


@pytest.mark.parametrize("loss", LOSSES)
def test_any_network_learns_under_any_loss(world_features, loss):
    module = module_of(world_features, loss)
    batches = list(module.loader("train", seed=0))
    assert all(("groups" in batch) == bool(module.loss.within) for batch in batches)
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=0.003), []
    for _ in range(6):
        total = 0.0
        for batch in batches:
            optimizer.zero_grad()
            found = module.objective(batch)
            found.backward()
            optimizer.step()
            total += found.item()
        losses.append(total)
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("loss", ["pairwise", "listwise"])
def test_losses_over_viewers_order_a_viewers_videos(world_features, loss):
    module = module_of(world_features, loss)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.003)
    for _ in range(15):
        for batch in module.loader("train", seed=0):
            optimizer.zero_grad()
            module.objective(batch).backward()
            optimizer.step()
    module.eval()
    batch = world_features.batch(world_features.rows("train"))
    with torch.no_grad():
        found = module.network(batch)[:, TARGETS.index("long_view")].numpy()
    assert gauc(batch["targets"][:, TARGETS.index("long_view")].numpy(), found, batch["user_rows"].numpy()) > 0.7


def test_an_empty_split_is_named(world_features, monkeypatch):
    split = np.array(world_features.columns["split"])
    split[split == 1] = -1
    monkeypatch.setitem(world_features.columns, "split", split)
    with pytest.raises(ValueError, match=r"there are no valid impressions; check data\.split"):
        module_of(world_features, "multi_task").loader("valid", seed=0)


@pytest.mark.parametrize("loss", ["pairwise", "mixture"])
def test_a_loss_over_groups_without_both_labels_is_named(world_features, loss, monkeypatch):
    targets = np.zeros_like(world_features.columns["targets"])
    monkeypatch.setitem(world_features.columns, "targets", targets)
    with pytest.raises(NothingToLearnError, match="training impressions has both labels of long_view"):
        module_of(world_features, loss).loader("train", seed=0)


def test_a_loss_that_is_no_number_stops_and_names_its_batch(world_features):
    module = module_of(world_features, "multi_task")
    batch = next(iter(module.loader("train", seed=0)))
    batch["candidate_values"][3, 0] = float("nan")
    with pytest.raises(ValueError, match=r"the loss of batch 7 is nan; .* lower model\.module\.learning_rate \(0\.001\)"):
        module.training_step(batch, 7)
