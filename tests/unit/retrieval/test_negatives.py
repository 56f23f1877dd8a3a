"""Pools: which videos, how much each stands for, and that they stand for the catalogue without bias."""

import math

import pytest
import torch

from watchnext.retrieval.towers.negatives import Negatives, NegativeSample

COUNTS = torch.tensor([50, 30, 16, 4, 0])
KINDS = {
    "uniform": {"in_batch": False, "uniform": 9},
    "popular": {"in_batch": False, "uniform": 0, "popular": 9},
    "in batch": {"in_batch": True, "uniform": 0},
    "all": {"in_batch": True, "uniform": 3, "popular": 4, "power": 0.5},
}


def test_expected_copies_by_hand():
    """Negatives of 5 videos: 10 others of the batch by their share, 4 uniform draws, 6 by the root of the counts."""
    counts = torch.tensor([16, 4, 0, 0, 4])
    negatives = Negatives(counts=counts, in_batch=True, uniform=4, popular=6, power=0.5)
    found = negatives.expected(torch.tensor([4, 0, 2, 0]), batch=11)
    roots, shares = 6 / 8, 10 / 24
    assert found.tolist() == pytest.approx(
        [4 * shares + 0.8 + 2 * roots, 16 * shares + 0.8 + 4 * roots, 0.8, 16 * shares + 0.8 + 4 * roots]
    )


def test_a_member_weighs_its_copies_over_the_expected_ones():
    torch.manual_seed(0)
    batch = torch.tensor([3, 0, 0, 1, 0])
    drawn = Negatives(counts=COUNTS, in_batch=True, uniform=0).draw(batch)
    assert drawn.rows.tolist() == [0, 1, 3]
    assert drawn.log_weights.exp().tolist() == pytest.approx([3 / (4 * 0.5), 1 / (4 * 0.3), 1 / (4 * 0.04)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_pool_holds_different_videos_ascending(kind):
    torch.manual_seed(1)
    batch = torch.multinomial(COUNTS.double(), 7, replacement=True)
    drawn = Negatives(counts=COUNTS, **{**KINDS[kind], "uniform": min(KINDS[kind]["uniform"], 4)}).draw(batch)
    assert (drawn.rows.diff() > 0).all()
    assert drawn.rows.shape == drawn.log_weights.shape
    assert drawn.log_weights.isfinite().all()
    assert drawn.rows.min() >= 0
    assert drawn.rows.max() < 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_partition_is_estimated_without_bias(kind):
    """3,000 pools against the sum over the catalogue. A query of the batch has its own positive in the pool, and is asked for
    the sum over the other videos. Only uniform draws reach the video that is never a positive."""
    torch.manual_seed(2)
    pools, logits = 3_000, torch.tensor([1.0, -0.5, 0.3, 2.0, 0.7]).double()
    counts = torch.cat([COUNTS, torch.zeros(15, dtype=torch.int64)])  # more videos than draws
    logits = torch.cat([logits, torch.zeros(15).double()])
    negatives = Negatives(counts=counts, **KINDS[kind])
    batches = torch.multinomial(counts.double(), pools * 6, replacement=True).view(pools, 6)
    batches[:, 0] = 2  # the query whose positive is video 2
    estimates = []
    for batch in batches:
        drawn = negatives.draw(batch)
        _, own = drawn.hits(batch[:1])
        terms = (logits[drawn.rows] + drawn.log_weights).exp()
        estimates.append(float(terms.sum() - terms[own].sum()))
    found, reached = torch.tensor(estimates), (counts > 0) | bool(KINDS[kind]["uniform"])
    reached[2] = False
    wanted = float(logits[reached].exp().sum())
    assert float(found.mean()) == pytest.approx(wanted, abs=4 * float(found.std()) / math.sqrt(pools))


@pytest.mark.parametrize("uniform", [None, 5, 900])
def test_the_whole_catalogue_is_each_video_once(uniform):
    drawn = Negatives(counts=COUNTS, in_batch=True, uniform=uniform).draw(torch.tensor([1, 1]))
    assert drawn.rows.tolist() == [0, 1, 2, 3, 4]
    assert drawn.log_weights.tolist() == [0.0] * 5


def test_a_large_catalogue_is_not_clamped():
    counts = torch.zeros(5_000_000, dtype=torch.int32)
    found = Negatives(counts=counts, in_batch=False, uniform=1).expected(torch.tensor([7]), batch=1)
    assert found.tolist() == pytest.approx([2e-7])


def test_hits_against_a_loop():
    rows, positives = torch.tensor([2, 5, 6, 9]), torch.tensor([9, 0, 5, 5, 7, 99, 2])
    queries, places = NegativeSample(rows, torch.zeros(4), 100).hits(positives)
    wanted = [(i, rows.tolist().index(p)) for i, p in enumerate(positives.tolist()) if p in rows.tolist()]
    assert list(zip(queries.tolist(), places.tolist(), strict=True)) == wanted


def test_draws_are_those_of_torchs_own_generator():
    negatives, batch = Negatives(counts=torch.ones(1000), in_batch=True, uniform=50, popular=50), torch.tensor([1, 2])
    torch.manual_seed(3)
    first, second = negatives.draw(batch).rows, negatives.draw(batch).rows
    torch.manual_seed(3)
    assert torch.equal(first, negatives.draw(batch).rows)
    assert not torch.equal(first, second)


def test_negatives_of_no_kind_are_refused():
    with pytest.raises(ValueError, match="expected at least one kind of negatives; set uniform, popular or in_batch"):
        Negatives(counts=COUNTS, in_batch=False, uniform=0)
    with pytest.raises(ValueError, match="popular is 9, but no video has a positive"):
        Negatives(counts=torch.zeros(4), in_batch=False, uniform=0, popular=9)
