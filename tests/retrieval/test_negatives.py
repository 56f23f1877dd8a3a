import math

import numpy as np
import pytest
import torch

from watchnext.retrieval.negatives import MixedNegatives, SharedUniform

SHARES = torch.tensor([0.5, 0.3, 0.2, 0.0], dtype=torch.float64)


def test_log_expected_by_hand():
    """10 positives and 8 uniform draws of 4 videos: 10 * .5 + 2, 10 * .3 + 2, ..., in the order of the rows asked for."""
    found = MixedNegatives(uniform=8, seed=0).log_expected(torch.tensor([3, 0, 0, 1]), shares=SHARES, batch=10)
    assert found.exp().tolist() == pytest.approx([2.0, 7.0, 7.0, 5.0])


def test_a_video_that_is_never_drawn_stays_finite():
    found = MixedNegatives(uniform=0, seed=0).log_expected(torch.tensor([3]), shares=SHARES, batch=10)
    assert found.tolist() == pytest.approx([math.log(1e-10)])


def test_a_large_catalogue_is_not_clamped():
    shares = torch.zeros(5_000_000, dtype=torch.float64)
    found = MixedNegatives(uniform=1, seed=0).log_expected(torch.tensor([7]), shares=shares, batch=1)
    assert found.exp().tolist() == pytest.approx([2e-7])


def test_pools_hold_videos_as_often_as_expected():
    """Monte Carlo over 3,000 pools of 6 positives and 9 uniform draws."""
    negatives, random, pools, batch = MixedNegatives(uniform=9, seed=1), np.random.default_rng(2), 3_000, 6
    counts = np.zeros(4)
    for _ in range(pools):
        pool = np.concatenate([random.choice(4, batch, p=SHARES.numpy()), negatives.draw(4).numpy()])
        counts += np.bincount(pool, minlength=4)
    expected = negatives.log_expected(torch.arange(4), shares=SHARES, batch=batch).exp().numpy()
    np.testing.assert_allclose(counts / pools, expected, atol=5 * np.sqrt(expected.max() / pools))


def test_the_seed_decides_the_draws():
    first, again, other = (MixedNegatives(uniform=50, seed=seed) for seed in (3, 3, 4))
    draws = [first.draw(1000), first.draw(1000)]
    assert torch.equal(draws[0], again.draw(1000))
    assert not torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], other.draw(1000))
    assert draws[0].min() >= 0
    assert draws[0].max() < 1000


def test_a_shared_pool_holds_different_videos_and_is_seeded():
    first, again, other = (SharedUniform(count=50, seed=seed).draw(80) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert (first.diff() > 0).all()
    assert 30 < len(first) < 50
    assert torch.equal(SharedUniform(count=None, seed=0).draw(7), torch.arange(7))
    assert torch.equal(SharedUniform(count=9, seed=0).draw(7), torch.arange(7))
