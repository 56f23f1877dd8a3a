"""Ranking with one release: encode the candidates of a query, and predict what the viewer would do with each."""

import logging
from collections.abc import Mapping

import numpy as np

from watchnext.ranking.models.trees.engage import evidence
from watchnext.serving.funnel.answer import RANKER_FAILED, RANKER_LATE, Degradation
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store
from watchnext.types import TARGETS, Candidates, Query, Scored

log = logging.getLogger(__name__)


class RankingStage:
    """Score candidates by the ranker of a release. Safe to call from any thread."""

    def __init__(self, release: Release, store: Store) -> None:
        self._release, self._store, self._catalogue = release, store, store.catalogue

    def encode(self, query: Query, rows: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return the inputs of the videos `rows` (C,) for the viewer, and the counters (C, 4, block) among them."""
        counters = self._store.counters(query.state, rows, query.as_of_ms)
        values = self._release.pipeline.candidates(
            self._catalogue.upload_ms[rows], np.full(len(rows), query.as_of_ms), counters
        )
        return {name: values[rows] for name, values in self._catalogue.inputs.items()} | {"candidate_values": values}, counters

    def predict(self, query: Query, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Return predictions (C, T) for encoded candidates; nan without a ranker."""
        if self._release.ranker is None or not len(inputs["candidate_values"]):  # a network may not accept zero rows
            return _unknown(len(inputs["candidate_values"]))
        return self._release.calibration(self._release.ranker({**query.inputs, **inputs}))

    def rank(
        self,
        query: Query,
        candidates: Candidates,
        inputs: Mapping[str, np.ndarray],
        degradations: list[Degradation],
        *,
        late: bool,
    ) -> Scored:
        """Return the candidates with their predictions; where it is too late or the ranker fails, all nan and a degradation."""
        predictions, engage = _unknown(len(candidates)), None
        if self._release.ranker is None:
            return Scored(candidates, predictions)
        if late:
            degradations.append(RANKER_LATE)
            return Scored(candidates, predictions)
        try:
            predictions = self.predict(query, inputs)
            engage = self._engage(candidates, inputs["candidate_values"], predictions)
        except Exception:
            log.exception("request %s is answered in retrieval order", query.request.request_id)
            predictions = _unknown(len(candidates))
        if len(candidates) and not np.isfinite(predictions).any():
            degradations.append(RANKER_FAILED)
        return Scored(candidates, predictions, engage)

    def _engage(self, candidates: Candidates, values: np.ndarray, predictions: np.ndarray) -> np.ndarray | None:
        engage = self._release.engage
        return engage(evidence(candidates, values, predictions)) if engage else None


def _unknown(candidates: int) -> np.ndarray:
    return np.full((candidates, len(TARGETS)), np.nan, np.float32)
