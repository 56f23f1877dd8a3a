"""The parts of the small release (tests/small_release.py), and a store for it."""

import resource
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
from api import Api, app_over

import small_release
from watchnext.data.tables import Tables
from watchnext.features.catalogue import Ids
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import ServedLog
from watchnext.serving.store.store import Store


@pytest.fixture(scope="session")
def built(feature_stage, once) -> tuple[Path, Tables]:
    """The feature stage's folder, and the tables it was built from."""
    return small_release.small_log(feature_stage, once)


@pytest.fixture(scope="session")
def exported(built, once) -> Path:
    return small_release.exported(built, once)


@pytest.fixture(scope="session")
def another_catalogue(feature_stage, once) -> tuple[tuple[Path, Tables], Path]:
    """`built` and `exported` of a log with fewer videos."""
    built = small_release.small_log(feature_stage, once, name="built-fewer", videos=100)
    return built, small_release.exported(built, once, name="exported-fewer")


@pytest.fixture
def disk_full() -> Callable[[], AbstractContextManager]:
    """While it is entered, no file can be written beyond its first page."""

    @contextmanager
    def limited():
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


@pytest.fixture
def store(release, tmp_path):
    store = Store.open(tmp_path / "store", release, durable=False)
    yield store
    store.close()


@pytest.fixture
def served(tmp_path):
    log = ServedLog(tmp_path / "served", max_bytes=1 << 24, flush_rows=1)
    yield log
    log.close()
    assert log.failed == 0  # every answer can be logged


@pytest.fixture
def api(release, store, served):
    app = app_over(Recommender(release, store), store, served, timeout_s=20.0)
    yield Api(app)
    app.state.close()


@pytest.fixture
def of_strings(release, tmp_path, served):
    """The same where viewers' ids are strings."""
    strings = replace(release, user_ids=Ids.of(pl.Series([str(one) for one in release.user_ids.ids])))
    with closing(Store.open(tmp_path / "strings", strings, durable=False)) as store:
        app = app_over(Recommender(strings, store), store, served, timeout_s=20.0)
        yield Api(app)
        app.state.close()


@pytest.fixture
def viewer(release) -> int:
    return release.user_ids.value(0)
