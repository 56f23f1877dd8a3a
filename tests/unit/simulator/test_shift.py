"""A shift moves the tastes of some viewers at one moment, adds a wave of uploads, and changes nothing else."""

import numpy as np
import pytest

from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.simulator.audience.loyalty import Loyalty
from watchnext.simulator.behaviour import DAY_MS
from watchnext.simulator.shift import Shift
from watchnext.simulator.world import World

WORLD = World(users=200, videos=400, creators=40, tags=12, days=4, seed=5)
SHIFT = Shift(day=3, share=0.5, angle=np.pi / 2, videos=60)
SHIFTED, STILL = WORLD.continued(5, SHIFT), WORLD.continued(5)
SHIFT_MS = WORLD.start_ms + 6 * DAY_MS
USERS = np.arange(200)


def test_tastes_jump_at_the_beginning_of_the_day_and_not_before():
    np.testing.assert_array_equal(SHIFTED.taste(USERS, SHIFT_MS - 1), STILL.taste(USERS, SHIFT_MS - 1))
    before, after = STILL.taste(USERS, SHIFT_MS), SHIFTED.taste(USERS, SHIFT_MS)
    alike = (before * after).sum(axis=1)
    jumped = SHIFTED.viewers["jump"] > 0
    assert 0.35 < jumped.mean() < 0.65
    np.testing.assert_array_equal(after[~jumped], before[~jumped])
    assert abs(alike[jumped].mean()) < 0.3  # little of the old taste is left
    everyone = WORLD.continued(5, Shift(day=3, angle=np.pi))
    np.testing.assert_allclose((everyone.taste(USERS, SHIFT_MS) * before).sum(axis=1), -1.0, atol=1e-5)


def test_the_wave_is_uploaded_on_the_day_beside_the_usual_videos():
    usual, wave = np.split(SHIFTED.catalogue[len(WORLD.catalogue) :], [len(STILL.catalogue) - len(WORLD.catalogue)])
    assert (usual == STILL.catalogue[len(WORLD.catalogue) :]).all()
    assert len(wave) == 60
    assert ((wave["upload_ms"] >= SHIFT_MS) & (wave["upload_ms"] < SHIFT_MS + DAY_MS)).all()
    assert len(np.unique(SHIFTED.catalogue["id"])) == len(SHIFTED.catalogue)
    first = len(WORLD.catalogue)
    assert SHIFTED.uploads(first).slice(0, len(usual)).equals(STILL.uploads(first))  # content vectors too


def test_the_log_and_the_same_arguments_give_the_same():
    assert (WORLD.continued(5, SHIFT).viewers == SHIFTED.viewers).all()
    simulation = Simulation.of(WORLD, loyalty=Loyalty(), days=5, viewers=None, shift=SHIFT)
    assert simulation.log.impressions.equals(WORLD.log().impressions)
    times = [post.known_at for post in simulation.posts()]
    assert times == sorted(times)
    assert len(times) == len(SHIFTED.catalogue) - len(WORLD.catalogue)


def test_a_shift_that_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"shift.day is 6, expected one of the 5 days"):
        WORLD.continued(5, Shift(day=6))
    with pytest.raises(ValueError, match=r"expected a day of at least 1, a share within"):
        Shift(day=0)
    with pytest.raises(ValueError, match=r"share=1.5"):
        Shift(share=1.5)
