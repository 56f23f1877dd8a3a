"""Boosted trees as arrays: what XGBoost says, on inputs it has and has not seen."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
import xgboost
from tests.fake_device import ELSEWHERE, FakeDevice

from watchnext.nn.trainable import Training
from watchnext.nn.weights import load_network
from watchnext.ranking.heads import WATCH
from watchnext.ranking.models.trees.boosted import BoostedModule, split_arrays, trees_of
from watchnext.ranking.models.trees.forest import LEAVES, Forest, Splits
from watchnext.ranking.models.trees.tree_network import Trees, forest_of
from watchnext.ranking.scoring import scored
from watchnext.types import TARGETS

SETTINGS = {"rounds": 25, "patience": 5, "learning_rate": 0.2, "max_depth": 4, "min_child": 2.0, "rows": 0.9, "columns": 0.7}


def module_of(features, **settings) -> BoostedModule:
    network = partial(Trees, watches=3, cardinality=50)
    return BoostedModule(features=features, network=network, **{**SETTINGS, "l2": 1.0, "threads": 1, **settings})


def fitted(features, train, valid, **settings) -> tuple[BoostedModule, dict[str, float], list]:
    module, logged = module_of(features, **settings), []
    counts = module.boost(train, valid, seed=0, log=lambda values, step: logged.append((step, values)))
    return module, counts, logged


@pytest.fixture(scope="module")
def boosted(world_features):
    return fitted(world_features, world_features.rows("train"), world_features.rows("valid"))


@pytest.mark.parametrize("depth", [1, 5, 8])
def test_arrays_answer_as_xgboost_does(depth):
    random = np.random.default_rng(0)
    data, label = random.normal(size=(700, 6)).round(2).astype(np.float32), random.random(700) < 0.4
    told = {"objective": "binary:logistic", "base_score": 0.25, "max_depth": depth, "nthread": 1, "eta": 0.7}
    booster = xgboost.train(told | {"min_child_weight": 0}, xgboost.DMatrix(data, label), 12)
    fresh = random.normal(size=(300, 6)).round(2).astype(np.float32)
    for rounds in (1, 7, 12):
        arrays = split_arrays([trees_of(booster, rounds)])
        assert (len(arrays["target"]) > rounds) == (depth == 8)  # trees of more than LEAVES leaves come in pieces
        splits = Splits(**arrays, intercept=np.array([np.log(0.25 / 0.75)], np.float32))
        for columns in (data, fresh, fresh[:1]):
            told = booster.predict(xgboost.DMatrix(columns), output_margin=True, iteration_range=(0, rounds))
            found = splits.logits(np.ascontiguousarray(columns.T), np.zeros(6, bool))[:, 0]
            np.testing.assert_allclose(found, told, rtol=1e-5, atol=1e-5)
            once = np.array([True, False, True, True, False, False])
            alike = np.where(once, columns[:1], columns)
            told = booster.predict(xgboost.DMatrix(alike), output_margin=True, iteration_range=(0, rounds))
            found = splits.logits(np.ascontiguousarray(alike.T), once)[:, 0]
            np.testing.assert_allclose(found, told, rtol=1e-5, atol=1e-5)


def test_a_tree_of_all_leaves_uses_every_bit():
    """A chain: each split strikes one leaf more, so that the last bit, the sign, is reached."""
    chain = 31.0
    for leaf in reversed(range(LEAVES - 1)):
        chain = (0, float(leaf + 1), float(leaf), chain)
    splits = Splits(**split_arrays([[chain]]), intercept=np.zeros(1, np.float32))
    asked = np.arange(LEAVES, dtype=np.float32)
    np.testing.assert_array_equal(splits.logits(asked[None], np.zeros(1, bool))[:, 0], asked)


def test_a_fit_learns_stops_and_tells(boosted, world_features):
    module, counts, logged = boosted
    rows = world_features.rows("train")
    label = world_features.columns["targets"][rows]
    found = scored(world_features, module.network, rows)
    mean = label.mean(0)
    for place, name in enumerate(TARGETS):
        if place != WATCH:
            assert np.square(found[:, place] - label[:, place]).mean() < np.square(mean[place] - label[:, place]).mean(), name
        assert 1 <= counts[f"trees/{name}"] <= SETTINGS["rounds"]
    assert {next(iter(values)) for _, values in logged} == {f"valid/loss_{name}" for name in TARGETS}
    assert sum(counts.values()) == len(module.network.target)


def test_the_same_seed_gives_the_same_trees(boosted, world_features):
    again, *_ = fitted(world_features, world_features.rows("train"), world_features.rows("valid"))
    for name, values in boosted[0].network.state_dict().items():
        assert torch.equal(values, again.network.state_dict()[name]), name


def test_saved_trees_are_arrays_and_keep_their_scores(boosted, world_features, tmp_path):
    module, rows = boosted[0], world_features.rows("test")
    module.save(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    again = load_network(tmp_path, schema=world_features.pipeline.schema, repair="python train.py")
    assert np.array_equal(scored(world_features, again, rows), scored(world_features, module.network, rows))


def test_columns_leave_wide_codes_out_and_count_what_the_history_shares(world_features):
    sizes = world_features.pipeline.sizes
    batch = world_features.batch(world_features.rows("test")[:40])
    inputs = {name: values.numpy() for name, values in batch.items()}
    narrow, wide = (Trees(sizes=sizes, targets=1, watches=3, cardinality=most).columns(inputs)[0].T for most in (5, 10**9))
    left_out = sum(size > 5 for size in sizes.user_codes + sizes.context_codes + sizes.video_codes)
    assert wide.shape[1] - narrow.shape[1] == left_out > 0
    count, same = narrow[:, -1 - len(sizes.video_codes)], narrow[:, -len(sizes.video_codes) :]
    assert count.max() > 3
    for i in range(40):
        watched = inputs["history_codes"][i][inputs["history_mask"][i] > 0]
        assert count[i] == len(watched)
        for place, code in enumerate(inputs["video_codes"][i]):
            assert same[i, place] == (int((watched[:, place] == code).sum()) if code else 0)
        for place in range(3):
            last = inputs["history_values"][i, place] * (place < len(watched))
            at = -1 - len(sizes.video_codes) - sizes.history * (4 - place)
            np.testing.assert_array_equal(narrow[i, at : at + sizes.history], last)


def test_a_viewers_columns_are_found_out_and_a_saved_forest_answers_alike(boosted, world_features, tmp_path):
    network = boosted[0].network
    rows = world_features.rows("test")[:30]
    inputs = {name: values.numpy() for name, values in world_features.batch(rows).items()}
    videos = {name: values for name, values in inputs.items() if name.startswith(("video_", "candidate_"))}
    one = {**{name: values[4:5] for name, values in inputs.items()}, **videos}
    many = {**{name: np.repeat(values[4:5], 30, axis=0) for name, values in inputs.items()}, **videos}
    assert network.columns(one)[1].any()
    assert not network.columns(many)[1].any()
    wanted = network({name: torch.from_numpy(values) for name, values in many.items()}).numpy()
    forest_of(network).save(tmp_path)
    np.testing.assert_array_equal(Forest.load(tmp_path)(one), wanted)


def test_trees_on_a_device_answer_as_on_the_processor(boosted, world_features):
    network, inputs = copy.deepcopy(boosted[0].network), world_features.batch(world_features.rows("test")[:30])
    wanted = network(inputs)
    with FakeDevice():
        network.to(ELSEWHERE)
        found = network({name: values.to(ELSEWHERE) for name, values in inputs.items()})
        assert found.device == ELSEWHERE
        assert torch.equal(found.cpu(), wanted)


def test_two_forests_are_refused(boosted):
    network = boosted[0].network
    with pytest.raises(ValueError, match="holds 2 forests, expected at most one"):
        forest_of(torch.nn.ModuleList([network, copy.deepcopy(network)]))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_a_target_of_one_class_is_predicted_as_that(world_features, label, monkeypatch):
    targets = np.array(world_features.columns["targets"])
    targets[:, 0] = label
    monkeypatch.setitem(world_features.columns, "targets", targets)
    module, *_ = fitted(world_features, world_features.rows("train"), world_features.rows("valid"))
    found = scored(world_features, module.network, world_features.rows("test"))
    np.testing.assert_allclose(found[:, 0], label, atol=1e-3)


@pytest.mark.parametrize("empty", ["train", "valid"])
def test_an_empty_split_is_named(world_features, empty):
    rows = {"train": world_features.rows("train"), "valid": world_features.rows("valid"), empty: np.zeros(0, np.int64)}
    with pytest.raises(ValueError, match=f"there are no {empty} impressions; check data.split"):
        fitted(world_features, rows["train"], rows["valid"])


def test_an_evaluated_fit_is_repeated_without_validation(boosted, world_features):
    module, counts, _ = boosted
    again = module_of(world_features)
    assert again.fit(Training(0, None, evaluated=counts)) == counts
    pairs = zip(module.network.state_dict().items(), again.network.state_dict().values(), strict=True)
    assert [name for (name, one), two in pairs if not torch.equal(one, two)] == []
