"""No release leaves whose compiled ranker answers otherwise than the trained network."""

import json
import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from watchnext.evaluation.selection.selection import Selection
from watchnext.lifecycle import release_builder
from watchnext.lifecycle.parity import ParityError, _order, parity, require_parity
from watchnext.lifecycle.release_builder import ReleaseBuilder
from watchnext.nn.weights import build_network, recipe_of, save_network
from watchnext.ranking.models.dcn import DCN
from watchnext.ranking.models.din import DIN
from watchnext.ranking.models.multi_task import SharedBottom
from watchnext.reranking.value import Value
from watchnext.retrieval.towers.two_tower import TwoTower
from watchnext.serving.release.compiled import CompiledRanker
from watchnext.types import TARGETS

ONE = TARGETS.index("long_view")
RANKER = partial(
    DCN, targets=len(TARGETS), embedding=4, attention=8, interest=partial(DIN), cross_layers=1, rank=4,
    tasks=partial(SharedBottom), hidden=(16,), dropout=0.0,
)  # fmt: skip
TOWERS = partial(TwoTower, embedding=4, hidden=(16,), dimension=8, heads=2, dropout=0.0)


@pytest.fixture(scope="module")
def ranker(world_features) -> torch.nn.Module:
    torch.manual_seed(3)
    network = build_network(recipe_of(RANKER, world_features.pipeline.sizes))
    with torch.no_grad():  # a head that nothing was learned for
        network.tasks.heads.weight[TARGETS.index("like")] = 0.0
    return network.eval()


@pytest.fixture
def builder(world_features, ranker, tmp_path) -> ReleaseBuilder:
    """Over trained parts up to the ranker; there is nothing yet that a release would be assembled from."""
    sizes, schema = world_features.pipeline.sizes, world_features.pipeline.schema
    for name, network, part in (("ranker", ranker, RANKER), ("two_tower", None, TOWERS)):
        recipe = recipe_of(part, sizes)
        (tmp_path / name).mkdir()
        save_network(tmp_path / name, network or build_network(recipe), schema=schema, recipe=recipe)
    reranking = {"value": {"weights": {"long_view": 1.0}}, "diversity": {"trade_off": 0.8}}
    return ReleaseBuilder(
        data="tiny", features=world_features, outputs=tmp_path, releases=tmp_path / "releases", clock="release",
        reranking=reranking, retrieval={}, surfaces={},
    )  # fmt: skip


def test_an_outcome_that_is_always_the_same_has_no_weight_unless_no_other_is_weighed(builder, world_features):
    targets = np.array(world_features.columns["targets"])
    targets[:, TARGETS.index("click")] = 1.0
    always = replace(builder, features=replace(world_features, columns={**world_features.columns, "targets": targets}))
    for weights, without in (({"click": 0.2, "long_view": 1.0}, ["click"]), ({"click": 0.2}, []), ({"long_view": 1.0}, [])):
        weighed = replace(always, reranking={**always.reranking, "value": {"weights": weights}})
        assert weighed._without_signal() == without
        assert weighed._starting(without)["value"]["weights"] == weights | dict.fromkeys(without, 0.0)


def exported(builder: ReleaseBuilder) -> None:
    """Write the folder of the stage `selection` without choosing anything."""
    folder = builder.outputs / "selection"
    folder.mkdir()
    builder.export(folder)
    Selection({}, Value(weights={"click": 1.0}), 0.8, None, {}).save(folder)
    (folder / release_builder.CONFIGURED).write_text(json.dumps(builder._configured))


def perturbed(ranker: torch.nn.Module, export):
    """`export`, after which one weight of the head for long views is another."""
    weight = ranker.tasks.heads.weight[ONE, 2].item()

    def exported(module, example, *, rows_vary, path):
        export(module, example, rows_vary=rows_vary, path=path)
        whole, old = path.with_suffix(".bin").read_bytes(), np.float32(weight).tobytes()
        if old in whole:
            path.with_suffix(".bin").write_bytes(whole.replace(old, np.float32(weight + 20.0).tobytes(), 1))

    return exported


def test_an_exported_network_answers_as_the_trained_one(builder, ranker, world_features, tmp_path):
    builder._export(build_network(recipe_of(TOWERS, world_features.pipeline.sizes)).eval(), ranker, tmp_path)
    found = parity(CompiledRanker.load(tmp_path), ranker, world_features, world_features.rows("valid"))
    assert set(found) == {"difference/probability", "difference/watch_s", *(f"rank/{name}" for name in TARGETS)}
    assert found["difference/probability"] < 1e-4
    assert found["difference/watch_s"] < 1e-4
    assert math.isnan(found.pop("rank/like"))  # it says the same of everything, so its order is undefined
    assert min(value for name, value in found.items() if name.startswith("rank/")) > 0.9999
    require_parity(found)


def test_seconds_that_are_too_long_by_a_tenth_are_refused(builder, ranker, world_features, tmp_path):
    """Their order stays what it was: nothing but the seconds themselves can tell."""
    builder._export(build_network(recipe_of(TOWERS, world_features.pipeline.sizes)).eval(), ranker, tmp_path)
    compiled = CompiledRanker.load(tmp_path)
    longer = np.float32([1.1 if name == "watch_s" else 1.0 for name in TARGETS])
    found = parity(lambda inputs: compiled(inputs) * longer, ranker, world_features, world_features.rows("valid"))
    assert found["rank/watch_s"] > 0.9999
    with pytest.raises(ParityError, match=r"impressions: difference/watch_s 0\.\d+, expected below 0\.01\. Noth"):
        require_parity(found)


def test_an_order_is_undefined_where_nothing_is_ordered_and_wrong_where_one_side_orders():
    random = np.random.default_rng(0).random(500)
    assert math.isnan(_order(np.full(500, 0.2), np.full(500, 0.2) * (1 + 1e-5 * random)))  # rounding is no order
    assert math.isnan(_order(0.2 + 2.002e-4 * random, 0.2 + 1.998e-4 * random))  # nor where one is just above the limit
    assert _order(np.full(500, 0.2), random) == _order(random, np.full(500, 0.2)) == 0.0
    assert _order(1e-6 * random, random) == pytest.approx(1.0)


def test_one_wrong_weight_in_the_compiled_ranker_and_nothing_is_released(builder, ranker, monkeypatch):
    monkeypatch.setattr(release_builder, "export_graph", perturbed(ranker, release_builder.export_graph))
    exported(builder)
    with pytest.raises(
        ParityError, match=r"long_view 0?\S+, expected above 0\.999; difference/probability .*`dvc repro"
    ) as caught:
        builder.build()
    assert "rank/click" not in str(caught.value)
    assert not builder.releases.exists()


def test_settings_that_changed_since_the_selection_are_named(builder):
    exported(builder)
    with pytest.raises(ValueError, match=r"diversity changed since .*`dvc repro selection`"):
        replace(builder, reranking=builder.reranking | {"diversity": {"trade_off": 0.5}}).build()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"rank/like": 0.999}, "rank/like 0.99900"),
        ({"difference/probability": float("nan")}, "difference/probability nan"),
        ({"difference/probability": 0.01}, "difference/probability 0.01000"),
        ({"difference/watch_s": 0.01}, "difference/watch_s 0.01000"),
    ],
)
def test_a_figure_at_its_limit_and_a_difference_that_is_unknown_are_refused(wrong, named):
    good = {**{f"rank/{name}": 1.0 for name in TARGETS}, "difference/probability": 0.0099, "difference/watch_s": 0.0099}
    require_parity(good)
    require_parity(good | {"rank/like": float("nan")})
    with pytest.raises(ParityError, match=named):
        require_parity(good | wrong)
