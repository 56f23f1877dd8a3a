"""A candidate source keeps these promises, found through its quota in conf/retrieval and through the classes of its package."""

import inspect
import pkgutil
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import fields
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml

import watchnext.retrieval.sources
import watchnext.serving.http
from watchnext.serving.funnel.candidates.retrieval_stage import TwoTowerSource
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.types import SOURCES, Request

CONF = Path(__file__).resolve().parents[2] / "conf"
QUOTAS = yaml.safe_load((CONF / "retrieval" / "default.yaml").read_text())["quotas"]
SEARCHED = "two_tower"  # in the index, under the rules of re-ranking
HOUR_MS = 3_600_000
STRANGER = 999_999_999


@pytest.fixture(scope="module")
def recommender(release, tmp_path_factory):
    """The small release; half of its viewers left videos midway, and follow their creators."""
    folder = tmp_path_factory.mktemp("sources")
    with closing(Store.open(folder / "store", release, durable=False)) as store:
        for viewer in range(12):
            store.apply([midway(release, viewer, video) for video in range(6 * viewer, 6 * viewer + 6)])
        yield Recommender(release, store)


def midway(release, viewer: int, video: int) -> Event:
    watched = {"watch_ms": 5_000, "click": True, "follow": True}
    ids = {"user_id": release.user_ids.value(viewer), "video_id": release.video_ids.value(video)}
    return Event(kind="outcome", known_at=release.as_of_ms + video, **ids, **watched)


@pytest.fixture(scope="module")
def requests(release) -> list[Request]:
    """Every viewer and a stranger, in the middle of the uploads and after the last one."""
    uploads = np.sort(np.array(release.catalogue.upload_ms))
    times = [int(uploads[len(uploads) // 2]), release.as_of_ms + HOUR_MS]
    users = [*(release.user_ids.value(row) for row in range(len(release.user_ids.ids))), STRANGER]
    places = [("home", "de"), (None, None)]
    return [Request(f"{user}-{at}", user, 10, at, *places[i % 2]) for i, user in enumerate(users) for at in times]


@pytest.fixture(scope="module")
def queries(recommender, requests) -> list:
    return [recommender.query(request) for request in requests]


@pytest.fixture(params=QUOTAS)
def source(request, recommender):
    return recommender.retrieval.sources[request.param]


def bytes_of(query) -> list[bytes]:
    values = [getattr(query, field.name) for field in fields(query)]
    return [value.tobytes() for value in values if isinstance(value, np.ndarray)]


# ---- found ------------------------------------------------------------------------------------------------------------


def test_every_source_of_the_configuration_is_known_and_made(recommender):
    assert list(QUOTAS) == list(SOURCES)
    assert sorted(recommender.retrieval.sources) == sorted(QUOTAS)


def test_every_source_class_is_served(recommender):
    folder = watchnext.retrieval.sources
    modules = [import_module(f"{folder.__name__}.{found.name}") for found in pkgutil.iter_modules(folder.__path__)]
    classes = {one for module in modules for _, one in inspect.getmembers(module, inspect.isclass)
               if hasattr(one, "candidates") and not getattr(one, "_is_protocol", False)}  # fmt: skip
    assert classes | {TwoTowerSource} == {type(source) for source in recommender.retrieval.sources.values()}


# ---- each source alone ------------------------------------------------------------------------------------------------


def test_it_names_distinct_videos_of_the_catalogue_at_most_as_many_as_asked_for(source, queries, release):
    counts = []
    for query in queries:
        for k in (0, 1, 7, 10_000):
            rows = source.candidates(query, k)
            assert rows.dtype == np.int64
            assert len(rows) == len(set(rows.tolist())) <= k
            assert ((rows >= 0) & (rows < len(release.catalogue))).all()
            counts.append(len(rows))
    assert max(counts) > 1  # or nothing of this has been tested


def test_it_names_the_best_first(source, queries):
    """A shorter list is the beginning of a longer one."""
    for query in queries:
        whole = source.candidates(query, 10_000).tolist()
        for k in (1, 3, 20):
            assert source.candidates(query, k).tolist() == whole[:k]


def test_it_answers_the_same_to_the_same_query_in_any_order_and_from_any_thread(source, queries):
    expected = [source.candidates(query, 20).tolist() for query in queries]
    order = np.random.default_rng(0).permutation(np.repeat(np.arange(len(queries)), 4))
    with ThreadPoolExecutor(4) as threads:
        lists = list(threads.map(lambda i: source.candidates(queries[i], 20).tolist(), order))
    assert lists == [expected[i] for i in order]


def test_it_leaves_the_query_as_it_was(source, queries):
    for query in queries:
        before = bytes_of(query)
        source.candidates(query, 20)
        assert bytes_of(query) == before


# ---- as the recommender asks it ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lists(recommender, requests) -> list[dict[str, np.ndarray]]:
    return [dict(recommender.by_source(request)) for request in requests]


@pytest.mark.parametrize("name", QUOTAS)
def test_a_list_keeps_to_its_quota(name, recommender, lists):
    quota = recommender.release.retrieval["quotas"][name]
    lengths = [len(each[name]) for each in lists]
    assert 0 < max(lengths) <= quota


@pytest.mark.parametrize("name", QUOTAS)
def test_a_list_names_only_videos_that_the_viewer_may_get(name, recommender, queries, lists):
    """Uploaded by the time of the request and, except to go on watching, not seen; of the vector search, as the rules allow."""
    release, store = recommender.release, recommender.store
    for query, by_name in zip(queries, lists, strict=True):
        rows = by_name[name]
        assert not (release.catalogue.upload_ms[rows] > query.as_of_ms).any()
        if name != "continue":
            assert not np.isin(rows, query.seen).any()
        if name == SEARCHED:
            assert recommender.retrieval.sources[name].prefilter.of(query, unavailable=store.unavailable).of(rows).all()


@pytest.mark.parametrize("name", QUOTAS)
def test_a_stranger_is_answered(name, recommender, requests, lists):
    """A source of the viewer's past names nothing, any other one names something, and none fails: that would lack its list."""
    of_strangers = [by_name[name] for request, by_name in zip(requests, lists, strict=True) if request.user_id == STRANGER]
    past = {"related", "transitions", "followed", "continue"}
    assert [len(rows) > 0 for rows in of_strangers] == [name not in past] * len(of_strangers)


def test_the_page_has_words_for_every_source():
    script = (Path(watchnext.serving.http.__file__).parent / "page" / "elements.js").read_text()
    words = re.search(r"const SOURCES = \{(.*?)\};", script, re.DOTALL).group(1)
    assert set(re.findall(r"(\w+): \"", words)) == {*SOURCES, "again"}
