"""The recipes of every kind; that of Milvus with a server of these tests, skipped where it is not installed."""

from collections.abc import Callable, Iterator

import pytest
from benchmarks.index import MilvusLite
from index_data import RECIPES
from tests.unit.serving.bento_server import free_port

from watchnext.retrieval.index.milvus import VARIABLE


@pytest.fixture(scope="session")
def milvus_lite(tmp_path_factory) -> Callable[[], MilvusLite]:
    """Start a server of its own folder."""
    for name in ("pymilvus", "milvus_lite"):
        pytest.importorskip(name, reason=f"{name} is not installed; run `make test-milvus`")
    return lambda: MilvusLite(tmp_path_factory.mktemp("milvus"), free_port())


@pytest.fixture(scope="session")
def milvus(milvus_lite) -> Iterator[MilvusLite]:
    """The server that WATCHNEXT_MILVUS names."""
    with milvus_lite() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, server.url)
        yield server


@pytest.fixture(scope="module", params=RECIPES)
def kind(request) -> str:
    if request.param == "milvus":
        request.getfixturevalue("milvus")
    return request.param
