"""The parts of the small release (tests/small_release.py), and a store for it."""

import resource
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

import small_release
from watchnext.data.tables import Tables
from watchnext.serving.store.store import Store


@pytest.fixture(scope="session")
def built(feature_stage, once) -> tuple[Path, Tables]:
    """The feature stage's folder, and the tables it was built from."""
    return small_release.small_log(feature_stage, once)


@pytest.fixture(scope="session")
def exported(built, once) -> Path:
    return small_release.exported(built, once)


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
