"""Arms of simulated viewers through the real Recommender and a real store."""

import numpy as np
import polars as pl
import pytest

from watchnext.assignment import ExperimentError
from watchnext.evaluation.experiment.ablations import ABLATIONS, policy_named
from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.evaluation.experiment.traffic import Arm, opened, run_arms
from watchnext.simulator.audience.loyalty import Loyalty
from watchnext.simulator.behaviour import DAY_MS
from watchnext.types import SOURCES


def everyone(simulation: Simulation) -> np.ndarray:
    """The first policy for every viewer."""
    return np.zeros(len(simulation.world.viewers), np.int64)


@pytest.fixture(scope="module")
def shown(release_of_world, simulation) -> pl.DataFrame:
    return run_arms("full", [release_of_world], simulation, everyone(simulation), seed=0)


def test_the_same_arm_has_the_same_impressions(release_of_world, simulation, shown):
    assert run_arms("again", [release_of_world], simulation, everyone(simulation), seed=0).equals(shown)
    assert shown["viewer"].n_unique() > 10
    assert set(shown["viewer"].unique()) <= set(simulation.users.tolist())
    assert shown["time_ms"].is_sorted()
    assert shown["time_ms"].is_between(simulation.start_ms, simulation.start_ms + 2 * DAY_MS, closed="left").all()


def test_slates_are_what_a_server_would_show(release_of_world, simulation, shown):
    """Uploaded, safe, of known and of new videos, and nothing twice in a slate."""
    catalogue = simulation.world.catalogue
    rows = shown["video"].to_numpy()
    assert (catalogue["upload_ms"][rows] <= shown["time_ms"].to_numpy()).all()
    assert (catalogue["safety"][rows] == 0).all()
    assert (rows >= simulation.released).any()  # of the videos that were posted since
    sizes = shown.group_by("request").agg(pl.len())["len"]
    assert sizes.max() <= 10
    assert shown.group_by("request").agg(pl.col("video").n_unique() == pl.len())["video"].all()


def test_the_store_hears_the_log_posts_impressions_and_outcomes(release_of_world, simulation):
    with opened([release_of_world], simulation) as (recommender,):
        arm = Arm([recommender], simulation, everyone(simulation), seed=0)
        audience, store = simulation.audience(), recommender.store
        of_log, rows = store.position, []
        assert of_log > 0
        for visit, slate, outcomes in audience.live(simulation.start_ms, arm.show):
            arm.hear_of(visit, slate, outcomes)
            rows.append((visit, slate))
        posted = sum(event.known_at < rows[-1][0].time_ms for event in simulation.posts())
        assert len(store.catalogue) == simulation.released + posted
        due = len(arm._due)
        assert store.position == of_log + posted + 2 * sum(len(slate) for _, slate in rows) - due
        assert 0 < due < 50
        seen = store.seen(int(simulation.world.viewers["id"][rows[0][0].user])).rows
        assert set(rows[0][1]) <= set(seen.tolist())


@pytest.mark.parametrize("source", ["two_tower", "popular", "trending", "popular_now"])
def test_a_policy_of_one_source_has_no_other_and_no_ranker(release_of_world, simulation, source):
    name = "two_tower_only" if source == "two_tower" else source
    with opened([policy_named(name, release_of_world, None)], simulation) as (recommender,):
        visit = simulation.audience().come(simulation.start_ms)[0]
        arm = Arm([recommender], simulation, everyone(simulation), seed=0)
        arm.show(visit)
        answers = []
        recommend = recommender.recommend
        recommender.recommend = lambda request: answers.append(recommend(request)) or answers[-1]
        arm.show(visit)
        candidates = answers[0].scored.candidates
        assert set(candidates.sources.tolist()) <= {1 << SOURCES.index(source), 1 << 15}  # what was seen may come back
        assert np.isnan(answers[0].scored.predictions).all()


def test_ablations_differ_in_what_their_names_say(release_of_world):
    full, flat = (policy_named(name, release_of_world, None) for name in ("full", "no_diversity"))
    assert full is release_of_world
    assert {rule.name for rule in full.reranker.rules} - {rule.name for rule in flat.reranker.rules} == {"creator_cap"}
    assert flat.reranker.diversity.trade_off == 1.0
    assert policy_named("unranked", release_of_world, None).ranker is None
    assert set(ABLATIONS) >= {"popular", "two_tower_only", "unranked", "no_diversity", "full"}


def test_a_release_by_its_name_is_a_policy_and_an_unknown_name_is_refused(release_of_world, releases):
    assert policy_named(release_of_world.id, release_of_world, releases).id == release_of_world.id
    known = f"full, exploring, no_diversity, .*, or a release of .*: {release_of_world.id}"
    with pytest.raises(ExperimentError, match=f"policy 'best' is unknown, expected one of {known}"):
        policy_named("best", release_of_world, releases)


def test_interleaved_slates_have_videos_of_both_teams(release_of_world, simulation):
    policies = [policy_named(name, release_of_world, None) for name in ("full", "popular")]
    shown = run_arms("both", policies, simulation, None, seed=0)
    teams = shown.group_by("request").agg(pl.col("team").sum().alias("second"), pl.len())
    assert set(shown["team"].unique()) == {0, 1}
    assert ((teams["len"] - 2 * teams["second"]).abs() <= 2).mean() > 0.9  # in others one list had run out
    assert shown.group_by("request").agg(pl.col("video").n_unique() == pl.len())["video"].all()


def test_policies_side_by_side_answer_their_own_viewers_and_hear_of_all(release_of_world, simulation):
    policies = [policy_named(name, release_of_world, None) for name in ("full", "popular")]
    policy_of = everyone(simulation)
    policy_of[simulation.users[::2]] = 1
    with opened(policies, simulation) as recommenders:
        arm, audience = Arm(recommenders, simulation, policy_of, seed=0), simulation.audience()
        for visit, slate, outcomes in audience.live(simulation.start_ms, arm.show):
            arm.hear_of(visit, slate, outcomes)
        shown = pl.concat(arm.rows)
        assert shown["team"].to_list() == policy_of[shown["viewer"].to_numpy()].tolist()
        assert shown["team"].n_unique() == 2
        assert recommenders[0].store.position == recommenders[1].store.position
        assert np.array_equal(recommenders[0].store.videos, recommenders[1].store.videos)


def test_a_release_of_a_real_log_has_no_truth(release, simulation):
    with pytest.raises(ExperimentError, match=r"was not built from the log of this world.*known of a simulated log alone"):
        simulation.require(release)


@pytest.mark.parametrize("wrong", [{"days": 0, "viewers": 5}, {"days": 1, "viewers": 1}])
def test_a_simulation_of_nobody_or_no_time_is_refused(tiny_world, wrong):
    with pytest.raises(ExperimentError, match="expected at least 1 day and 2 viewers"):
        Simulation.of(tiny_world, loyalty=Loyalty(), **wrong)


def test_viewers_are_spread_over_the_world_and_bots_are_no_people(tiny_world):
    every = Simulation.of(tiny_world, loyalty=Loyalty(), days=1, viewers=None)
    assert every.users.tolist() == list(range(60))
    bots = tiny_world.viewers["bot"].sum()
    assert len(every.people(every.users)) == 60 - bots
    assert Simulation.of(tiny_world, loyalty=Loyalty(), days=1, viewers=4).users.tolist() == [0, 19, 39, 59]
