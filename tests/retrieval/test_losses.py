"""Sampled softmax against a slow loop."""

import math

import pytest
import torch

from watchnext.retrieval.losses import SampledSoftmax


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
