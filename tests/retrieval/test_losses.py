"""Objectives against slow loops."""

import math

import pytest
import torch

from watchnext.retrieval.losses import GBCE, SampledSoftmax, SharedSoftmax
from watchnext.retrieval.partition import hits_of, log_partition


def by_hand(queries, pool, positives, pool_rows, log_expected, temperature) -> float:
    losses = []
    for i, query in enumerate(queries.tolist()):
        terms = []
        for j, video in enumerate(pool.tolist()):
            logit = sum(a * b for a, b in zip(query, video, strict=True)) / temperature - float(log_expected[j])
            if j == i:
                own = logit
            if j == i or int(pool_rows[j]) != int(positives[i]):
                terms.append(math.exp(logit))
        losses.append(math.log(sum(terms)) - own)
    return sum(losses) / len(losses)


def example(seed: int):
    generator = torch.Generator().manual_seed(seed)
    queries, pool = torch.randn(5, 4, generator=generator), torch.randn(11, 4, generator=generator)
    rows = torch.randint(6, (11,), generator=generator)  # few videos, so that the pool holds many copies
    return queries, pool, rows[:5], rows, torch.randn(11, generator=generator)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("temperature", "used"), [(0.5, 0.5), (7.0, 1.0), (0.001, 0.01)])
def test_loss_against_a_slow_loop(seed, temperature, used):
    queries, pool, positives, rows, log_expected = example(seed)
    scaled = 0.1 if used < 0.1 else 1.0  # keeps exp in the loop finite
    loss = SampledSoftmax(temperature=temperature)(
        queries * scaled, pool * scaled, positives=positives, pool_rows=rows, log_expected=log_expected
    )
    expected = by_hand(queries * scaled, pool * scaled, positives, rows, log_expected, used)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-4)


def test_a_copy_of_the_positive_is_no_negative():
    """Wherever the copy's vector lies, the loss stays; so does its gradient."""
    queries, pool, _, _, log_expected = example(0)
    rows = torch.arange(11)
    rows[7] = rows[2]
    loss, moved = SampledSoftmax(temperature=0.5), pool.clone()
    moved[7] += 5.0
    both = [loss(queries[2:3], torch.cat([pool[2:3], p]), positives=rows[2:3], pool_rows=torch.cat([rows[2:3], rows]),
                 log_expected=torch.cat([log_expected[2:3], log_expected])) for p in (pool, moved)]  # fmt: skip
    assert float(both[0].detach()) == float(both[1].detach())
    pool.requires_grad_()
    loss(queries, pool, positives=rows[:5], pool_rows=rows, log_expected=log_expected).backward()
    assert pool.grad.isfinite().all()


def test_alone_with_itself_there_is_nothing_to_lose():
    vector = torch.ones(1, 3)
    rows = torch.tensor([4])
    assert (
        float(
            SampledSoftmax(temperature=0.1)(
                vector, vector, positives=rows, pool_rows=rows, log_expected=torch.zeros(1)
            ).detach()
        )
        == 0.0
    )


def test_the_correction_makes_a_frequent_negative_weigh_less():
    queries, pool, _, _, log_expected = example(1)
    loss, rows = SampledSoftmax(temperature=1.0), torch.arange(11)
    more = log_expected.clone()
    more[9] += 3.0
    lower = loss(queries, pool, positives=rows[:5], pool_rows=rows, log_expected=more)
    assert lower.detach() < loss(queries, pool, positives=rows[:5], pool_rows=rows, log_expected=log_expected).detach()


def test_the_temperature_is_learned():
    queries, pool, positives, rows, log_expected = example(2)
    loss = SampledSoftmax(temperature=0.3)
    loss(queries, pool, positives=positives, pool_rows=rows, log_expected=log_expected).backward()
    assert loss.log_temperature.grad.abs() > 0


def shared_example(seed: int, videos: int, pool: int):
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(videos, 4, generator=generator) * 0.5
    queries = torch.randn(600, 4, generator=generator)  # more than one part of the partition
    positives = torch.randint(videos, (600,), generator=generator)
    rows = torch.randperm(videos, generator=generator)[:pool].sort().values
    return queries, table, positives, rows


def shared_by_hand(queries, table, positives, rows, temperature) -> float:
    """Mean over queries of -log(e^own / (e^own + videos/pool * sum of e^negative)), own positive not among the negatives."""
    losses = []
    for query, positive in zip(queries.tolist(), positives.tolist(), strict=True):
        dot = [sum(a * b for a, b in zip(query, video, strict=True)) / temperature for video in table.tolist()]
        negatives = sum(math.exp(dot[row]) for row in rows.tolist() if row != positive) * len(table) / len(rows)
        losses.append(math.log(math.exp(dot[positive]) + negatives) - dot[positive])
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("videos", "pool"), [(40, 12), (40, 40), (5, 1)])
def test_shared_softmax_against_a_slow_loop(videos, pool):
    """With a pool of one, some queries have no negative at all: they have nothing to lose."""
    queries, table, positives, rows = shared_example(0, videos, pool)
    found = SharedSoftmax(temperature=0.5)(
        queries, table[positives], table[rows], positives=positives, pool_rows=rows, videos=videos
    )
    assert float(found.detach()) == pytest.approx(shared_by_hand(queries, table, positives, rows, 0.5), rel=1e-4)


def test_the_whole_catalogue_as_pool_is_the_full_softmax():
    queries, table, positives, rows = shared_example(1, 30, 30)
    found = SharedSoftmax(temperature=0.4)(queries, table[positives], table, positives=positives, pool_rows=rows, videos=30)
    wanted = torch.nn.functional.cross_entropy(queries @ table.T / 0.4, positives)
    torch.testing.assert_close(found.detach(), wanted, rtol=1e-5, atol=1e-5)


def test_gradients_of_the_partition_are_autograds():
    queries, table, positives, rows = shared_example(2, 40, 12)
    grads = []
    for written_out in (True, False):
        q, t = queries.clone().requires_grad_(), table.clone().requires_grad_()
        hits = hits_of(positives, rows, 40)
        if written_out:
            found = log_partition(q, t[rows], hits)
        else:
            found = (q @ t[rows].T).index_put(hits, torch.tensor(float("-inf"))).logsumexp(1)
        (found * torch.linspace(-1, 1, 600)).sum().backward()
        grads.append((found.detach(), q.grad, t.grad))
    for fast, slow in zip(*grads, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-4)


def test_a_query_whose_only_negative_is_its_positive_has_finite_gradients():
    table, rows = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)).requires_grad_(), torch.tensor([1])
    queries, positives = torch.ones(2, 4, requires_grad=True), torch.tensor([1, 2])
    loss = SharedSoftmax(temperature=0.5)
    loss(queries, table[positives], table[rows], positives=positives, pool_rows=rows, videos=3).backward()
    assert queries.grad.isfinite().all()
    assert not queries.grad[0].any()
    assert queries.grad[1].any()


@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_gbce_against_a_slow_loop(calibration):
    queries, table, positives, rows = shared_example(3, 40, 12)
    loss = GBCE(temperature=0.5, calibration=calibration)
    found = loss(queries, table[positives], table[rows], positives=positives, pool_rows=rows, videos=40)
    alpha, losses = 12 / 39, []
    beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)
    for query, positive in zip(queries.tolist(), positives.tolist(), strict=True):
        sure = [1 / (1 + math.exp(-sum(a * b for a, b in zip(query, v, strict=True)) / 0.5)) for v in table.tolist()]
        losses.append(-beta * math.log(sure[positive]) - sum(math.log(1 - sure[r]) for r in rows.tolist() if r != positive))
    assert float(found.detach()) == pytest.approx(sum(losses) / len(losses), rel=1e-4)
    assert GBCE(temperature=0.5, calibration=0.0).beta(12, 40) == pytest.approx(1.0)
    assert GBCE(temperature=0.5, calibration=1.0).beta(12, 40) == pytest.approx(alpha)
