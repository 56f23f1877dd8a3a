"""Ranking with one release: encode the candidates of a query, and predict what the viewer would do with each."""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from watchnext.features.state.seen import SeenSet
from watchnext.ranking.models.trees.engage import evidence
from watchnext.serving.funnel.answer import RANKER_FAILED, RANKER_LATE, Degradation
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store
from watchnext.types import TARGETS, Candidates, Query, Scored

log = logging.getLogger(__name__)

NO_ROWS = np.zeros(0, np.int64)


class VideoValues:
    """Keep `candidate_values` of videos for a viewer without a state, each computed when it is first needed.

    compute   rows (n,) > values (n, width), as of `as_of_ms`
    videos    number of rows of the catalogue
    """

    def __init__(self, compute: Callable[[np.ndarray], np.ndarray], as_of_ms: float, *, videos: int) -> None:
        self.as_of_ms, self._compute, self._known = as_of_ms, compute, np.zeros(videos, bool)
        self._values = np.empty((videos, compute(NO_ROWS).shape[1]), np.float32)  # takes memory where it is written

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return a copy of the values (C, width) of the distinct videos `rows` (C,)."""
        new = rows[~self._known[rows]]
        if len(new):
            self._values[new] = self._compute(new)
            self._known[new] = True
        return self._values[rows]


class Hydrated(NamedTuple):
    """A query, what its viewer has seen, the store's `settled` before they were read, and what the query shares with others."""

    query: Query
    seen: SeenSet
    position: int | None
    shared: VideoValues | None = None


class RankingStage:
    """Score candidates by the ranker of a release. Safe to call from any thread."""

    def __init__(self, release: Release, store: Store) -> None:
        self._release, self._store, self._catalogue = release, store, store.catalogue

    def shared(self, as_of_ms: float) -> VideoValues:
        """Return what requests as of one moment may share in `encode`. It reads the counters of a video once: what is counted
        later is not read."""
        nobody = np.zeros(self._release.layout.viewer)
        return VideoValues(lambda rows: self._values(nobody, rows, as_of_ms), as_of_ms, videos=len(self._catalogue.upload_ms))

    def encode(self, query: Query, rows: np.ndarray, shared: VideoValues | None = None) -> dict[str, np.ndarray]:
        """Return the inputs of the distinct videos `rows` (C,) for the viewer, the same with `shared` as without."""
        if shared is None or shared.as_of_ms != query.as_of_ms:
            values = self._values(query.state, rows, query.as_of_ms)
        else:
            values = shared.of(rows)
            crosses, known = self._store.crosses(query.state, rows, query.as_of_ms)
            own = values[known]
            self._release.pipeline.put_crosses(crosses, own)
            values[known] = own
        return {name: values[rows] for name, values in self._catalogue.inputs.items()} | {"candidate_values": values}

    def _values(self, state: np.ndarray, rows: np.ndarray, as_of_ms: float) -> np.ndarray:
        counters = self._store.counters(state, rows, as_of_ms)
        return self._release.pipeline.candidates(self._catalogue.upload_ms[rows], np.full(len(rows), as_of_ms), counters)

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
            engage = self._engage(query, candidates, inputs["candidate_values"], predictions)
        except Exception:
            log.exception("request %s is answered in retrieval order", query.request.request_id)
            predictions = _unknown(len(candidates))
        if len(candidates) and not np.isfinite(predictions).any():
            degradations.append(RANKER_FAILED)
        return Scored(candidates, predictions, engage)

    def _engage(self, query: Query, candidates: Candidates, values: np.ndarray, predictions: np.ndarray) -> np.ndarray | None:
        """Return how likely a watch of each is (C,); None where the release or this request gives that no power."""
        engage, dialled = self._release.engage, query.request.dials.engage
        power = self._release.reranker_of(query.request.surface).value.engage if dialled is None else dialled
        return engage(evidence(candidates, values, predictions)) if engage and power else None


def _unknown(candidates: int) -> np.ndarray:
    return np.full((candidates, len(TARGETS)), np.nan, np.float32)
