"""The recipes of every kind; that of Milvus with a server of these tests, skipped where it is not installed."""

from collections.abc import Iterator

import pytest
from index_data import RECIPES
from tests.milvus_server import MilvusServer

from watchnext.retrieval.index.milvus import VARIABLE


@pytest.fixture(scope="session")
def milvus(tmp_path_factory) -> Iterator[MilvusServer]:
    """The server that WATCHNEXT_MILVUS names."""
    with MilvusServer(tmp_path_factory.mktemp("milvus")) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, server.url)
        yield server


@pytest.fixture(scope="module", params=RECIPES)
def kind(request) -> str:
    if request.param == "milvus":
        request.getfixturevalue("milvus")
    return request.param
