"""An audience leaves and comes back by how it is served, tires of repetition, and has the same luck under every policy."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from watchnext.simulator.audience.audience import Audience
from watchnext.simulator.audience.loyalty import Loyalty
from watchnext.simulator.audience.visits import Visit
from watchnext.simulator.behaviour import DAY_MS, HOUR_MS
from watchnext.simulator.world import World

SIZES = {"users": 200, "videos": 2000, "creators": 60, "tags": 12, "days": 4, "impressions_per_user_day": 20.0}
WORLD = World(**SIZES, seed=5)
START_MS = WORLD.start_ms + 3 * DAY_MS
USERS = np.flatnonzero(~WORLD.viewers["bot"] & (WORLD.viewers["joined_ms"] < START_MS))
Policy = Callable[[Visit], np.ndarray]


def audience(world: World = WORLD, **loyalty: float) -> Audience:
    return world.audience(loyalty=Loyalty(**loyalty), users=USERS, start_ms=START_MS)


def lived(people: Audience, policy: Policy, days: int) -> list[tuple[Visit, np.ndarray, np.ndarray]]:
    """Every visit of some days with its slate and its long views."""
    days_ms = range(START_MS, START_MS + days * DAY_MS, DAY_MS)
    return [(visit, rows, out.masks["long_view"]) for day_ms in days_ms for visit, rows, out in people.live(day_ms, policy)]


UPLOADED = np.flatnonzero((WORLD.catalogue["upload_ms"] <= START_MS) & (WORLD.catalogue["safety"] != 2))


def best(visit: Visit, among: np.ndarray = UPLOADED, shown: dict | None = None) -> np.ndarray:
    """The best videos of those that the viewer has not been shown."""
    seen = set() if shown is None else shown.setdefault(visit.user, set())
    left = np.array([row for row in among.tolist() if row not in seen])
    truth = WORLD.truth(np.array(visit.user), left, np.array(visit.time_ms)).probability["long_view"]
    rows = left[np.argsort(-truth)[: visit.slots]]
    seen.update(rows.tolist())
    return rows


def uniform(visit: Visit) -> np.ndarray:
    return np.random.default_rng([visit.user, visit.key]).choice(UPLOADED, visit.slots, replace=False)


def test_the_satisfied_come_more_often_and_the_dissatisfied_less():
    pleased, bored = audience(satiation=0.0), audience(satiation=0.0)
    assert pleased.chances == pytest.approx(0.8)
    shown: dict = {}
    first = len(lived(pleased, lambda visit: best(visit, shown=shown), 3)), len(lived(bored, uniform, 3))
    assert first[0] > 1.1 * first[1]  # of visits: longer sessions, and more of them
    assert pleased.chances.mean() > 0.8 > bored.chances.mean()
    again = len(pleased.come(START_MS + 3 * DAY_MS)), len(bored.come(START_MS + 3 * DAY_MS))
    assert again[0] > 1.1 * again[1]


def test_without_pull_nobody_leaves():
    people = audience(pull=0.0)
    lived(people, uniform, 2)
    assert people.satisfaction.std() > 0
    assert people.chances == pytest.approx(0.8)


def test_a_policy_that_repeats_one_tag_burns_viewers_out_and_loses_to_one_that_does_not():
    """Both show the same number of good videos to start with; the one that changes tags wins only because of satiation."""
    tags = WORLD.catalogue["tags"][:, 0]

    def repeats(visit: Visit) -> np.ndarray:
        mine = WORLD.taste(np.array([visit.user]), visit.time_ms)[0] @ WORLD._platform.directions
        return np.random.default_rng([visit.user, visit.key]).permutation(UPLOADED[tags[UPLOADED] == mine.argmax()])[:6]

    def changes(visit: Visit) -> np.ndarray:
        mine = WORLD.taste(np.array([visit.user]), visit.time_ms)[0] @ WORLD._platform.directions
        liked = np.random.default_rng([visit.user, visit.key]).permutation(UPLOADED)
        liked = liked[np.isin(tags[liked], np.argsort(-mine)[:3])]
        return np.concatenate([liked[tags[liked] == tag][:2] for tag in np.argsort(-mine)[:3]])

    def long_views(policy: Policy, satiation: float) -> float:
        return sum(long.sum() for *_, long in lived(audience(satiation=satiation), policy, 4))

    assert long_views(repeats, 0.0) > long_views(changes, 0.0)
    assert long_views(repeats, 0.1) < 0.9 * long_views(changes, 0.1)


def test_repetition_wears_out_by_impression_and_is_forgotten_by_half_life():
    people = audience(satiation=0.3, rest_h=10.0)
    visit = next(visit for visit in people.come(START_MS) if visit.surface == 0)
    tag = np.bincount(WORLD.catalogue["tags"][UPLOADED, 0]).argmax()
    rows = UPLOADED[WORLD.catalogue["tags"][UPLOADED, 0] == tag][:6]
    people.watch(visit, rows)
    weary = people._memory.weary[visit.user].copy()
    assert 1 <= weary[tag] <= 6  # of what was examined
    assert weary.sum() == weary[tag]
    people._rest(visit._replace(time_ms=visit.time_ms + 10 * HOUR_MS))
    assert people._memory.weary[visit.user] == pytest.approx(weary / 2)


def test_viewers_have_the_same_luck_under_every_policy():
    """Those who come, when, and for how many videos does not depend on a policy until it changes the viewer."""
    one, two = audience(), audience()
    assert one.come(START_MS) == two.come(START_MS)
    for visit in one.come(START_MS):
        (first, _), (second, _) = (people.watch(visit, UPLOADED[:6]) for people in (one, two))
        assert np.array_equal(first.watch_ms, second.watch_ms)
    assert len({visit.key for visit in one.come(START_MS)}) > 1


def test_sessions_follow_one_another_and_end_with_the_day():
    people = audience()
    visits = [visit for visit, *_ in lived(people, uniform, 2)]
    of_one = {}
    for visit in visits:
        of_one.setdefault(visit.user, []).append(visit)
    assert {visit.slots for visit in visits} == {6, 7, 8, 9, 10}
    for each in of_one.values():
        assert all(a.time_ms < b.time_ms for a, b in pairwise(each))
        assert all(b.depth == a.depth + a.slots for a, b in pairwise(each) if b.number)
    assert all(visit.time_ms >= START_MS for visit in visits)


def test_a_viewer_who_is_shown_nothing_leaves():
    people = audience()
    visit = people.come(START_MS)[0]
    outcomes, after = people.watch(visit, [])
    assert (len(outcomes.watch_ms), after) == (0, None)
    assert people.satisfaction[visit.user == USERS] < 0


def test_a_world_goes_on_with_new_videos_and_the_same_log():
    later = WORLD.continued(4)
    assert len(later.catalogue) == len(WORLD.catalogue) + len(WORLD.catalogue) // 2
    added = later.catalogue[len(WORLD.catalogue) :]
    assert (added["upload_ms"] >= WORLD.start_ms + 4 * DAY_MS).all()
    assert (added["upload_ms"] < WORLD.start_ms + 8 * DAY_MS).all()
    assert len(np.unique(later.catalogue["id"])) == len(later.catalogue)
    assert set(added["creator"]) <= set(range(60))
    first, again = (next(world.days_of_log(quiet=True)) for world in (WORLD, later))
    assert np.array_equal(first.requests.video, again.requests.video)
    table = later.uploads(len(WORLD.catalogue))
    assert table["video_id"].to_pylist() == added["id"].tolist()
    assert table["upload_ms"].to_pylist() == added["upload_ms"].tolist()


@pytest.mark.parametrize("wrong", [{"chance": 1.0}, {"memory": 0.0}, {"rest_h": 0.0}, {"pull": -1.0}, {"satiation": -0.1}])
def test_a_law_out_of_bounds_is_refused(wrong):
    with pytest.raises(ValueError, match=r"expected chance within \(0, 1\)"):
        Loyalty(**wrong)
