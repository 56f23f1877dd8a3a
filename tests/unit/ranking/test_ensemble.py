"""An ensemble's weights, and a network under a feature mask."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tqdm import tqdm

from watchnext.features.dataset.batches import FeatureSet
from watchnext.metrics import auc, gauc, logloss
from watchnext.nn.checkpoints import Checkpoints
from watchnext.nn.trainable import Training
from watchnext.ranking.feature_mask import masked_columns
from watchnext.ranking.heads import WATCH
from watchnext.ranking.models.ensemble import BOUNDS, EnsembleModule, platt, simplex
from watchnext.ranking.models.linear import LogisticRegression
from watchnext.ranking.models.mlp import DeepNetwork
from watchnext.ranking.target_metrics import objective
from watchnext.ranking.training.ranking_losses import MultiTask
from watchnext.ranking.training.ranking_module import RankingModule
from watchnext.types import TARGETS

LONG_VIEW = TARGETS.index("long_view")
MLP = partial(DeepNetwork, embedding=4, hidden=(8,), dropout=0.0)


def member(network: partial, hide: tuple[str, ...] = ()) -> dict:
    loss = MultiTask(weights={"long_view": 1.0})
    rest = {"learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 64, "monitor": "valid/auc_long_view", "patience": 2}
    return {"module": partial(RankingModule, network=network, loss=loss, hide=hide, **rest)}


def ensemble(features) -> EnsembleModule:
    torch.manual_seed(0)
    members = {"linear": member(partial(LogisticRegression)), "deep": member(MLP)}
    members["masked"] = member(MLP, ("own_state", "user_id"))
    return EnsembleModule(features=features, members=members, steps=4)


def copies(module: EnsembleModule, features, rows) -> torch.Tensor:
    """Logits (M, n, T) of the members by themselves."""
    with torch.no_grad():
        return torch.stack([each.network(features.batch(rows)) for each in module.members.values()])


@torch.no_grad()
def test_watch_time_goes_to_the_member_that_tells_the_expectation(world_features):
    """One member always says the mean of the seconds, one the mean of their logs, which is nearer to most watches."""
    rows = world_features.rows("valid")
    seconds = world_features.columns["targets"][rows, WATCH].astype(np.float64)
    printed = {"expectation": np.log1p(seconds.mean()), "logs": np.log1p(seconds).mean()}
    errors = {name: np.abs(np.expm1(value) - seconds).mean() for name, value in printed.items()}
    assert errors["logs"] < errors["expectation"]
    members = {name: member(partial(LogisticRegression)) for name in printed}
    module = EnsembleModule(features=world_features, members=members, steps=4)
    for name, value in printed.items():
        network = module.members[name].network
        for parameter in network.parameters():
            parameter.zero_()
        network.values.bias[WATCH] = value
    module.weigh(rows)
    assert module.figures["weight/expectation/watch_s"] == 1.0


def test_weights_are_the_best_of_the_grid_and_scores_their_mean(world_features):
    rows, module = world_features.rows("valid"), ensemble(world_features)
    module.weigh(rows)
    logits, label = copies(module, world_features, rows), world_features.columns["targets"][rows, LONG_VIEW]
    mine = logits[:, :, LONG_VIEW].double().numpy()
    requests = world_features.requests(rows)

    def worth(scores: np.ndarray) -> float:
        return objective(auc(label, scores), gauc(label, scores, requests))

    best = max(worth(np.array(weights) / 4 @ mine) for weights in np.ndindex(5, 5, 5) if sum(weights) == 4)
    with torch.no_grad():
        found = module.network(world_features.batch(rows))
    assert worth(found[:, LONG_VIEW].numpy()) == pytest.approx(best, abs=1e-6)
    torch.testing.assert_close(found, module.network.joined(logits))
    weights = [module.figures[f"weight/{name}/long_view"] for name in module.members]
    assert sum(weights) == pytest.approx(1.0)
    assert module.network.weights[:, LONG_VIEW].tolist() == weights


def test_of_many_impressions_every_second_request_is_weighed(world_features, monkeypatch):
    rows = world_features.rows("valid")
    half, whole = (ensemble(world_features) for _ in range(2))
    half.weigh(rows[world_features.requests(rows) % 2 == 0])
    monkeypatch.setattr("watchnext.ranking.models.ensemble.WEIGHED", len(rows) - 1)
    whole.weigh(rows)
    assert whole.figures == half.figures


def test_every_member_and_every_wait_is_named(world_features, monkeypatch, capsys):
    monkeypatch.setattr("watchnext.ranking.models.ensemble.waiting", partial(tqdm, delay=0.0))
    module, trainings = ensemble(world_features), []
    for member in module.members.values():
        monkeypatch.setattr(member, "fit", lambda training: trainings.append(training) or {})
    logged = []
    module.fit(Training(5, pl.Trainer, log=lambda values, step: logged.append((values, step))))
    assert [(each.name, each.seed) for each in trainings] == [("linear", 5), ("deep", 6), ("masked", 7)]
    trainings[1].log({"loss": 0.5}, 3)
    assert logged == [({"deep-loss": 0.5}, 3)]
    printed = capsys.readouterr().err
    assert [line for line in printed.replace("\r", "\n").splitlines() if line.startswith("member ")] == [
        "member 1 of 3: linear", "member 2 of 3: deep", "member 3 of 3: masked"]  # fmt: skip
    assert "members' scores: 100%" in printed
    assert all(f"weights of {target}: 100%" in printed for target in TARGETS)


def without_validation(features: FeatureSet) -> FeatureSet:
    """The same training rows, and no validation rows."""
    split = np.array(features.columns["split"])
    return replace(features, columns={**features.columns, "split": np.where(split == 1, -1, split)})


def fitted(module: EnsembleModule, kept: Checkpoints | None = None, cut: str = "", evaluated: dict | None = None) -> list[str]:
    """Fit it, or until the second epoch of the member `cut`; returns which members trained an epoch."""
    seen, names = [], {id(each): name for name, each in module.members.items()}

    def note(trainer: pl.Trainer, member: pl.LightningModule) -> None:
        if names[id(member)] == cut and trainer.current_epoch == 1:
            raise InterruptedError
        seen.append(names[id(member)])

    def trainer(callbacks: list[pl.Callback], **quiet) -> pl.Trainer:
        callbacks = [*callbacks, pl.callbacks.LambdaCallback(on_train_epoch_start=note)]
        quiet |= {"enable_checkpointing": False, "enable_model_summary": False}
        return pl.Trainer(accelerator="cpu", max_epochs=2, callbacks=callbacks, num_sanity_val_steps=0, **quiet)

    module.fit(Training(0, trainer, "ensemble", kept, evaluated=evaluated))
    return seen


def test_members_that_were_done_are_not_trained_again(world_features, tmp_path):
    whole, again, kept = ensemble(world_features), ensemble(world_features), Checkpoints(tmp_path)
    assert fitted(whole) == ["linear", "linear", "deep", "deep", "masked", "masked"]
    with pytest.raises(InterruptedError):
        fitted(ensemble(world_features), kept, cut="deep")
    assert fitted(again, kept) == ["deep", "masked", "masked"]
    pairs = zip(whole.network.state_dict().items(), again.network.state_dict().values(), strict=True)
    assert [name for (name, one), two in pairs if not torch.equal(one, two)] == []


def test_simplex_names_every_weighing_once_the_even_one_first():
    found = [tuple((weights * 6).round().astype(int)) for weights in simplex(3, 6)]
    assert found[0] == (2, 2, 2)
    assert len(set(found)) == len(found) == 28
    assert all(sum(weights) == 6 for weights in found)


def test_platt_finds_the_scale_and_shift_that_were_hidden():
    random = np.random.default_rng(0)
    logit = random.normal(size=200_000) * 2
    label = (random.random(len(logit)) < 1 / (1 + np.exp(-(0.6 * logit - 1.1)))).astype(float)
    scale, shift = platt(logit, label)
    assert (scale, shift) == (pytest.approx(0.6, abs=0.02), pytest.approx(-1.1, abs=0.02))
    before, after = (logloss(label, 1 / (1 + np.exp(-x))) for x in (logit, scale * logit + shift))
    assert after < before


def test_platt_ends_where_likelihood_has_no_maximum():
    assert platt(np.array([-1.0, 2.0]), np.array([1.0, 1.0])) == (1.0, 0.0)
    found = platt(np.array([-9.0, -8.0, 7.0, 9.0]), np.array([0.0, 0.0, 1.0, 1.0]))
    assert np.isfinite(found).all()
    assert (BOUNDS[0] <= found).all()
    assert (found <= BOUNDS[1]).all()
    assert found[0] > 0


def test_excluded_inputs_do_not_matter_and_the_rest_does(world_features):
    module = ensemble(world_features).members["masked"]
    batch = world_features.batch(world_features.rows("test")[-64:])
    names = world_features.pipeline.value_names("candidate_values")
    shuffled = batch["candidate_values"].flip(0)
    own = torch.tensor([name.startswith("user x") for name in names])
    turned = {
        "history_values": batch["history_values"].flip(0),
        "history_mask": 1 - batch["history_mask"],
        "candidate_values": torch.where(own, shuffled, batch["candidate_values"]),
    }
    queries = world_features.pipeline.value_names("query_values")
    assert all(name.startswith(("user ", "gap_s")) for name in queries)
    turned["query_values"] = batch["query_values"].flip(0)
    with torch.no_grad():
        before = module.network(batch)
        assert torch.equal(module.network({**batch, **turned}), before)
        assert not torch.equal(module.network({**batch, "candidate_values": shuffled}), before)
        assert not torch.equal(module.network({**batch, "user_codes": batch["user_codes"].flip(0)}), before)


def test_only_the_id_is_hidden_of_who_it_is(world_features):
    places = masked_columns(world_features.pipeline, ("user_id",))
    assert places == {"user_codes": [0]}
    with pytest.raises(ValueError, match="names 'watches', expected some of own_state, user_id, "):
        masked_columns(world_features.pipeline, ("watches",))


def test_platt_with_its_slope_at_the_bound_still_fits_the_rate():
    """A logit that is wrong wants a negative slope; the shift has to fit the least one, or every probability is off."""
    random = np.random.default_rng(0)
    logit = random.normal(-2.0, 1.0, 2000)
    target = (random.random(2000) < 0.2 / (1.0 + np.exp(logit))).astype(np.float64)
    scale, shift = platt(logit, target)
    assert scale == BOUNDS[0, 0]
    assert (1.0 / (1.0 + np.exp(-scale * logit - shift))).mean() == pytest.approx(target.mean(), abs=1e-6)


def test_an_evaluated_fit_is_repeated_without_validation(world_features):
    whole, again = ensemble(world_features), ensemble(without_validation(world_features))
    fitted(whole)
    lengths = [int(whole.figures[f"{name}/best_epoch"]) + 1 for name in whole.members]
    seen = fitted(again, evaluated=whole.figures)
    assert seen == [name for name, length in zip(whole.members, lengths, strict=True) for _ in range(length)]
    pairs = zip(whole.network.state_dict().items(), again.network.state_dict().values(), strict=True)
    assert [name for (name, one), two in pairs if not torch.equal(one, two)] == []
    with pytest.raises(ValueError, match=r"evaluated model of linear has no best_epoch.*dvc repro"):
        fitted(ensemble(world_features), evaluated={})
