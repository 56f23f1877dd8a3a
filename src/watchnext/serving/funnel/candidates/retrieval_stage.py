"""Retrieval with one release: ask every source, leave out what cannot be shown, merge the lists."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from watchnext.retrieval.index.prefilter import PreFilter
from watchnext.retrieval.index.queries import best_of
from watchnext.retrieval.sources.co_watch import CoWatchSource
from watchnext.retrieval.sources.merge import fused, merge, ranks_in
from watchnext.retrieval.sources.popular import PopularSource, half_lives_of
from watchnext.retrieval.sources.source import (
    CandidateSource,
    ContinueSource,
    FollowedSource,
    FreshSource,
    RefreshedSource,
    distinct,
    eligible,
    interleaved,
)
from watchnext.retrieval.sources.trending import RANKED, TrendingSource
from watchnext.serving.funnel.answer import INDEX_FAILED, SOURCE_FAILED, SOURCES_LATE, Degradation
from watchnext.serving.funnel.candidates.rule_prefilter import RulePreFilter
from watchnext.serving.funnel.candidates.video_filter import VideoFilters
from watchnext.serving.release.release import CO_WATCH_SOURCES, REPAIR, Release, ReleaseError
from watchnext.serving.store.store import Store
from watchnext.types import SOURCES, Candidates, Query, VideoFilter

log = logging.getLogger(__name__)

FALLBACKS = ("trending", "fresh")  # lists that are at hand, whatever the time
BESIDE = ("two_tower", *CO_WATCH_SOURCES)  # sources that know what is beside a video


NO_ROWS = np.zeros(0, np.int64)
ROOM = 4  # the search of vectors asks for this part more, as copies are left out of what it finds


def never() -> bool:
    return False


class RetrievalStage:
    """Retrieve candidates from the sources of a release. Safe to call from any thread."""

    def __init__(self, release: Release, store: Store) -> None:
        self._release, self._upload_ms = release, store.catalogue.upload_ms
        self._store, self.sources = store, sources_of(release, store)

    def refresh(self, as_of_ms: float) -> None:
        """Rank the whole catalogue for the sources that do so now and then, before requests would."""
        for source in self.sources.values():
            if isinstance(source, RefreshedSource):
                source.refresh(as_of_ms)

    def embedded(self, queries: Sequence[Query]) -> Sequence[Query]:
        """Return queries with their vectors, computed in one call; unchanged if it fails, so that each search says so."""
        try:
            return self.sources["two_tower"].embedded(queries)
        except Exception:
            log.exception("the vectors of %d viewers are computed one by one", len(queries))
            return queries

    def retrieve(
        self, query: Query, degradations: list[Degradation], k: int | None = None, *, late: Callable[[], bool] = never
    ) -> Candidates:
        """Merge the lists of all sources; with `k`, each has up to `k` videos instead of its quota, and `k` are kept."""
        return self.retrieve_all([query], [degradations], k, late=late)[0]

    def retrieve_all(
        self,
        queries: Sequence[Query],
        degradations: Sequence[list[Degradation]],
        k: int | None = None,
        *,
        late: Callable[[], bool] = never,
    ) -> list[Candidates]:
        """Return `retrieve` of several queries, whose degradations are lists of their own."""
        lists = self._by_source(queries, degradations, k, late)
        return [self.merged(query, own, k) for query, own in zip(queries, lists, strict=True)]

    def merged(self, query: Query, lists: Mapping[str, np.ndarray], k: int | None = None) -> Candidates:
        """Merge source > rows (n,) with the settings of the query's surface; `k` as in `retrieve`."""
        settings = self._of(query)["merge"]
        return merge(lists, **(settings if k is None else {**settings, "most": k}))

    def _of(self, query: Query) -> Mapping:
        return self._release.retrieval_of(query.request.surface)

    def given(
        self, query: Query, rows: np.ndarray, degradations: list[Degradation], *, late: Callable[[], bool] = never
    ) -> Candidates:
        """Return the distinct videos `rows` (C,) as candidates with their ranks in the lists of all sources.

        A video that no source lists scores as much as the last candidate of `retrieve`, the least that the merge can tell.
        """
        listed, ranks = ranks_in(self.by_source(query, degradations, late=late))
        known, own = np.isin(rows, listed), np.zeros((len(rows), ranks.shape[1]), ranks.dtype)
        own[known] = ranks[np.searchsorted(listed, rows[known])]
        settings = self._of(query)["merge"]
        least = fused(listed, ranks, **settings).scores.min(initial=np.inf)
        candidates = fused(rows, own, **{**settings, "most": len(rows)})
        return replace(candidates, scores=np.maximum(candidates.scores, least)) if np.isfinite(least) else candidates

    def similar(self, query: Query, row: int, k: int) -> Candidates:
        """Return at most `k` videos near `row` in the index or watched by the same viewers, without copies, as a list may have.

        Both lists count alike: the weights of the sources are those for a viewer. The query must exclude `row`.
        """
        towers, related = self.sources["two_tower"], self.sources["related"]
        lists = {"two_tower": towers.beside(row, query, 2 * k)}
        neighbours = related.beside(row, query, len(self._store.catalogue))
        lists["related"] = neighbours[towers.allowed(query).of(neighbours)]
        found = merge(lists, weights=dict.fromkeys(lists, 1.0), constant=self._of(query)["merge"]["constant"], most=3 * k)
        kept = towers.prefilter.without_copies(np.append(row, found.rows))[1:] - 1
        kept = kept[self.may_be_shown(query.region, query.age, found.rows[kept])][:k]
        return Candidates(found.rows[kept], found.sources[kept], found.scores[kept])

    def trending(self, query: Query, k: int) -> np.ndarray:
        """Return at most `k` rows that trend on the query's surface and in its region, best first, without copies; one list
        may have them."""
        towers = self.sources["two_tower"]
        rows = self.sources["trending"].candidates(query, RANKED)
        rows = rows[towers.allowed(query).of(rows)]
        rows = rows[towers.prefilter.without_copies(rows)]
        return rows[self.may_be_shown(query.region, query.age, rows)][:k]

    def may_be_shown(self, region: str | None, age: str | None, rows: np.ndarray) -> np.ndarray:
        """Return `RulePreFilter.in_one_slate` of `rows` (n,)."""
        return self.sources["two_tower"].prefilter.in_one_slate(region, age, rows)

    def by_source(
        self, query: Query, degradations: list[Degradation], k: int | None = None, *, late: Callable[[], bool] = never
    ) -> dict[str, np.ndarray]:
        """Return source > rows (n,), best first, without videos that are excluded, seen (except for `continue`), not uploaded
        yet, or not in the request's filter.

        A source that fails is left out, and named in `degradations`; when it is `late`, only FALLBACKS are asked. Raises
        FieldError for a filter by what the videos of the release do not have.
        """
        return self._by_source([query], [degradations], k, late)[0]

    def _by_source(
        self, queries: Sequence[Query], degradations: Sequence[list[Degradation]], k: int | None, late: Callable[[], bool]
    ) -> list[dict[str, np.ndarray]]:
        """Return `by_source` of several queries; a source is asked for all before the next one."""
        lists: list[dict[str, np.ndarray]] = [{} for _ in queries]
        allowed, quotas = [self._filter(query) for query in queries], [self._of(query)["quotas"] for query in queries]
        for name in self._release.retrieval["quotas"]:
            skipped = name not in FALLBACKS and late()
            for query, found, own, kept, most in zip(queries, degradations, lists, allowed, quotas, strict=True):
                if skipped:
                    found += [] if SOURCES_LATE in found else [SOURCES_LATE]
                    continue
                try:
                    own[name] = self._left(name, query, most[name] if k is None else k, kept)
                except Exception:
                    log.exception("request %s is answered without the source %s", query.request.request_id, name)
                    found.append(_failed(name))
        return [
            own if kept is None else self._filled(query, own, kept)
            for query, own, kept in zip(queries, lists, allowed, strict=True)
        ]

    def _filter(self, query: Query) -> PreFilter | None:
        """Return the videos of the request's filter, as far as the rules let the query have them; None without a filter."""
        return None if query.request.filter == VideoFilter() else self.sources["two_tower"].allowed(query)

    def passing(self, query: Query, rows: np.ndarray) -> np.ndarray:
        """Return those of `rows` (n,) that pass the request's filter."""
        allowed = self._filter(query)
        return rows if allowed is None else rows[allowed.static_mask.mask[rows]]

    def in_filter(self, query: Query, rows: np.ndarray) -> np.ndarray:
        """Return a mask (n,) of `rows` that the request's filter lets through, whatever the rules do."""
        return self.sources["two_tower"].filters.mask(rows, query.request.filter)

    def _left(self, name: str, query: Query, most: int, allowed: PreFilter | None) -> np.ndarray:
        """Return the first `most` videos of a source that are left; it is asked for more until these are enough.

        The search of vectors leaves out itself what is hidden or filtered.
        """
        hidden, limit = query.hidden if name != "continue" else query.excluded, most
        if name != "two_tower":
            limit = len(hidden) + (most if allowed is None else max(most, RANKED))
        wanted = min(2 * most, limit)
        while True:
            rows = self._proposed(name, query, wanted)
            passed = rows if allowed is None else rows[allowed.static_mask.mask[rows]]
            left = eligible(passed, most, hidden=hidden, upload_ms=self._upload_ms, as_of_ms=query.as_of_ms)
            if len(left) == most or len(rows) < wanted or wanted == limit:
                return left
            wanted = min(2 * wanted, limit)

    def _proposed(self, name: str, query: Query, k: int) -> np.ndarray:
        source, seed = self.sources[name], query.request.seed
        rows = source.candidates(query, k)
        return interleaved(source.beside(seed, query, k), rows) if seed is not None and name in BESIDE else rows

    def _filled(self, query: Query, lists: dict[str, np.ndarray], allowed: PreFilter) -> dict[str, np.ndarray]:
        """Let the newest of the allowed videos join those of `fresh`, where all sources together know too few."""
        most = self._of(query)["merge"]["most"]
        if len(np.unique(np.concatenate([NO_ROWS, *lists.values()]))) < most:
            rows = np.flatnonzero(allowed.static_mask.mask)
            rows = rows[allowed.of(rows)]
            newest = rows[np.argsort(-self._upload_ms[rows], kind="stable")]  # nan, an unknown time, comes last
            lists["fresh"] = distinct(np.concatenate([lists.get("fresh", NO_ROWS), newest]))[:most]
        return lists


def _failed(source: str) -> Degradation:
    return INDEX_FAILED if source == "two_tower" else SOURCE_FAILED._replace(text=SOURCE_FAILED.text.format(name=source))


class TwoTowerSource:
    """Propose the videos nearest to any of the viewer's query vectors, pre-filtered; of copies, the nearest."""

    def __init__(self, release: Release, store: Store) -> None:
        catalogue = store.catalogue
        self._query_tower, self._index, self._store = release.query_tower, catalogue.index, store
        self.filters = VideoFilters(catalogue)
        self.prefilter = RulePreFilter(
            release.reranker.rules, catalogue, catalogue.region_bits, changes=lambda: catalogue.changes
        )

    def candidates(self, query: Query, k: int) -> np.ndarray:
        return self.nearest(query, k)[0]

    def nearest(self, query: Query, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return at most `k` rows and their scores, best first."""
        vectors = self._query_tower(query.inputs) if query.vectors is None else query.vectors
        return self.search(vectors, query, k)

    def embedded(self, queries: Sequence[Query]) -> list[Query]:
        """Return the queries with their vectors, computed in one call."""
        inputs = {name: np.concatenate([each.inputs[name] for each in queries]) for name in self._query_tower.inputs}
        vectors = self._query_tower(inputs)
        return [replace(query, vectors=own) for query, own in zip(queries, np.split(vectors, len(queries)), strict=True)]

    def refresh(self, as_of_ms: float) -> None:
        """Mark anew what is uploaded, and let the index pack it."""
        self._index.search(np.zeros((1, self._index.dimension), np.float32), 1, self.prefilter.refresh(as_of_ms))

    def vector(self, row: int) -> np.ndarray:
        """Return the vector of a video (1, D), or (0, D) for one without."""
        return self._index.vector(row)

    def beside(self, row: int, query: Query, k: int) -> np.ndarray:
        """Return at most `k` rows near a video."""
        return self.search(self.vector(row), query, k)[0]

    def allowed(self, query: Query) -> PreFilter:
        """Return the videos that the rules and the request's filter let a query have."""
        allowed, wanted = self.prefilter.of(query, unavailable=self._store.unavailable), query.request.filter
        if wanted == VideoFilter():
            return allowed
        return replace(allowed, static_mask=self.filters.within(allowed.static_mask, wanted))

    def search(self, vectors: np.ndarray, query: Query, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return at most `k` rows near any of `vectors` (Q, D), and their scores, best first."""
        if k == 0 or not vectors.any():  # a zero vector is near no video
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        allowed = self.allowed(query)
        wanted = k + k // ROOM
        while True:
            rows, scores = best_of(*self._index.search(vectors, wanted, allowed))
            kept = self.prefilter.without_copies(rows)[:k]
            if len(kept) == k or len(rows) < wanted:
                return rows[kept], scores[kept]
            wanted *= 2  # copies were excluded: search deeper


def sources_of(release: Release, store: Store) -> dict[str, CandidateSource]:
    """Return source name > source. Raises ReleaseError for an unknown source, or one without a quota or a weight."""
    settings, catalogue = release.retrieval, store.catalogue
    quotas, weights = settings["quotas"].keys(), settings["merge"]["weights"].keys()
    if wrong := sorted((quotas ^ weights) | (quotas - {*SOURCES})):
        raise ReleaseError(
            f"{release.folder}: sources {', '.join(wrong)} are unknown, or lack a quota or a weight; expected some of "
            f"{', '.join(SOURCES)}, each with both; fix conf/retrieval and run `{REPAIR}`"
        )
    upload = {"upload_ms": catalogue.upload_ms, "changes": lambda: catalogue.changes}
    trending = {name: settings["trending"][name] for name in ("prior", "refresh_s")}
    followed = {name: settings["followed"][name] for name in ("creators", "per_creator")}
    state = release.pipeline.schema.state
    counted = {"videos": lambda: store.videos, "state": state}
    return {
        "two_tower": TwoTowerSource(release, store),
        "trending": TrendingSource(trending=store.trending.counts, **trending),
        "fresh": FreshSource(**upload, **settings["fresh"], **counted),
        "followed": FollowedSource(creator_rows=catalogue.creator_rows, **upload, **followed),
        "continue": ContinueSource(duration_ms=catalogue.duration_ms, **settings["continue"]),
        **{name: CoWatchSource(edges=release.co_watches[name], **settings[name]["walk"]) for name in CO_WATCH_SOURCES},
        **{
            name: PopularSource(half_life_h=hours, **settings["popular"], **counted)
            for name, hours in half_lives_of(state).items()
        },
    }
