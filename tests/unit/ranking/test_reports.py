"""Importance, ablation and learning curve, on labels that one group of inputs decides alone."""

import json
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import programs
from watchnext.cli import composed, instantiate
from watchnext.metrics import auc, gauc, logloss, rounded
from watchnext.nn.trainable import Training
from watchnext.nn.training import built
from watchnext.ranking.analysis.ablation import ablation, latest, learning_curve, without
from watchnext.ranking.analysis.importance import importance
from watchnext.ranking.analysis.report_plots import learning_curve_plot, worse_plot
from watchnext.ranking.calibration.calibration import Calibration
from watchnext.ranking.models.mlp import DeepNetwork
from watchnext.ranking.models.trees.boosted import BoostedModule
from watchnext.ranking.models.trees.tree_network import Trees
from watchnext.ranking.scoring import Ranker, scored
from watchnext.ranking.target_metrics import markdown_of
from watchnext.ranking.training.ranking_losses import MultiTask
from watchnext.ranking.training.ranking_module import RankingModule
from watchnext.types import TARGETS

ROOT = Path(__file__).resolve().parents[3]
LONG_VIEW = TARGETS.index("long_view")
ASKED = {"head": "long_view", "split": "valid", "progress": lambda steps, title: steps}


@pytest.fixture(scope="module")
def planted(world_features):
    """The features, with gaps drawn at random, which alone decide what is viewed long."""
    columns = world_features.columns
    gap_s = np.random.default_rng(0).lognormal(6.0, 2.0, len(columns["gap_s"])).astype(columns["gap_s"].dtype)
    targets = np.array(columns["targets"])
    targets[:, LONG_VIEW] = gap_s > np.exp(6.0)
    return replace(world_features, columns={**columns, "gap_s": gap_s, "targets": targets})


def mlp() -> partial:
    loss, network = MultiTask(weights={"long_view": 1.0}), partial(DeepNetwork, embedding=4, hidden=(16,), dropout=0.1)
    rest = {"learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 64, "hide": ("user_id",)}
    return partial(RankingModule, network=network, loss=loss, monitor="valid/auc_long_view", patience=2, **rest)


def trees() -> partial:
    settings = {"rounds": 15, "patience": 5, "learning_rate": 0.3, "max_depth": 3, "min_child": 2.0, "rows": 1.0}
    network = partial(Trees, watches=3, cardinality=50)
    return partial(BoostedModule, network=network, columns=1.0, l2=1.0, threads=1, **settings)


def training(seed: int) -> Training:
    quiet = {"enable_checkpointing": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    return Training(seed, partial(pl.Trainer, accelerator="cpu", max_epochs=3, **quiet))


def fitted(make: partial, features, seed: int):
    module = built(make, features, seed=seed)
    module.fit(training(seed))
    return module


def ranker_of(preset, features) -> Ranker:
    module = fitted(preset(), features, seed=0)
    return Ranker(module.network.eval(), Calibration({}))


def important(features, ranker, **changed) -> dict:
    return importance(features, ranker, **{**ASKED, "groups": None, "rows": 10_000, "repeats": 3, "seed": 0, **changed})


@pytest.fixture(scope="module", params=[mlp, trees])
def model(request, planted):
    return request.param, ranker_of(request.param, planted)


def test_the_deciding_group_matters_most_and_an_unread_one_not_at_all(model, planted):
    preset, ranker = model
    found = important(planted, ranker)
    worse = found["worse_by"]
    assert found["figures"]["auc"] > 0.95
    for figure in ("auc", "gauc", "logloss"):
        assert max(worse, key=lambda group: worse[group][figure]["mean"]) == "gap", figure
    assert found["figures"]["auc"] - worse["gap"]["auc"]["mean"] == pytest.approx(0.5, abs=0.06)  # chance is left
    assert worse["gap"]["auc"]["spread"] > 0
    unread = ("history", "user_id") if preset is mlp else ("user_id",)  # more viewers than trees take codes of
    for group in unread:
        assert worse[group] == {name: {"mean": 0.0, "spread": 0.0} for name in ("auc", "gauc", "gauc_request", "logloss")}
    assert important(planted, ranker) == found
    assert important(planted, ranker, groups=("gap",))["worse_by"] == {"gap": worse["gap"]}


def test_importance_against_one_impression_at_a_time(model, planted):
    _, ranker = model
    rows = planted.rows("valid")[::4]
    found = important(planted, ranker, groups=("user_tag_counters",), rows=len(rows), repeats=1, seed=9)
    assert found["rows"] == len(rows)
    order = np.random.default_rng((9, 0)).permutation(len(rows))
    names = planted.pipeline.value_names("candidate_values")
    own = torch.tensor([name.startswith("user x tag") for name in names])
    scores = []
    for row, other in zip(rows, rows[order], strict=True):
        inputs, others = (planted.batch(np.array([each])) for each in (row, other))
        inputs["candidate_values"] = torch.where(own, others["candidate_values"], inputs["candidate_values"])
        with torch.no_grad():
            scores.append(ranker.network(inputs)[0, LONG_VIEW].sigmoid().item())
    label, users = planted.columns["targets"][rows, LONG_VIEW], planted.columns["user_rows"][rows]
    score = np.array(scores, np.float32)
    values = {"auc": auc(label, score), "gauc": gauc(label, score, users), "logloss": -logloss(label, score)}
    values["gauc_request"] = gauc(label, score, planted.requests(rows))
    for name, value in values.items():
        whole = found["figures"][name] * (-1 if name == "logloss" else 1)
        assert found["worse_by"]["user_tag_counters"][name]["mean"] == pytest.approx(whole - value, abs=1e-5), name


@pytest.mark.parametrize("preset", [mlp, trees])
def test_retrained_without_it_only_what_decides_is_missed(preset, planted):
    groups = ("gap", "context", "user_id")
    found = ablation(preset, planted, groups=groups, seeds=(0, 1), training=training, **ASKED)
    worse = found["worse_by"]
    assert list(worse) == list(groups)
    assert found["figures"]["auc"]["mean"] - worse["gap"]["auc"]["mean"] == pytest.approx(0.5, abs=0.06)
    assert worse["gap"]["logloss"]["mean"] > 0.3
    assert abs(worse["context"]["auc"]["mean"]) < 0.05
    assert worse["user_id"]["auc"] == {"mean": 0.0, "spread": 0.0}  # never read: the very same training
    network = fitted(preset(), planted, seed=1).network
    rows = planted.rows("valid")
    other = auc(planted.columns["targets"][rows, LONG_VIEW], scored(planted, network, rows)[:, LONG_VIEW])
    first = 2 * found["figures"]["auc"]["mean"] - other
    assert found["figures"]["auc"]["spread"] == pytest.approx(abs(first - other) / np.sqrt(2), abs=1e-6)


@pytest.mark.parametrize("name", ["xgboost", "ensemble", "ranker", "dcn"])
def test_a_group_can_be_hidden_from_every_kind_of_ranker(name, world_features):
    """Predictions of a fitted model do not hang on the group that was hidden; on the model that sees all, it does."""
    few = ["model.module.rounds=5"] if name == "xgboost" else []
    few = ["model.module.members.trees.module.rounds=5"] if name == "ensemble" else few
    few = ["model.module.teacher.module.members.trees.module.rounds=5"] if name == "ranker" else few
    config = composed([f"model={name}", *few], ROOT / "conf")
    batch = world_features.batch(world_features.rows("valid")[:64])
    other = {**batch, "candidate_values": batch["candidate_values"].flip(0)}

    def preset(group: str | None = None) -> partial:
        module = instantiate(config.model.module)
        for each in ("age", "video_counters", "creator_counters", "user_tag_counters", "user_creator_counters"):
            module = without(module, each) if group else module
        return module

    for group in (None, "all of candidate_values"):
        network = fitted(preset(group), latest(world_features, 0.3), seed=0).network.eval()
        with torch.no_grad():
            assert torch.equal(network(other), network(batch)) == (group is not None)


def test_the_latest_impressions_stay(world_features):
    rows, part = world_features.rows("train"), latest(world_features, 0.25)
    assert np.array_equal(part.rows("train"), rows[-len(part.rows("train")) :])
    assert len(part.rows("train")) == -(-len(rows) // 4)
    for split in ("valid", "test"):
        assert np.array_equal(part.rows(split), world_features.rows(split))
    assert np.array_equal(latest(world_features, 1.0).rows("train"), rows)
    with pytest.raises(ValueError, match=r"report.shares has 0.0, expected more than 0 and at most 1"):
        latest(world_features, 0.0)


def test_more_days_teach_more(planted):
    found = learning_curve(mlp, planted, shares=(1.0, 0.02), seeds=(0, 1), training=training, **ASKED)
    few, all_ = found["sizes"]
    assert [few["share"], all_["share"]] == [0.02, 1.0]
    assert all_["rows"] == len(planted.rows("train"))
    assert all_["auc"]["mean"] > few["auc"]["mean"] + 0.1
    alone = ablation(mlp, planted, groups=("context",), seeds=(0, 1), training=training, **ASKED)
    assert alone["figures"] == {name: all_[name] for name in alone["figures"]}


def test_reports_on_one_class_are_undefined_and_can_be_printed_and_drawn(planted, tmp_path):
    targets = np.array(planted.columns["targets"])
    targets[np.asarray(planted.columns["split"]) == 1, LONG_VIEW] = 0.0
    even = replace(planted, columns={**planted.columns, "targets": targets})
    found = important(even, ranker_of(mlp, even), groups=("gap", "age"))
    assert np.isnan(found["figures"]["auc"])
    assert np.isnan(found["worse_by"]["gap"]["gauc"]["mean"])
    assert "| gap | – ± – | – ± – | " in markdown_of(found)
    worse_plot(found["worse_by"], tmp_path / "worse.png")
    curve = learning_curve(mlp, even, shares=(0.5, 1.0), seeds=(0,), training=training, **ASKED)
    assert "– ± –" in markdown_of(curve)
    learning_curve_plot(curve["sizes"], tmp_path / "curve.png")
    assert all((tmp_path / f"{name}.png").stat().st_size > 500 for name in ("worse", "curve"))
    assert json.loads(json.dumps(rounded(found, 6), allow_nan=False))["worse_by"]["gap"]["auc"]["mean"] is None


def test_wrong_settings_are_named(planted):
    ranker = ranker_of(trees, planted)
    for changed, message in (
        ({"head": "watch_s"}, "report.head is 'watch_s', expected one of click, long_view, like"),
        ({"groups": ("agee",)}, "report.groups contains 'agee', expected some of user_id, "),
        ({"split": "later"}, "split 'later' has no impressions"),
    ):
        with pytest.raises(ValueError, match=message):
            important(planted, ranker, **changed)


SEVERAL = """
import json, runpy, sys
for module, words in json.loads(sys.argv[1]):
    sys.argv, code = [module, *words], 0
    try:
        if module.endswith(".py"):
            runpy.run_path(module, run_name="__main__")
        else:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        code = stopped.code
    print("\\nEXIT " + json.dumps(code), flush=True)
"""


def test_the_commands_write_a_table_json_and_a_picture(world_folder, empty_store, tmp_path):
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs/features").symlink_to(world_folder)
    few = ["model=mlp", "trainer.max_epochs=1", "report.seeds=[0]"]
    commands = [
        (str(ROOT / "train.py"), ["model=mlp", "out=outputs/ranker", "trainer.max_epochs=1"]),
        ("watchnext.ranking", ["importance", "report.repeats=2"]),
        ("watchnext.ranking", ["ablation", *few, "report.groups=[age,history]"]),
        ("watchnext.ranking", ["learning-curve", *few, "report.shares=[0.5,1.0]"]),
        ("watchnext.ranking", ["importance", "report.ranker=nowhere"]),
    ]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": ""}
    done = programs.run("-c", SEVERAL, json.dumps(commands), folder=tmp_path, environment=environment)
    codes = [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("EXIT ")]
    assert codes[:4] == [0, None, None, None], done.stderr[-2000:]
    assert codes[4].startswith("FileNotFoundError: nowhere holds no trained network; run `python train.py out=nowhere`")
    reports = tmp_path / "outputs/reports"
    names = ("ablation", "importance", "learning_curve")
    assert sorted(path.name for path in reports.iterdir()) == [f"{name}.{end}" for name in names for end in ("json", "png")]
    found = {name: json.loads((reports / f"{name}.json").read_text()) for name in names}
    assert found["importance"]["worse_by"]["history"]["auc"]["mean"] == 0.0
    assert list(found["ablation"]["worse_by"]) == ["age", "history"]
    assert [size["share"] for size in found["learning_curve"]["sizes"]] == [0.5, 1.0]
    assert done.stdout.count("| inputs | AUC worse by | GAUC worse by | GAUC in requests worse by | log loss worse by |") == 2
    assert "| training impressions | AUC | GAUC | GAUC in requests | log loss |" in done.stdout
    assert len(list((tmp_path / "mlruns").glob("*/artifacts/*.png"))) == 3
