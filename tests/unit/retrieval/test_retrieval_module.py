"""Training of the towers: what it measures, and what stops it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from watchnext.retrieval.towers.negatives import Negatives, NegativeSample
from watchnext.retrieval.towers.objectives import SampledSoftmax
from watchnext.retrieval.towers.recall import at_once, recall_among_all
from watchnext.retrieval.towers.retrieval_module import RetrievalModule, nearest_interest
from watchnext.retrieval.towers.two_tower import TwoTower


def module_of(features, *, interests: int = 1, popular: int = 8) -> RetrievalModule:
    torch.manual_seed(0)
    return RetrievalModule(
        features=features,
        network=partial(TwoTower, embedding=4, hidden=(16,), dimension=8, heads=2, dropout=0.0, interests=interests),
        loss=SampledSoftmax(temperature=0.1),
        negatives=partial(Negatives, in_batch=True, uniform=8, popular=popular),
        positive="click",
        recall_at=20,
        learning_rate=0.01,
        weight_decay=0.0,
        batch_size=16,
        monitor="valid/recall_at_20",
        patience=3,
    )


def test_the_interest_nearest_the_positive_trains():
    queries = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.6, 0.8]]])
    own = torch.tensor([[0.1, 0.9], [1.0, 0.1]])
    assert nearest_interest(queries, own).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    assert torch.equal(nearest_interest(queries[:, 0], own), queries[:, 0])


def test_recall_among_all_is_the_mean_over_all_orders_of_ties():
    vectors = np.float32([[1, 0], [0, 1], [1, 0], [0, 0], [1, 0]])
    queries, wanted = np.float32([[[1, 0], [0, 2]], [[1, 0], [1, 0]], [[0, 0], [0, 0]]]), np.array([4, 1, 3])
    # 4 shares the places 2 to 4 behind 1; 1 shares the last two behind three; a query that knows nothing names anything.
    for k, expected in ((1, [0, 0, 1 / 5]), (2, [1 / 3, 0, 2 / 5]), (4, [1, 1 / 2, 4 / 5]), (9, [1, 1, 1])):
        assert recall_among_all(vectors, queries, wanted, k) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize("interests", [1, 3])
def test_validation_recall_against_a_slow_count(world_features, interests, monkeypatch):
    module, logged = module_of(world_features, interests=interests).eval(), {}
    monkeypatch.setattr(module, "log", lambda name, value, **_: logged.update({name: value}))
    for place, batch in enumerate(module.loader("valid", seed=0)):
        with torch.no_grad():
            module.validation_step(batch, place)
    module.on_validation_epoch_end()
    rows, hits = module._positives("valid"), 0
    with torch.no_grad():
        queries = module.network.query(world_features.batch(rows)).reshape(len(rows), interests, -1)
    scores = (queries @ torch.from_numpy(module.embeddings()).T).amax(1).numpy()
    for row, mine in zip(rows, scores, strict=True):
        own = mine[world_features.columns["video_rows"][row]]
        hits += np.clip((20 - (mine > own).sum()) / (mine == own).sum(), 0, 1)
    assert logged["valid/recall_at_20"] == pytest.approx(hits / len(rows))


@pytest.mark.parametrize("interests", [1, 3])
def test_a_module_saves_queries_of_single_vectors(world_features, interests, tmp_path):
    module = module_of(world_features, interests=interests)
    module.save(tmp_path)
    queries = np.load(tmp_path / "queries.npy")
    assert queries.shape == (min(len(module._positives("valid")), 1000) * interests, 8)


@pytest.mark.parametrize("interests", [1, 3])
def test_training_lowers_the_loss(world_features, interests):
    module, losses = module_of(world_features, interests=interests), []
    module.log = lambda *_, **__: None
    optimizer = module.configure_optimizers()
    batches = list(module.loader("train", seed=0))[:4]
    for _ in range(5):
        losses.append([])
        for place, batch in enumerate(batches):
            loss = module.training_step(batch, place)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[-1].append(float(loss.detach()))
    assert np.mean(losses[-1]) < 0.9 * np.mean(losses[0])


def test_a_loss_that_is_no_number_stops_and_names_the_batch(world_features):
    module = module_of(world_features)
    batch = next(iter(module.loader("train", seed=0)))
    batch["history_values"] = torch.full_like(batch["history_values"], float("nan"))
    with pytest.raises(ValueError, match=r"loss of batch 7 is nan; .* model\.module\.learning_rate \(0\.01\)"):
        module.training_step(batch, 7)


def test_days_without_a_positive_are_named(world_features):
    columns = {**world_features.columns, "targets": np.zeros_like(world_features.columns["targets"])}
    nothing = replace(world_features, columns=columns)
    with pytest.raises(ValueError, match="popular is 8, but no video has a positive"):
        module_of(nothing)
    with pytest.raises(ValueError, match=r"the train days hold no impression with click; check data\.split, the definition"):
        module_of(nothing, popular=0).loader("train", seed=0)


def test_the_own_positive_and_what_came_later_are_masked_pairs(world_features):
    module = module_of(world_features)
    module._upload_ms = torch.tensor([5.0, float("nan"), 7.0, 9.0], dtype=torch.float64)
    drawn = NegativeSample(torch.arange(4), torch.zeros(4), 4)
    queries, places = module._masked_pairs(drawn, torch.tensor([1, 0]), torch.tensor([6, 8]))
    assert list(zip(queries.tolist(), places.tolist(), strict=True)) == [(0, 1), (0, 2), (0, 3), (1, 0), (1, 3)]


@pytest.mark.parametrize("videos", [1, 20_000, 10_000_000, 100_000_000])
def test_scores_at_once_are_bounded(videos):
    assert 1 <= at_once(videos) <= 1024
    assert at_once(videos) * videos <= max(2**24, videos)
