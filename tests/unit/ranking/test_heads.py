"""Predictions, by hand."""

import math

import pytest
import torch

from watchnext.ranking.heads import WATCH, Scorer, predictions
from watchnext.ranking.watch_time.expectation import LOG_SECONDS
from watchnext.types import TARGETS

LOGITS = torch.tensor([[0.0, 2.0, -1.0, math.log1p(30.0)], [-3.0, 0.5, 4.0, -2.0], [1.0, 1.0, 1.0, 99.0]])


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


def test_extreme_logits_stay_finite():
    logits = torch.tensor([[1e4, -1e4, 1e4, 1e4], [-1e4, 1e4, -1e4, -1e4]])
    assert predictions(logits).isfinite().all()
