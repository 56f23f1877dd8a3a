"""Losses against slow loops over rows, pairs and groups."""

import math

import pytest
import torch

from watchnext.ranking.heads import WATCH
from watchnext.ranking.training.ranking_losses import Listwise, MultiTask, Pairwise, WeightedLosses
from watchnext.types import TARGETS

LOGITS = torch.tensor([[0.0, 2.0, -1.0, math.log1p(30.0)], [-3.0, 0.5, 4.0, -2.0], [1.0, 1.0, 1.0, 99.0]])
HAPPENED = torch.tensor([[1.0, 0.0, 1.0, 12.5], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 400.0]])
PLACE = TARGETS.index("long_view")


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def multi_task_by_hand(weights: dict[str, float]) -> float:
    total = 0.0
    for place, name in enumerate(TARGETS):
        for logit, target in zip(LOGITS[:, place].tolist(), HAPPENED[:, place].tolist(), strict=True):
            if place == WATCH:
                error = abs(logit - math.log1p(target))
                one = error**2 / 2 if error < 1 else error - 0.5
            else:
                one = -math.log(sigmoid(logit) if target else 1 - sigmoid(logit))
            total += weights.get(name, 0.0) * one / len(LOGITS)
    return total


def rows(seed: int, n: int = 60, groups: int = 9) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random logits and targets of shuffled groups, of which some have one label only."""
    random = torch.Generator().manual_seed(seed)
    of = torch.randint(groups, (n,), generator=random)
    targets = (torch.rand(n, len(TARGETS), generator=random) < 0.4).float()
    targets[of == 0], targets[of == 1] = 0.0, 1.0
    return torch.randn(n, len(TARGETS), generator=random) * 3, targets, of * 7 - 3


def pairwise_by_hand(logits, targets, groups) -> float:
    found = []
    for i, group in enumerate(groups.tolist()):
        for j, other in enumerate(groups.tolist()):
            if group == other and targets[i, PLACE] > targets[j, PLACE]:
                found.append(-math.log(sigmoid(float(logits[i, PLACE] - logits[j, PLACE]))))
    return sum(found) / len(found)


def listwise_by_hand(logits, targets, groups) -> float:
    found = []
    for group in set(groups.tolist()):
        mine = [i for i, other in enumerate(groups.tolist()) if other == group]
        labels = [float(targets[i, PLACE]) for i in mine]
        if 0.0 in labels:
            total = sum(math.exp(float(logits[i, PLACE])) for i in mine)
            found += [-math.log(math.exp(float(logits[i, PLACE])) / total) for i in mine if targets[i, PLACE]]
    return sum(found) / len(found)


@pytest.mark.parametrize(
    "weights", [{"click": 1.0}, {"watch_s": 0.5}, {"click": 0.3, "long_view": 1.0, "like": 2.0, "watch_s": 0.1}]
)
def test_classification_and_regression_against_a_slow_loop(weights):
    assert float(MultiTask(weights=weights)(LOGITS, HAPPENED)) == pytest.approx(multi_task_by_hand(weights), rel=1e-5)


@pytest.mark.parametrize(("loss", "by_hand"), [(Pairwise, pairwise_by_hand), (Listwise, listwise_by_hand)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_losses_over_groups_against_slow_loops(loss, by_hand, seed):
    made = loss(target="long_view", within="viewer")
    assert float(made(*rows(seed))) == pytest.approx(by_hand(*rows(seed)), rel=1e-5)


@pytest.mark.parametrize("loss", [Pairwise, Listwise])
def test_a_shift_that_a_group_shares_does_not_matter(loss):
    """A bias of the viewer, however large, neither helps nor hurts."""
    made, (logits, targets, groups) = loss(target="long_view", within="viewer"), rows(3)
    biased = logits + 10.0 * groups.unsqueeze(1)
    torch.testing.assert_close(made(biased, targets, groups), made(logits, targets, groups), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [Pairwise, Listwise])
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_groups_of_one_label_say_nothing(loss, label):
    logits = torch.randn(5, len(TARGETS), requires_grad=True)
    found = loss(target="long_view", within="request")(logits, torch.full((5, len(TARGETS)), label), torch.zeros(5))
    found.backward()
    assert found.item() == 0.0
    assert not logits.grad.any()


def test_a_mixture_is_the_weighted_sum_of_its_parts():
    parts = {"all": MultiTask(weights={"click": 1.0, "watch_s": 0.5}), "order": Pairwise(target="long_view", within="viewer")}
    made, given = WeightedLosses(losses=parts, weights={"all": 0.3, "order": 2.0}), rows(4)
    assert made.within == "viewer"
    assert float(made(*given)) == pytest.approx(0.3 * float(parts["all"](*given)) + 2.0 * float(parts["order"](*given)))
    assert WeightedLosses(losses={"all": parts["all"]}, weights={"all": 1.0}).within is None


def test_a_target_that_is_not_named_is_not_trained():
    logits = LOGITS.clone().requires_grad_()
    MultiTask(weights={"long_view": 1.0})(logits, HAPPENED).backward()
    assert logits.grad.abs().sum(0).nonzero().flatten().tolist() == [PLACE]


def test_a_misspelt_name_is_named():
    with pytest.raises(ValueError, match="has a weight for 'longview', expected some of click, long_view"):
        MultiTask(weights={"click": 1.0, "longview": 1.0})
    with pytest.raises(ValueError, match="ranks by 'watch_s', expected one of click, long_view, like"):
        Pairwise(target="watch_s", within="viewer")
    with pytest.raises(ValueError, match="ranks within 'user', expected viewer or request"):
        Listwise(target="like", within="user")
    one = Listwise(target="like", within="viewer")
    with pytest.raises(ValueError, match="expected the same names"):
        WeightedLosses(losses={"a": one}, weights={"b": 1.0})
    with pytest.raises(ValueError, match="rank within request and viewer, expected one kind of group"):
        WeightedLosses(losses={"a": one, "b": Pairwise(target="like", within="request")}, weights={"a": 1.0, "b": 1.0})
    with pytest.raises(ValueError, match="needs groups; use GroupedBatches"):
        one(LOGITS, HAPPENED, None)


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 1e4, 1e4], [-1e4, 1e4, -1e4, -1e4]])
    groups = torch.zeros(2)
    assert MultiTask(weights=dict.fromkeys(TARGETS, 1.0))(logits, HAPPENED[:2]).isfinite()
    for loss in (Pairwise, Listwise):
        assert loss(target="click", within="viewer")(logits, HAPPENED[:2], groups).isfinite()
