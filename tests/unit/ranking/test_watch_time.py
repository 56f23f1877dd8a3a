"""Watch-time heads on a simulated law whose expectation is known, and each formula against a slow reading of it."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from watchnext import metrics
from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.features.dataset.batches import NO_INPUTS
from watchnext.nn.export import export_graph
from watchnext.nn.weights import build_network, load_network, recipe_of, save_network
from watchnext.ranking.heads import WATCH, Scorer
from watchnext.ranking.models.linear import LogisticRegression
from watchnext.ranking.models.with_watch_time import WatchTimeNetwork
from watchnext.ranking.watch_time import expectation
from watchnext.ranking.watch_time.duration_groups import SHORTEST_S, duration_edges, middle_quantile
from watchnext.ranking.watch_time.duration_quantile import DurationQuantile
from watchnext.ranking.watch_time.mixture import Mixture
from watchnext.ranking.watch_time.ordinal import Ordinal, levels, mean_widths
from watchnext.ranking.watch_time.regression import LogSeconds, WeightedOdds
from watchnext.ranking.watch_time.tree import Tree, leaf_means, turns
from watchnext.types import TARGETS

HEADS = (LogSeconds, WeightedOdds, DurationQuantile, Ordinal, Tree, Mixture)
EVERY = pytest.mark.parametrize("kind", HEADS, ids=[head.kind for head in HEADS])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def mean_logit_logistic(m: np.ndarray) -> np.ndarray:
    """E[sigmoid(m + X)] of a standard logistic X, by its quantiles."""
    at = (np.arange(300) + 0.5) / 300
    return np.array([sigmoid(place + np.log(at / (1 - at))).mean() for place in m])


def law(rows: int, seed: int) -> tuple[np.ndarray, ...]:
    """Some skip at once, some finish and replay, the rest leave at a logit-logistic part of the video: features (N, 2), watch
    and duration in seconds, and the true expectation."""
    random = np.random.default_rng(seed)
    taste, duration = random.normal(size=rows), np.exp(random.normal(3.5, 0.9, rows)).clip(5, 600)
    skips, finishes = sigmoid(-1 - taste), sigmoid(-0.5 + 0.3 * taste - 1.05 * np.log(duration / 35))
    leaves = 0.25 + 0.6 * taste - np.log(duration / 27)
    left = duration * sigmoid(leaves + random.logistic(size=rows))
    replayed = duration * (1 + 0.2 * random.exponential(size=rows))
    watch = np.where(random.random(rows) < finishes, replayed, left) * (random.random(rows) >= skips)
    mean = (1 - skips) * duration * (1.2 * finishes + (1 - finishes) * mean_logit_logistic(leaves))
    return np.stack([taste, np.log(duration / 35)], 1), watch, duration, mean


@pytest.fixture(scope="module")
def train():
    return law(15_000, seed=0)


@pytest.fixture(scope="module")
def held_out():
    return law(3_000, seed=1)


def floats(array) -> torch.Tensor:
    return torch.from_numpy(np.array(array, np.float32))


def fitted(kind, train):
    head = kind()
    head.fit(train[1], train[2])
    return head


def learned(head, train, held_out) -> np.ndarray:
    """Seconds of held-out rows, after a short training of a small network under the head's loss."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(2, 24), torch.nn.SiLU(), torch.nn.Linear(24, head.logits))
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    features, watch, duration = (floats(column) for column in train[:3])
    random = np.random.default_rng(0)
    for step in range(300):
        optimizer.param_groups[0]["lr"] = 0.02 * (1 - step / 300)
        batch = random.integers(0, len(watch), 1024)
        optimizer.zero_grad()
        head.loss(network(features[batch]), watch[batch], duration[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        return head.seconds(network(floats(held_out[0])), floats(held_out[2])).numpy()


def biases(seconds: np.ndarray, held_out) -> list[float]:
    """Relative error of the mean, over all rows and over the shortest and the longest third of the videos."""
    duration, mean = held_out[2:]
    short, long = np.quantile(duration, [1 / 3, 2 / 3])
    parts = (duration > 0, duration <= short, duration >= long)
    return [seconds[part].mean() / mean[part].mean() - 1 for part in parts]


@pytest.mark.parametrize(
    ("kind", "off", "agreement"),
    [(WeightedOdds, 0.06, 0.98), (Ordinal, 0.08, 0.94), (Tree, 0.08, 0.94), (Mixture, 0.12, 0.95)],
    ids=["weighted_odds", "ordinal", "tree", "mixture"],
)
def test_the_true_expectation_is_recovered_in_size_and_order(kind, off, agreement, train, held_out):
    seconds = learned(fitted(kind, train), train, held_out)
    assert max(map(abs, biases(seconds, held_out))) < off
    assert metrics.xauc(held_out[3], seconds) > agreement


@pytest.mark.parametrize("kind", [LogSeconds, DurationQuantile], ids=["log_seconds", "duration_quantile"])
def test_heads_that_predict_no_mean_are_too_low_though_their_order_within_a_duration_is_right(kind, train, held_out):
    """The baseline answers near the median, D2Q the seconds of the mean quantile: both lose the long watches."""
    seconds = learned(fitted(kind, train), train, held_out)
    assert biases(seconds, held_out)[2] < -0.25
    groups = np.searchsorted(np.quantile(held_out[2], np.linspace(0, 1, 21)[1:-1]), held_out[2])
    assert metrics.stratified_xauc(held_out[3], seconds, groups) > 0.95


@EVERY
def test_numpy_torch_and_the_exported_graph_agree(kind, train, tmp_path):
    from watchnext.serving.release.compiled import CompiledNetwork

    head = fitted(kind, train).eval()
    logits = np.random.default_rng(2).normal(scale=2.0, size=(40, head.logits)).astype(np.float32)
    logits[:3] = [[-500.0], [500.0], [0.0]]
    duration = np.append(train[2][:38], [0.0, 1e6]).astype(np.float32)
    expected = head.seconds(floats(logits), floats(duration)).numpy()
    save_arrays(tmp_path / "head", {"none": np.empty(0), **head.arrays()})
    found = expectation.seconds(head.kind, load_arrays(tmp_path / "head"), logits, duration)
    assert np.isfinite(expected).all()
    assert found == pytest.approx(expected, rel=2e-5, abs=1e-4)

    class Seconds(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, inputs):
            return self.head.seconds(inputs["logits"], inputs["duration_s"])

    example = {"logits": floats(logits[:5]), "duration_s": floats(duration[:5])}
    export_graph(Seconds(), example, rows_vary={"logits", "duration_s"}, path=tmp_path / "graph.xml")
    served = CompiledNetwork(tmp_path / "graph.xml")({"logits": logits, "duration_s": duration})
    assert served == pytest.approx(expected, rel=1e-4, abs=1e-3)


@EVERY
def test_a_network_with_a_head_is_a_ranking_network(kind, train, world_features, tmp_path):
    """Rebuilt from its recipe and exported, it answers the head's seconds."""
    from watchnext.serving.release.compiled import CompiledNetwork

    rows = world_features.rows("valid")[:12]
    batch = world_features.batch(rows)
    inner = partial(LogisticRegression)
    recipe = recipe_of(
        partial(WatchTimeNetwork, targets=len(TARGETS), network=inner, watch_time=partial(kind)), world_features.pipeline.sizes
    )
    network = build_network(recipe).eval()
    network.watch_time.fit(train[1], train[2])
    raw, duration = network.network(batch), batch["video_duration_s"][:, 0]
    expected = np.nan_to_num(world_features.catalogue.duration_ms[batch["video_rows"]]) / 1000
    assert duration.numpy() == pytest.approx(expected)
    assert raw.shape == (12, WATCH + network.watch_time.logits)
    assert network.watch_time.loss(raw[:, WATCH:], batch["targets"][:, WATCH], duration).isfinite()
    found = Scorer(network)(batch).detach()
    assert found[:, :WATCH].numpy() == pytest.approx(raw[:, :WATCH].sigmoid().detach().numpy())
    seconds = network.watch_time.seconds(raw[:, WATCH:], duration).detach().numpy()
    assert found[:, WATCH].numpy() == pytest.approx(seconds, rel=1e-4, abs=1e-5)
    save_network(tmp_path, network, schema=world_features.pipeline.schema, recipe=recipe)
    again = load_network(tmp_path, schema=world_features.pipeline.schema, repair="dvc repro ranker")
    assert torch.equal(Scorer(again)(batch), found)
    inputs = {name: value for name, value in batch.items() if name not in NO_INPUTS}
    export_graph(Scorer(again), inputs, rows_vary=set(inputs), path=tmp_path / "ranker.xml")
    served = CompiledNetwork(tmp_path / "ranker.xml")({name: value.numpy() for name, value in inputs.items()})
    assert served == pytest.approx(found.numpy(), rel=1e-3, abs=1e-4)


@EVERY
def test_a_saved_head_answers_the_same(kind, train):
    head, other = fitted(kind, train), kind()
    other.load_state_dict(head.state_dict())
    logits, duration = torch.randn(9, head.logits), floats(train[2][:9])
    assert torch.equal(other.seconds(logits, duration), head.seconds(logits, duration))
    again = kind()
    again.load_arrays(head.arrays())
    assert torch.equal(again.seconds(logits, duration), head.seconds(logits, duration))


@EVERY
def test_row_losses_are_those_of_single_rows_and_stay_finite(kind, train):
    head = fitted(kind, train)
    logits = torch.cat([torch.randn(6, head.logits), torch.full((2, head.logits), 1e4)])
    watch, duration = floats([0, 0.001, 5, 80, 1e5, 12, 0, 30]), floats([10, 10, 5, 0, 60, 1e5, 9, 30])
    losses = head.losses(logits, watch, duration)
    assert losses.isfinite().all()
    single = [head.losses(logits[i : i + 1], watch[i : i + 1], duration[i : i + 1]).item() for i in range(8)]
    assert losses.tolist() == pytest.approx(single, rel=1e-4)
    assert head.loss(logits, watch, duration).item() == pytest.approx(np.mean(single), rel=1e-4)


@EVERY
def test_the_gradient_is_finite_where_logits_are_extreme(kind, train):
    head = fitted(kind, train)
    logits = torch.full((2, head.logits), -200.0, requires_grad=True)
    head.loss(logits, floats([0.0, 50.0]), floats([60.0, 60.0])).backward()
    assert logits.grad.isfinite().all()


@EVERY
@pytest.mark.parametrize("watch", [[0.0, 0.0, 0.0], [7.0, 7.0, 7.0], [0.0, 3.0, 9.0]])
def test_few_or_equal_rows_and_unknown_durations_can_be_fitted(kind, watch):
    for duration in ([np.nan] * 3, [8.0, 8.0, 8.0], [8.0, np.nan, 0.0]):
        head = kind()
        head.fit(np.array(watch), np.array(duration))
        logits = torch.zeros(3, head.logits)
        seconds = head.seconds(logits, floats([0.0, 8.0, 90.0]))
        assert (seconds.isfinite() & (seconds >= 0)).all()
        assert head.loss(logits, floats(watch), floats(np.nan_to_num(duration))).isfinite()


def test_wrong_inputs_are_named(train):
    head = WeightedOdds()
    with pytest.raises(RuntimeError, match=r"call fit\(watch_s, duration_s\) first"):
        head.loss(torch.zeros(1, 1), torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match=r"shape \(1, 2\), expected \(N, 1\)"):
        head.loss(torch.zeros(1, 2), torch.ones(1), torch.ones(1))
    with pytest.raises(ValueError, match="no training rows"):
        head.fit(np.empty(0), np.empty(0))
    with pytest.raises(ValueError, match=r"holds -1\.0, expected seconds of at least 0"):
        head.fit(np.array([2.0, -1.0]), np.array([3.0, 3.0]))
    with pytest.raises(ValueError, match=r"expected .*edges.* fit it again with the current settings"):
        Ordinal(groups=4).load_arrays(fitted(Ordinal, train).arrays())
    with pytest.raises(ValueError, match="'mean' is unknown, expected one of log_seconds"):
        expectation.seconds("mean", {}, np.zeros((1, 1)), np.zeros(1))


def test_groups_are_equal_and_the_unknown_have_their_own():
    duration = np.array([10.0, 20.0, 30.0, 40.0, 0.0])
    edges = duration_edges(duration, 2)
    assert edges.tolist() == [SHORTEST_S, 25.0]
    assert expectation.group_of(duration, edges).tolist() == [1, 1, 2, 2, 0]
    assert expectation.group_of(torch.from_numpy(duration), torch.from_numpy(edges)).tolist() == [1, 1, 2, 2, 0]


def test_odds_are_the_mean_of_equal_rows():
    """The loss of weighted logistic regression is least where the odds are the mean, whatever the spread."""
    watch = np.array([0.0, 0.0, 3.0, 117.0])
    head = WeightedOdds()
    head.fit(np.array([5.0, 15.0]), np.zeros(2))
    places = np.linspace(-3, 3, 601)
    losses = [head.loss(torch.full((4, 1), place), floats(watch), torch.zeros(4)).item() for place in places]
    best = torch.tensor([[places[int(np.argmin(losses))]]], dtype=torch.float32)
    assert head.seconds(best, torch.zeros(1)).item() == pytest.approx(30.0, rel=0.01)


def test_the_log_head_is_the_one_that_serves_today():
    from watchnext.ranking.heads import predictions

    logits = torch.linspace(-3, 15, 20)[:, None].expand(-1, WATCH + 1)
    assert torch.equal(LogSeconds().seconds(logits[:, WATCH:], torch.zeros(20)), predictions(logits)[:, WATCH])
    assert predictions(logits)[-1, WATCH].item() == pytest.approx(np.expm1(expectation.LOG_SECONDS))


def test_quantiles_of_watches_by_hand_and_back():
    knots = np.array([[0.0, 0.0, 0.0, 10.0, 20.0]])
    watch = np.array([0.0, 5.0, 10.0, 15.0, 99.0])
    found = middle_quantile(watch, np.repeat(knots, 5, 0))
    assert found.tolist() == pytest.approx([0.25, 0.625, 0.75, 0.875, 1.0])
    arrays = {"edges": np.array([9.0]), "knots": np.repeat(knots, 2, 0), "steps": np.arange(5.0)}
    logits = np.log(found[:4] / (1 - found[:4]))[:, None]
    assert expectation.duration_quantile(arrays, logits, np.zeros(4)) == pytest.approx(watch[:4])


def test_middle_quantile_is_the_middle_rank_of_many():
    random = np.random.default_rng(0)
    rows = random.integers(0, 6, 4000).astype(float)
    knots = np.quantile(rows, np.linspace(0, 1, 401))
    slow = [((rows < w).mean() + (rows <= w).mean()) / 2 for w in range(6)]
    assert middle_quantile(np.arange(6.0), np.repeat(knots[None], 6, 0)) == pytest.approx(slow, abs=0.004)


def test_thresholds_and_their_widths_add_up_to_the_mean():
    random = np.random.default_rng(0)
    watch = np.where(random.random(500) < 0.2, 0.0, random.exponential(20, 500))
    for adaptivity in (0.0, 3.0):
        at = levels(12, adaptivity)
        assert (np.diff(at) > 0).all()
        assert at[0] == 0
        thresholds = np.append(0.0, np.quantile(watch, at[1:]))
        beyond = (watch[:, None] > thresholds).mean(0)
        assert (beyond * mean_widths(watch, thresholds)).sum() == pytest.approx(watch.mean())
    assert levels(4, 0.0).tolist() == [0.0, 0.25, 0.5, 0.75]
    assert np.diff(levels(4, 3.0)).argmin() == 2
    assert mean_widths(np.array([1.0, 4.0]), np.array([0.0, 2.0])).tolist() == [1.5, 2.0]


def test_tree_by_hand():
    right, left = turns(2)
    assert right.tolist() == [[0, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 1]]
    assert left.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert leaf_means(np.array([1.0, 2.0, 8.0, 9.0]), np.array([2.0, 7.0, 8.0])).tolist() == [1.5, 2.0, 8.0, 9.0]
    arrays = {"edges": np.array([9.0]), "means": np.array([[1.0, 2.0, 3.0, 10.0]] * 2), "right": right, "left": left}
    p, q, r = sigmoid(0.5), sigmoid(-1.0), sigmoid(2.0)
    by_hand = (1 - p) * ((1 - q) * 1 + q * 2) + p * ((1 - r) * 3 + r * 10)
    assert expectation.tree(arrays, np.array([[0.5, -1.0, 2.0]]), np.zeros(1)).item() == pytest.approx(by_hand)


def test_mean_of_a_mixture_against_draws():
    arrays = {name: floats(a) for name, a in fitted(Mixture, law(2000, 3)).arrays().items()}
    logits = torch.tensor([[0.3, 1.0, -1.0, 0.5, 0.2, -0.7, 1.1, 0.4, -0.5, 0.9]])
    duration = torch.tensor([50.0])
    group = expectation.group_of(duration, arrays["edges"])
    zero, weights, location, scale = expectation.components(arrays, logits, group)
    random = np.random.default_rng(0)
    which = random.choice(3, 200_000, p=weights.softmax(-1)[0].double().numpy() / weights.softmax(-1)[0].double().sum().item())
    drawn = sigmoid(random.normal(location[0].numpy()[which], scale[0].numpy()[which]))
    mean = drawn.mean() * (1 - sigmoid(zero.item())) * expectation.longest(arrays, duration, group).item()
    assert expectation.mixture(arrays, logits, duration).item() == pytest.approx(mean, rel=0.01)


def test_density_of_a_mixture_adds_up_to_one():
    """Over the log odds of the watched part, in which the densities are; what is left out is log(2 pi) / 2."""
    head = fitted(Mixture, law(2000, 3))
    head.cap.fill_(1.0)
    places = torch.linspace(-9.2, 9.2, 4001)
    logits = 0.5 * torch.randn(1, head.logits, generator=torch.Generator().manual_seed(1)).expand(4001, -1)
    duration = torch.full((4001,), 30.0)
    densities = (-head.losses(logits, 30.0 * places.sigmoid(), duration)).exp() / math.sqrt(2 * math.pi)
    none = (-head.losses(logits[:1], torch.zeros(1), duration[:1])).exp().item()
    assert torch.trapezoid(densities, places).item() + none == pytest.approx(1.0, abs=0.01)
