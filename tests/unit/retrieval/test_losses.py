"""Objectives against slow loops in double precision, values and gradients."""

import math

import pytest
import torch

from watchnext.retrieval.towers.log_partition import log_partition
from watchnext.retrieval.towers.negatives import NegativeSample
from watchnext.retrieval.towers.objectives import SampledSoftmax


def example(seed: int, videos: int, pool: int, dtype=torch.float64):
    """600 queries, which is more than one part of the partition, the videos' vectors, positives and a weighted pool."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(videos, 4, generator=generator, dtype=dtype) * 0.5
    queries = torch.randn(600, 4, generator=generator, dtype=dtype)
    positives = torch.randint(videos, (600,), generator=generator)
    rows = torch.randperm(videos, generator=generator)[:pool].sort().values
    return queries, table, positives, NegativeSample(rows, torch.randn(pool, generator=generator), videos)


def loss_of(loss, queries, table, positives, drawn):
    return loss(queries, table[positives], table[drawn.rows], drawn=drawn, masked=drawn.hits(positives))


def softmax_by_hand(query, table, positive, drawn, temperature):
    """-log(e^own / (e^own + sum of weight * e^negative)), the own positive not among the negatives."""
    negatives = 0.0
    for row, log_weight in zip(drawn.rows.tolist(), drawn.log_weights.tolist(), strict=True):
        if row != positive:
            negatives = negatives + math.exp(log_weight) * (query @ table[row] / temperature).exp()
    own = (query @ table[positive] / temperature).exp()
    return -(own / (own + negatives)).log()


def by_hand(loss, queries, table, positives, drawn, temperature=None):
    temperature = loss.log_temperature.double().exp() if temperature is None else temperature
    losses = []
    for query, positive in zip(queries, positives.tolist(), strict=True):
        losses.append(softmax_by_hand(query, table, positive, drawn, temperature))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(("videos", "pool"), [(40, 12), (12, 12), (5, 1)])
def test_loss_and_gradients_against_a_slow_loop(videos, pool):
    """With a pool of one, some queries have no negative at all."""
    loss, found = SampledSoftmax(temperature=0.5), []
    for fast in (True, False):
        queries, table, positives, drawn = example(0, videos, pool)
        queries.requires_grad_(), table.requires_grad_()
        loss.zero_grad()
        value = (loss_of if fast else by_hand)(loss, queries, table, positives, drawn)
        value.backward()
        found.append((value.detach(), queries.grad, table.grad, loss.log_temperature.grad.double()))
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-7)
    assert found[0][3].abs() > 0  # the temperature learns


@pytest.mark.parametrize(("temperature", "used"), [(7.0, 1.0), (0.001, 0.01)])
def test_the_temperature_is_clamped(temperature, used):
    loss = SampledSoftmax(temperature=temperature)
    queries, table, positives, drawn = example(1, 20, 8)
    scaled = queries * 0.05  # keeps exp in the loop finite
    found = loss_of(loss, scaled, table, positives, drawn)
    assert float(found.detach()) == pytest.approx(float(by_hand(loss, scaled, table, positives, drawn, used)), rel=1e-5)


def test_a_copy_of_the_positive_is_no_negative():
    """Wherever the copy's vector lies, and whatever it weighs, the loss stays."""
    loss = SampledSoftmax(temperature=0.5)
    queries, table, positives, drawn = example(2, 12, 12)
    pool = table.clone()
    found = [loss(queries[:1], table[positives[:1]], pool, drawn=drawn, masked=drawn.hits(positives[:1]))]
    pool[positives[0]] += 5.0
    weighed = drawn.log_weights.clone()
    weighed[positives[0]] += 3.0
    moved = NegativeSample(drawn.rows, weighed, drawn.videos)
    found.append(loss(queries[:1], table[positives[:1]], pool, drawn=moved, masked=moved.hits(positives[:1])))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=0)


def test_alone_with_itself_there_is_nothing_to_lose():
    vector, rows = torch.ones(1, 3), torch.tensor([4])
    drawn = NegativeSample(rows, torch.zeros(1), 9)
    assert float(SampledSoftmax(temperature=0.1)(vector, vector, vector, drawn=drawn, masked=drawn.hits(rows)).detach()) == 0.0


def test_the_whole_catalogue_as_pool_is_the_full_softmax():
    queries, table, positives, drawn = example(3, 30, 30)
    drawn = NegativeSample(drawn.rows, torch.zeros(30), 30)
    wanted = torch.nn.functional.cross_entropy(queries @ table.T / 0.5, positives)
    found = loss_of(SampledSoftmax(temperature=0.5), queries, table, positives, drawn)
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-6, atol=0)


def test_gradients_of_the_partition_are_autograds():
    """In single precision, as it trains."""
    grads = []
    for written_out in (True, False):
        queries, table, positives, drawn = example(4, 40, 12, torch.float32)
        q, t, hits = queries.requires_grad_(), table.requires_grad_(), drawn.hits(positives)
        if written_out:
            found = log_partition(q, t[drawn.rows], hits, drawn.log_weights)
        else:
            logits = q @ t[drawn.rows].T + drawn.log_weights
            found = logits.index_put(hits, torch.tensor(float("-inf"))).logsumexp(1)
        (found * torch.linspace(-1, 1, 600)).sum().backward()
        grads.append((found.detach(), q.grad, t.grad))
    for fast, slow in zip(*grads, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def test_a_query_whose_only_negative_is_its_positive_has_finite_gradients():
    table = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    queries, positives = torch.ones(2, 4, requires_grad=True), torch.tensor([1, 2])
    loss_of(
        SampledSoftmax(temperature=0.5), queries, table, positives, NegativeSample(torch.tensor([1]), torch.zeros(1), 3)
    ).backward()
    assert queries.grad.isfinite().all()
    assert not queries.grad[0].any()
    assert queries.grad[1].any()
