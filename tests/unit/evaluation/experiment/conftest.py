"""The tiny world of tests/conftest.py as an object, a release of random networks built from its log, and a simulation of it."""

import pytest

import small_release
from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.serving.release.release import Release, current
from watchnext.simulator.audience.loyalty import Loyalty
from watchnext.simulator.mechanisms import Mechanisms
from watchnext.simulator.world import World


@pytest.fixture(scope="session")
def tiny_world() -> World:
    return World(
        users=60, videos=150, creators=20, tags=10, days=4, impressions_per_user_day=13.0, seed=1,
        mechanisms=Mechanisms(baseline=-1.5),
    )  # fmt: skip


@pytest.fixture(scope="session")
def releases(world_folder, world_tables, once):
    """The folder of releases, with one."""
    built = world_folder, world_tables
    parts = small_release.exported(built, once, name="exported-world")
    return once("releases-world", lambda root: small_release.make_release(built, parts, root))


@pytest.fixture(scope="session")
def release_of_world(releases) -> Release:
    return Release.load(current(releases))


@pytest.fixture(scope="session")
def simulation(tiny_world) -> Simulation:
    return Simulation.of(tiny_world, loyalty=Loyalty(), days=2, viewers=30)
