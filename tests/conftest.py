"""One tiny simulated platform through the real feature stage, for everything that needs model inputs."""

import os
import random
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import pytest
from hypothesis import HealthCheck, settings

CONF = Path(__file__).resolve().parents[1] / "conf"

# Slow is not wrong: neither an example nor drawing it has a limit of time.
UNTIMED = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("repeatable", derandomize=True, **UNTIMED)
settings.register_profile("explore", **UNTIMED)
settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="of random, numpy and torch, set before every fixture and every test")


@pytest.hookimpl(trylast=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Not a header: -q hides it."""
    seed, profile = session.config.getoption("--seed"), session.config.getoption("--hypothesis-profile") or "repeatable"
    session.config.pluginmanager.get_plugin("terminalreporter").write_line(
        f"seed {seed} of random, numpy and torch before every fixture and test (--seed N); "
        f"hypothesis profile {profile} (--hypothesis-profile explore draws new examples every time)"
    )


def _seed(config: pytest.Config) -> None:
    """What a test draws depends on no test before it. torch is not imported for those that do without."""
    seed = config.getoption("--seed")
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


@pytest.hookimpl(tryfirst=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef, request: pytest.FixtureRequest) -> None:
    _seed(request.config)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> None:
    _seed(pyfuncitem.config)


@pytest.fixture(scope="session")
def feature_stage():
    """Tables through the feature stage: (schema, tables, split, folder) > what it wrote, in `folder`/features."""
    from watchnext.data.storage import StoredTables, write_tables
    from watchnext.features.dataset.batches import FeatureSet
    from watchnext.features.dataset.build import FeatureBuilder
    from watchnext.features.dataset.labels import Labels

    def through(schema, tables, split, folder: Path, *, min_count: int = 1) -> FeatureSet:
        write_tables(tables, folder / "tables")
        builder = FeatureBuilder(schema=schema, labels=Labels(), utc_offset_h=0, regime="streaming", min_count=min_count)
        builder.build(StoredTables.open(folder / "tables"), split, folder / "features")
        return FeatureSet.load(folder / "features")

    return through


@pytest.fixture(scope="session")
def world_schema():
    from watchnext.schema import FeatureSchema

    return FeatureSchema.load(CONF / "features" / "world.yaml")


@pytest.fixture(scope="session")
def world_tables(world_schema):
    """Validated tables of 60 users, 150 videos and four days, about 3,000 impressions."""
    from watchnext.data.validation import validate
    from watchnext.simulator.mechanisms import Mechanisms
    from watchnext.simulator.world import World

    easily_pleased = Mechanisms(baseline=-1.5)  # so few videos hold little that is good
    world = World(
        users=60, videos=150, creators=20, tags=10, days=4, impressions_per_user_day=13.0, seed=1, mechanisms=easily_pleased
    )
    return validate(world.log(), world_schema).tables


@pytest.fixture(scope="session")
def world_split(world_tables):
    from watchnext.data.splits import TimeSplit

    return TimeSplit(valid_days=1, test_days=1).assign(world_tables.impressions["day"])


@pytest.fixture(scope="session")
def world_folder(feature_stage, world_schema, world_tables, tmp_path_factory) -> Path:
    """What the feature stage writes for them, with the tables beside it."""
    from watchnext.data.splits import TimeSplit

    folder = tmp_path_factory.mktemp("world")
    return feature_stage(world_schema, world_tables, TimeSplit(valid_days=1, test_days=1), folder, min_count=2).folder


@pytest.fixture(scope="session")
def world_features(world_folder):
    from watchnext.features.dataset.batches import FeatureSet

    return FeatureSet.load(world_folder)


@pytest.fixture(scope="session")
def funnel():
    """watched, long_view (all, unless given) and any other field > Funnel; what is not given is empty, new and unknown."""
    import numpy as np

    from watchnext.evaluation.funnel_trace import FunnelTrace

    def made(watched, long_view=None, **fields) -> FunnelTrace:
        watched = np.array(watched, np.int64)
        empty = {"user_id": 1, "watches": 0, "age_h": np.zeros(len(watched)), "lost_at": np.zeros(len(watched), np.int64)}
        long_view = np.ones(len(watched), bool) if long_view is None else np.array(long_view, bool)
        parts = {"merged": watched[:0], "stages": {}, "sources": {}, "baselines": {}}
        return FunnelTrace(**{"watched": watched, "long_view": long_view, **empty, **parts, **fields})

    return made


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """A small project after one run of the pipeline, every stage in its own process."""
    from tiny_project import built

    return built(tmp_path_factory.mktemp("project"))
