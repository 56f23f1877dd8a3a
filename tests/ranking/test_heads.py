"""Predictions and the multi-task loss, by hand."""

import math

import pytest
import torch

from watchnext.ranking.heads import LOG_SECONDS, WATCH, MultiTask, Scorer, predictions
from watchnext.types import TARGETS

LOGITS = torch.tensor([[0.0, 2.0, -1.0, math.log1p(30.0)], [-3.0, 0.5, 4.0, -2.0], [1.0, 1.0, 1.0, 99.0]])
HAPPENED = torch.tensor([[1.0, 0.0, 1.0, 12.5], [0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 400.0]])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_predictions_are_probabilities_and_seconds():
    found = predictions(LOGITS)
    for i, row in enumerate(LOGITS.tolist()):
        assert found[i, :WATCH].tolist() == pytest.approx([sigmoid(x) for x in row[:WATCH]])
    assert found[:, WATCH].tolist() == pytest.approx([30.0, 0.0, math.expm1(LOG_SECONDS)])
    assert found.shape == LOGITS.shape
    assert len(TARGETS) == LOGITS.shape[1]


def test_scorer_is_the_network_and_the_predictions():
    network = torch.nn.Module()
    network.forward = lambda inputs: inputs["x"] * 2
    assert torch.equal(Scorer(network)({"x": LOGITS}), predictions(LOGITS * 2))


def loss_by_hand(weights: dict[str, float]) -> float:
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


@pytest.mark.parametrize(
    "weights", [{"click": 1.0}, {"watch_s": 0.5}, {"click": 0.3, "long_view": 1.0, "like": 2.0, "watch_s": 0.1}]
)
def test_loss_against_a_slow_loop(weights):
    assert float(MultiTask(weights=weights)(LOGITS, HAPPENED)) == pytest.approx(loss_by_hand(weights), rel=1e-5)


def test_a_target_that_is_not_named_is_not_trained():
    logits = LOGITS.clone().requires_grad_()
    MultiTask(weights={"long_view": 1.0})(logits, HAPPENED).backward()
    assert logits.grad.abs().sum(0).nonzero().flatten().tolist() == [TARGETS.index("long_view")]


def test_a_misspelt_target_is_named():
    with pytest.raises(ValueError, match="weighs 'longview', expected some of click, long_view"):
        MultiTask(weights={"click": 1.0, "longview": 1.0})


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 1e4, 1e4], [-1e4, 1e4, -1e4, -1e4]])
    assert predictions(logits).isfinite().all()
    assert MultiTask(weights=dict.fromkeys(TARGETS, 1.0))(logits, HAPPENED[:2]).isfinite()
