"""The parts of the small release (tests/small_release.py), and a store for it."""

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
def store(release, tmp_path):
    store = Store.open(tmp_path / "store", release, durable=False)
    yield store
    store.close()
