"""One tiny simulated platform through the real feature stage, for everything that needs model inputs."""

import os
import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # models this small win nothing by a second thread, and every core has tests
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported, here by programs.py

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, settings

CONF = Path(__file__).resolve().parents[1] / "conf"
PLACES = ("system", "contracts", "serving", "faults", "ranking")  # folders whose tests are slow, in the order they run in
PROJECT = ("test_pipeline.py", "test_every_benchmark.py")  # files whose tests run in the one small project
APART = ("test_layouts.py",)  # files whose tests share nothing

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
    if reporter := session.config.pluginmanager.get_plugin("terminalreporter"):  # workers of xdist have none
        reporter.write_line(
            f"seed {seed} of random, numpy and torch before every fixture and test (--seed N); "
            f"hypothesis profile {profile} (--hypothesis-profile explore draws new examples every time)"
        )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The slowest first, so that no worker is left with one of them at the end."""
    items.sort(key=lambda item: PLACES.index(item.path.parent.name) if item.path.parent.name in PLACES else len(PLACES))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With `-n`, the tests of a file run on one worker, which makes what they share once."""
    from xdist.scheduler import LoadScopeScheduling

    class Files(LoadScopeScheduling):
        # xdist's own `--dist loadgroup` writes groups into node ids, which pytest 9.2 does not take.
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            name = file.rpartition("/")[2]
            return "project" if name in PROJECT else nodeid if name in APART else file

    config.option.loadscopereorder = False  # it would put files of many tests first
    return Files(config, log)


def _seed(config: pytest.Config) -> None:
    """Let what a test draws depend on no test before it. torch is not imported for those that do without."""
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
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """(name, make) > a folder of that name which `make` filled, in one worker for all."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def once(name: str, make: Callable[[Path], None]) -> Path:
        folder, made = root / f"once-{name}", root / f"once-{name}.made"
        with FileLock(f"{folder}.lock"):
            if not made.exists():
                shutil.rmtree(folder, ignore_errors=True)  # what a worker that failed has left
                folder.mkdir()
                make(folder)
                made.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def empty_store(once) -> Path:
    """An MLflow store with tables and nothing in them, to copy: migrating takes seconds."""

    def migrate(folder: Path) -> None:
        from watchnext import tracking

        with tracking.store(f"sqlite:///{folder}/mlflow.db"):
            pass

    return once("store", migrate) / "mlflow.db"


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
def world_one_by_one(world_tables):
    """The same log as of an app that asks for one video at a time: the videos of a slate follow each other by 20 s."""
    import polars as pl

    from watchnext.data.tables import Tables, in_order

    later = pl.col("time_ms") + 20_000 * pl.col("position").cast(pl.Int64)
    day_end = (pl.col("day").cast(pl.Int64) + 1) * 86_400_000 - 1
    alone = world_tables.impressions.with_columns(
        time_ms=pl.min_horizontal(later, pl.max_horizontal("time_ms", day_end)), request_id=pl.int_range(pl.len())
    )
    return Tables(in_order(alone), world_tables.users, world_tables.videos)


@pytest.fixture(scope="session")
def world_split(world_tables):
    from watchnext.data.splits import TimeSplit

    return TimeSplit(valid_days=1, test_days=1).assign(world_tables.impressions["day"])


@pytest.fixture(scope="session")
def world_folder(feature_stage, world_schema, world_tables, once) -> Path:
    """Their features, as the stage writes them, with the tables beside them."""
    from watchnext.data.splits import TimeSplit

    split = TimeSplit(valid_days=1, test_days=1)
    return once("world", lambda folder: feature_stage(world_schema, world_tables, split, folder, min_count=2)) / "features"


@pytest.fixture(scope="session")
def world_features(world_folder):
    from watchnext.features.dataset.batches import FeatureSet

    return FeatureSet.load(world_folder)


@pytest.fixture(scope="session")
def release(feature_stage, once):
    """One small real release: random tables, random networks."""
    from small_release import released

    return released(feature_stage, once)


@pytest.fixture(scope="session")
def funnel():
    """watched, long_view (all, unless given), ends (index into LOST_AT) and any other field > FunnelTrace; what is not given is
    empty, new and unknown."""
    import numpy as np

    from watchnext.evaluation.replay.funnel_trace import FunnelTrace
    from watchnext.evaluation.replay.rule_check import Broken
    from watchnext.serving.funnel.explanation.trace import VideoTraces
    from watchnext.types import SOURCES

    def made(watched, long_view=None, ends=None, **fields) -> FunnelTrace:
        watched = np.array(watched, np.int64)
        none, unlisted = np.zeros(len(watched), np.int64), np.zeros((len(watched), len(SOURCES)), np.int64)
        ways = VideoTraces(none if ends is None else np.array(ends), none - 1, none, none, [None] * len(watched))
        empty = {"user_id": 1, "as_of_ms": 0, "surface": None, "watches": 0, "age_h": np.zeros(len(watched)), "ways": ways}
        empty |= {"listed": unlisted, "proposed": unlisted > 0}
        long_view = np.ones(len(watched), bool) if long_view is None else np.array(long_view, bool)
        parts = {"merged": watched[:0], "rules": Broken({}, {}), "stages": {}, "sources": {}, "baselines": {}}
        return FunnelTrace(**{"watched": watched, "long_view": long_view, **empty, **parts, **fields})

    return made


@pytest.fixture(scope="session")
def project(empty_store, tmp_path_factory) -> Path:
    """A small project after one run of the pipeline, every stage in its own process. Tests of PROJECT alone take it, as one of
    them changes what it serves."""
    from tiny_project import built

    return built(tmp_path_factory.mktemp("project"), empty_store)


@pytest.fixture(scope="module")
def one_thread():
    """Train small networks on one thread: they lose by a second one, and much where other programs run."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
