"""The purpose of debiasing: in small simulations, what is learned lies nearer the truth with it than without."""

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from watchnext import metrics
from watchnext.ranking.training.debias import InversePropensity, PositionBias, effective_rows, weighted_mean
from watchnext.ranking.watch_time.duration_quantile import DurationQuantile
from watchnext.ranking.watch_time.regression import LogSeconds

SEEN_LESS = -1.2 * np.log1p(np.arange(10))  # log odds that a video loses for its place on the screen


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def floats(array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def slates(requests: int, seed: int) -> tuple[np.ndarray, ...]:
    """Ten videos a request, which a logging policy puts in order of a feature that viewers hardly care about: features (N, 2),
    position, click, and the true preference as log odds."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(requests, 10, 2))
    order = np.argsort(-(features[..., 0] + 0.3 * random.normal(size=(requests, 10))), axis=1)
    features = np.take_along_axis(features, order[..., None], axis=1)
    truth = 0.1 * features[..., 0] + 1.0 * features[..., 1]
    clicks = random.random((requests, 10)) < sigmoid(truth + SEEN_LESS)
    position = np.tile(np.arange(10), requests)
    return features.reshape(-1, 2), position, clicks.reshape(-1), truth.reshape(-1)


def preference(features, position, clicks, bias: PositionBias | None) -> torch.nn.Module:
    torch.manual_seed(0)
    network = torch.nn.Linear(2, 1)
    parameters = [*network.parameters(), *(bias.parameters() if bias else ())]
    optimizer = torch.optim.Adam(parameters, 0.05)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 200)
        logits = network(floats(features))
        if bias:
            logits = logits + bias(torch.from_numpy(position))
        optimizer.zero_grad()
        binary_cross_entropy_with_logits(logits[:, 0], floats(clicks)).backward()
        optimizer.step()
    return network


def test_the_position_tower_takes_the_place_out_of_the_preference():
    features, position, clicks, _ = slates(2000, seed=0)
    fresh, _, _, truth = slates(300, seed=1)
    bias = PositionBias(positions=10, logits=1)
    with_tower = preference(features, position, clicks, bias)(floats(fresh))[:, 0].detach().numpy()
    without = preference(features, position, clicks, None)(floats(fresh))[:, 0].detach().numpy()
    errors = [np.sqrt(np.mean((found - found.mean() - truth + truth.mean()) ** 2)) for found in (with_tower, without)]
    assert errors[0] < 0.15 * errors[1]
    assert metrics.xauc(truth, with_tower) > metrics.xauc(truth, without) + 0.05
    assert with_tower.mean() == pytest.approx(truth.mean(), abs=0.1)  # as if it stood first
    learned = bias.eval()(torch.arange(10))[:, 0].detach().numpy()
    assert learned == pytest.approx(SEEN_LESS, abs=0.3)


def test_the_tower_by_hand():
    bias = PositionBias(positions=3, logits=2, dropout=0.5, reference=1)
    with torch.no_grad():
        bias.table.copy_(torch.arange(8.0).reshape(4, 2) ** 2)
    served = bias.eval()(torch.tensor([0, 1, 2, 99, -1]))
    assert served.tolist() == [[-4, -8], [0, 0], [12, 16], [12, 16], [32, 40]]
    torch.manual_seed(0)
    drawn = bias.train()(torch.zeros(4000, dtype=torch.int64))
    withheld = (drawn == bias.table[3] - bias.table[1]).all(1)
    assert withheld.float().mean().item() == pytest.approx(0.5, abs=0.03)
    assert (drawn[~withheld] == bias.table[0] - bias.table[1]).all()


def test_wrong_towers_are_named():
    with pytest.raises(ValueError, match="reference position is 3, expected 0 to 2"):
        PositionBias(positions=3, logits=1, reference=3)
    with pytest.raises(ValueError, match=r"dropout is 1\.0, expected a share"):
        PositionBias(positions=3, logits=1, dropout=1.0)


def shown_to_those_who_like(rows: int, seed: int) -> tuple[np.ndarray, ...]:
    """20 videos and two kinds of viewers. The policy shows a video mostly to the kind that likes it, the more so the more
    divisive the video is: video, whether liked, propensity, and how many of all viewers would like each video."""
    random = np.random.default_rng(seed)
    likes = random.uniform(0.05, 0.95, (2, 20))
    kind = random.integers(0, 2, rows)
    policy = np.exp(4 * likes) / np.exp(4 * likes).sum(1, keepdims=True)
    video = (random.random(rows)[:, None] > policy.cumsum(1)[kind]).sum(1).clip(0, 19)
    return video, random.random(rows) < likes[kind, video], policy[kind, video], likes.mean(0)


def inverse(propensities: np.ndarray, most: float = 20.0) -> np.ndarray:
    """Weights of the rows that they are normalised over."""
    made = InversePropensity(propensities=propensities, most=most)
    return made(torch.from_numpy(np.array(propensities, np.float64))).numpy()


def test_inverse_propensities_bring_back_who_was_not_asked():
    video, liked, propensity, truth = shown_to_those_who_like(40_000, seed=0)
    weights = inverse(propensity)
    errors = []
    for used in (weights, np.ones(len(weights))):
        taste = torch.nn.Parameter(torch.zeros(20))
        optimizer = torch.optim.Adam([taste], 0.1)
        for _ in range(80):
            losses = binary_cross_entropy_with_logits(taste[torch.from_numpy(video)], floats(liked), reduction="none")
            optimizer.zero_grad()
            weighted_mean(losses, floats(used)).backward()
            optimizer.step()
        errors.append(np.sqrt(np.mean((taste.sigmoid().detach().numpy() - truth) ** 2)))
    assert errors[0] < 0.5 * errors[1]
    assert effective_rows(weights) > 0.1 * len(weights)


def test_weights_by_hand():
    weights = inverse(np.array([0.5, 0.25, 0.001, np.nan]), most=3.0)
    assert weights.tolist() == pytest.approx([2 / 6, 4 / 6, 12 / 6, 1.0])
    assert inverse(np.empty(0)).tolist() == []
    assert effective_rows(np.array([1.0, 1.0, 0.0])) == 2.0
    assert effective_rows(np.empty(0)) == 0.0
    losses = torch.tensor([[1.0, 10.0], [5.0, 30.0]])
    assert weighted_mean(losses, torch.tensor([3.0, 1.0])).tolist() == [2.0, 15.0]
    assert weighted_mean(losses[:, 0], torch.tensor([3.0, 1.0])).item() == 2.0


def test_wrong_propensities_are_named():
    with pytest.raises(ValueError, match=r"propensity is 0, expected a value in \(0, 1\], or null if not logged"):
        inverse(np.array([0.5, 0.0]))
    with pytest.raises(ValueError, match=r"none of 3 training impressions has a propensity.*model\.module\.inverse_propensity"):
        inverse(np.full(3, np.nan))
    with pytest.raises(ValueError, match=r"propensity is 1\.5"):
        inverse(np.array([1.5]))
    with pytest.raises(ValueError, match=r"inverse_propensity is 0\.5"):
        inverse(np.array([0.5]), most=0.5)


def test_quantiles_within_durations_take_the_duration_out_of_the_preference():
    """Viewers watch longer what they like and what is long; what they like has nothing to do with its length."""
    random = np.random.default_rng(0)
    taste, duration = random.normal(size=6000), np.exp(random.normal(3.5, 1.0, 6000))
    watch = duration * sigmoid(taste + random.logistic(size=6000))
    features = floats(np.stack([taste, np.log(duration) - 3.5], 1))
    agreement = {}
    for head in (DurationQuantile(groups=12), LogSeconds()):
        torch.manual_seed(0)
        head.fit(watch, duration)
        network = torch.nn.Sequential(torch.nn.Linear(2, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1))
        optimizer = torch.optim.Adam(network.parameters(), 0.02)
        for _ in range(150):
            batch = random.integers(0, 6000, 512)
            optimizer.zero_grad()
            head.loss(network(features[batch]), floats(watch[batch]), floats(duration[batch])).backward()
            optimizer.step()
        agreement[head.kind] = metrics.xauc(taste, network(features)[:, 0].detach().numpy())
    assert agreement["duration_quantile"] > 0.95
    assert agreement["log_seconds"] < 0.85
