"""Retrieval with one release: ask every source, leave out what cannot be shown, merge the lists."""

import logging
from collections.abc import Mapping
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
    eligible,
)
from watchnext.retrieval.sources.trending import RANKED, TrendingSource
from watchnext.serving.funnel.answer import INDEX_FAILED, SOURCE_FAILED, Degradation
from watchnext.serving.funnel.rule_prefilter import RulePreFilter
from watchnext.serving.release.release import CO_WATCH_SOURCES, REPAIR, Release, ReleaseError
from watchnext.serving.store.store import Store
from watchnext.types import SOURCES, Candidates, Query

log = logging.getLogger(__name__)


class RetrievalStage:
    """Retrieve candidates from the sources of a release. Safe to call from any thread."""

    def __init__(self, release: Release, store: Store) -> None:
        self._settings, self._upload_ms = release.retrieval, store.catalogue.upload_ms
        self._store, self.sources = store, sources_of(release, store)

    def refresh(self, as_of_ms: float) -> None:
        """Rank the whole catalogue for the sources that do so now and then, before requests would."""
        for source in self.sources.values():
            if isinstance(source, RefreshedSource):
                source.refresh(as_of_ms)

    def retrieve(self, query: Query, degradations: list[Degradation], k: int | None = None) -> Candidates:
        """Merge the lists of all sources; with `k`, each has up to `k` videos instead of its quota, and `k` are kept."""
        return self.merged(self.by_source(query, degradations, k), k)

    def merged(self, lists: Mapping[str, np.ndarray], k: int | None = None) -> Candidates:
        """Merge source > rows (n,); `k` as in `retrieve`."""
        settings = self._settings["merge"]
        return merge(lists, **(settings if k is None else {**settings, "most": k}))

    def given(self, query: Query, rows: np.ndarray, degradations: list[Degradation]) -> Candidates:
        """Return the distinct videos `rows` (C,) as candidates with their ranks in the lists of all sources.

        A video that no source lists scores as much as the last candidate of `retrieve`, the least that the merge can tell.
        """
        listed, ranks = ranks_in(self.by_source(query, degradations))
        known, own = np.isin(rows, listed), np.zeros((len(rows), ranks.shape[1]), ranks.dtype)
        own[known] = ranks[np.searchsorted(listed, rows[known])]
        settings = self._settings["merge"]
        least = fused(listed, ranks, **settings).scores.min(initial=np.inf)
        candidates = fused(rows, own, **{**settings, "most": len(rows)})
        return replace(candidates, scores=np.maximum(candidates.scores, least)) if np.isfinite(least) else candidates

    def similar(self, query: Query, row: int, k: int) -> Candidates:
        """Return at most `k` videos near `row` in the index or watched by the same viewers, without copies.

        Both lists count alike: the weights of the sources are those for a viewer. The query must exclude `row`.
        """
        towers, related = self.sources["two_tower"], self.sources["related"]
        lists = {"two_tower": towers.search(towers.vector(row), query, 2 * k)[0]}
        neighbours = related.neighbours(np.array([row]), len(self._store.catalogue))
        lists["related"] = neighbours[towers.allowed(query).of(neighbours)]
        found = merge(lists, weights=dict.fromkeys(lists, 1.0), constant=self._settings["merge"]["constant"], most=3 * k)
        kept = towers.prefilter.without_copies(np.append(row, found.rows))[1 : k + 1] - 1
        return Candidates(found.rows[kept], found.sources[kept], found.scores[kept])

    def trending(self, query: Query, k: int) -> np.ndarray:
        """Return at most `k` rows that trend on the query's surface and in its region, best first, without copies."""
        towers = self.sources["two_tower"]
        rows = self.sources["trending"].candidates(query, RANKED)
        rows = rows[towers.allowed(query).of(rows)]
        return rows[towers.prefilter.without_copies(rows)[:k]]

    def may_be_shown(self, region: str | None, rows: np.ndarray) -> np.ndarray:
        """Return a mask (n,) of `rows` that pass the rules that hold for everyone in a region."""
        return self.sources["two_tower"].prefilter.static_mask(region).mask[rows]

    def by_source(self, query: Query, degradations: list[Degradation], k: int | None = None) -> dict[str, np.ndarray]:
        """Return source > rows (n,), best first, without videos that are excluded, seen (except for `continue`) or not uploaded
        yet.

        A source that fails is left out, and named in `degradations`.
        """
        lists = {}
        for name, quota in self._settings["quotas"].items():
            most = quota if k is None else k
            hidden = query.hidden if name != "continue" else query.excluded
            hides = 0 if name == "two_tower" else len(hidden)  # the search of vectors leaves these out itself
            try:
                lists[name] = self._left(name, query, most, hidden, most + hides)
            except Exception:
                log.exception("request %s is answered without the source %s", query.request.request_id, name)
                degradations.append(_failed(name))
        return lists

    def _left(self, name: str, query: Query, most: int, hidden: np.ndarray, limit: int) -> np.ndarray:
        """Return the first `most` videos of a source without the `hidden`; it is asked for more until it has given `limit`."""
        wanted = min(2 * most, limit)
        while True:
            rows = self.sources[name].candidates(query, wanted)
            left = eligible(rows, most, hidden=hidden, upload_ms=self._upload_ms, as_of_ms=query.as_of_ms)
            if len(left) == most or len(rows) < wanted or wanted == limit:
                return left
            wanted = min(2 * wanted, limit)


def _failed(source: str) -> Degradation:
    return INDEX_FAILED if source == "two_tower" else SOURCE_FAILED._replace(text=SOURCE_FAILED.text.format(name=source))


class TwoTowerSource:
    """Propose the videos nearest to any of the viewer's query vectors, pre-filtered; of copies, the nearest."""

    def __init__(self, release: Release, store: Store) -> None:
        catalogue = store.catalogue
        self._query_tower, self._index, self._store = release.query_tower, catalogue.index, store
        self.prefilter = RulePreFilter(
            release.reranker.rules, catalogue, catalogue.region_bits, changes=lambda: catalogue.changes
        )

    def candidates(self, query: Query, k: int) -> np.ndarray:
        return self.nearest(query, k)[0]

    def nearest(self, query: Query, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return at most `k` rows and their scores, best first."""
        return self.search(self._query_tower(query.inputs), query, k)

    def refresh(self, as_of_ms: float) -> None:
        """Mark anew what is uploaded, and let the index pack it."""
        self._index.search(np.zeros((1, self._index.dimension), np.float32), 1, self.prefilter.refresh(as_of_ms))

    def vector(self, row: int) -> np.ndarray:
        """Return the vector of a video (1, D), or (0, D) for one without."""
        return self._index.vector(row)

    def allowed(self, query: Query) -> PreFilter:
        """Return the videos that the rules let a query have."""
        return self.prefilter.of(query, unavailable=self._store.unavailable)

    def search(self, vectors: np.ndarray, query: Query, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Return at most `k` rows near any of `vectors` (Q, D), and their scores, best first."""
        if k == 0 or not vectors.any():  # a zero vector is near no video
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        allowed = self.allowed(query)
        wanted = k
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
