"""Training of the towers: what it measures, and what stops it."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tests.fake_device import ELSEWHERE, FakeDevice

from watchnext.nn.training import in_order
from watchnext.retrieval.towers.negatives import Negatives, NegativeSample
from watchnext.retrieval.towers.objectives import SampledSoftmax
from watchnext.retrieval.towers.recall import at_once, recall_among_all
from watchnext.retrieval.towers.retrieval_module import NEW_MS, RetrievalModule, nearest_interest
from watchnext.retrieval.towers.two_tower import TwoTower


def module_of(features, *, interests: int = 1, popular: int = 8, uniform: int | None = 8) -> RetrievalModule:
    torch.manual_seed(0)
    return RetrievalModule(
        features=features,
        network=partial(TwoTower, embedding=4, hidden=(16,), dimension=8, heads=2, dropout=0.0, interests=interests),
        loss=SampledSoftmax(temperature=0.1),
        negatives=partial(Negatives, in_batch=True, uniform=uniform, popular=popular),
        positive="click",
        recall_at=20,
        hide_new=0.5,
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


@pytest.mark.parametrize("uniform", [8, None])
def test_towers_on_a_device_learn_what_they_learn_on_the_processor(world_features, uniform, monkeypatch):
    monkeypatch.setattr(RetrievalModule, "log", lambda *_, **__: None)
    found = []
    for device in ("cpu", ELSEWHERE):
        module = module_of(world_features, interests=3, uniform=uniform)
        with FakeDevice():
            module.to(device)
            batch = {name: values.to(device) for name, values in next(iter(module.loader("train", seed=0))).items()}
            torch.manual_seed(1)
            loss = module.training_step(batch, 0)
            loss.backward()
            module.eval()
            with torch.no_grad():
                module.validation_step(batch | {"video_rows": batch["all_video_rows"].long()}, 0)
            [queries, _] = in_order(module._validated)
            found.append((loss.item(), module.network.video.new.grad.cpu().numpy(), queries.numpy(), module.embeddings()))
    for here, there in zip(*found, strict=True):
        np.testing.assert_allclose(there, here, rtol=1e-6)
    assert np.abs(found[0][1]).max() > 0


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


def test_a_new_video_is_placed_without_its_id(world_features):
    module = module_of(world_features).eval()
    rows, old, new = torch.arange(6), torch.zeros(6, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    with torch.no_grad():
        module.network.video.new.normal_()
        before, known = module.videos(rows, new), module.videos(rows, old)
        module._videos["video_codes"][:, module._id] = 3
        assert torch.equal(module.videos(rows, new), before)
        assert not torch.isclose(module.videos(rows, old), known).all(1).any()


def test_ids_of_a_share_of_the_young_are_hidden(world_features):
    """A positive is as old as at its request, another video as at any request of the batch."""
    module, day_ms = module_of(world_features), NEW_MS
    module._upload_ms = torch.tensor([0.0, 2.5 * day_ms, float("nan"), 9.5 * day_ms], dtype=torch.float64).repeat(1000)
    rows, positives = torch.arange(4000), torch.tensor([1, 0])
    drawn = [module._hidden(rows, positives, torch.tensor([3 * day_ms, 10 * day_ms])) for _ in range(40)]
    shares = torch.stack(drawn).float()
    assert not shares[:, 0::4].any()  # old at every request
    assert not shares[:, 2::4].any()  # of unknown upload
    assert float(shares[:, 1].mean()) == pytest.approx(0.5, abs=0.25)  # a positive of the first request
    assert float(shares[:, 5::4].mean()) == pytest.approx(0.25, abs=0.01)  # young at one of two requests
    assert float(shares[:, 3::4].mean()) == pytest.approx(0.5, abs=0.01)  # uploaded after the first request, young at the other


def test_what_is_young_and_unknown_after_training_is_new(world_features):
    module = module_of(world_features)
    last_ms = world_features.columns["time_ms"][world_features.rows("train")].max()
    module._upload_ms[:4] = torch.tensor([last_ms, last_ms, last_ms + NEW_MS, last_ms - 2 * NEW_MS], dtype=torch.float64)
    module._videos["video_codes"][:4, module._id] = torch.tensor([0, 3, 0, 0], dtype=torch.int32)
    assert module._new()[:4].tolist() == [True, False, True, False]
