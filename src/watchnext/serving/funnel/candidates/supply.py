"""Refill a slate from what the viewer has seen, in a stated order, where nothing unseen is left."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from watchnext.features.state.seen import SeenSet
from watchnext.reranking.rules.rule import RuleContext
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store
from watchnext.types import AGAIN, Candidates, Query


class Supply:
    """Refill a slate that is too short from what `SeenSet.again` returns, as far as the other rules allow."""

    def __init__(self, release: Release, store: Store) -> None:
        self._release, self._store = release, store

    def again(
        self, query: Query, seen: SeenSet, slate: np.ndarray, *, passing: Callable[[np.ndarray], np.ndarray]
    ) -> np.ndarray:
        """Return the rows (n,) that fill the places which the rows `slate` (K,) leave empty, first those that return first.

        `passing` keeps those of some rows that pass the request's filter.
        """
        known = np.concatenate([slate, query.excluded])
        rows = passing(seen.again(query.as_of_ms))
        rows = np.concatenate([slate, rows[~np.isin(rows, known)]])
        context = RuleContext.of(
            replace(query, seen=seen.resting(query.as_of_ms)),
            facts=self._store.catalogue,
            region_bits=self._store.catalogue.region_bits,
            unavailable=self._store.unavailable,
            continued=slate,
        )
        left = self._release.reranker_of(query.request.surface).allowed(rows, context)
        return left[~np.isin(left, slate)][: query.request.k - len(slate)]

    @staticmethod
    def refilled(
        query: Query, seen: SeenSet, candidates: Candidates, picked: np.ndarray, again: np.ndarray
    ) -> tuple[Query, Candidates]:
        """Return the candidates at `picked` (K,) with the rows `again` (n,), marked as such, and a query that lets all pass."""
        kept = candidates.take(picked)
        ranks = np.zeros((len(again), candidates.ranks.shape[1]), candidates.ranks.dtype)
        added = Candidates(again, np.full(len(again), 1 << AGAIN, np.uint16), np.zeros(len(again), np.float32), ranks)
        both = zip(vars(kept).values(), vars(added).values(), strict=True)
        return replace(query, seen=seen.resting(query.as_of_ms)), Candidates(*(np.concatenate(columns) for columns in both))
