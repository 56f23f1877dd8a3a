"""Collect the requests of the validation days as a server would have met them, from a release of the trained parts."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from watchnext.data.splits import SPLITS
from watchnext.data.storage import StoredTables
from watchnext.evaluation.replay.baselines import Baselines
from watchnext.evaluation.replay.funnel_trace import distinct_watches
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.evaluation.replay.replay import Replay
from watchnext.evaluation.selection.selection import DEPTHS, HeldOut
from watchnext.features.state.builder import StateBuilder
from watchnext.features.state.fold import State
from watchnext.features.state.partitions import time_partitions
from watchnext.features.state.seen import SeenSets
from watchnext.retrieval.sources.log_counts import counted
from watchnext.retrieval.sources.merge import ranks_in
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.release.release import Release
from watchnext.types import Request

VALID = SPLITS.index("valid")
MOST_RECALLED = max(DEPTHS)  # of a baseline


def before_validation(release: Release, stored: StoredTables, start_ms: int) -> Release:
    """Return `release` with the state and the trending counts as of `start_ms`, the first request of the validation days."""
    earlier = replace(stored, days=tuple(day for day in stored.days if day.last_ms < start_ms))
    schema, catalogue = release.pipeline.schema, release.catalogue
    viewers = np.zeros((len(release.user_ids.ids), release.layout.viewer))
    with TemporaryDirectory(prefix="watchnext-selection-") as folder:
        partitions = time_partitions(earlier)
        builder = StateBuilder(
            Path(folder), earlier, partitions, schema=schema, catalogue=catalogue, settings={}, through=len(partitions)
        )
        builder.plan()
        builder.fold()
        folded = builder.as_of(start_ms)
        for users, records in folded.viewers.all():
            viewers[users] = records
        seen = SeenSets.of(0, len(viewers), folded.seen.parts)
        builder.close()
    state = State(viewers=viewers, videos=folded.videos, creators=folded.creators)
    settings = {name: release.retrieval["trending"][name] for name in ("count", "half_life_h", "segments")}
    trending = counted(stored, release.video_ids, until_ms=start_ms, **settings)
    return replace(release, state=state, seen=seen, trending=trending, manifest={**release.manifest, "as_of_ms": start_ms})


def validation_requests(release: Release, log: HeldOutLog, *, regime: str, limit: int, slate: int) -> Iterator[HeldOut]:
    """Yield at most `limit` requests of the validation days, each a viewer's first of a day, where a watch follows."""
    depth = release.retrieval["merge"]["most"]
    replay = Replay(release=release, regime=regime, slate=slate, requests=limit, depth=depth)
    upload_ms = np.array(release.catalogue.upload_ms)
    with replay.opened(log, traced_only=True) as (recommender, requests):
        baselines = Baselines(release, recommender.store, depth=depth)
        for each in requests:
            watched, long = distinct_watches(each.watched, each.long_view, upload_ms, each.request.as_of_ms)
            if len(watched):
                order = np.argsort(each.watched, kind="stable")
                first = order[np.searchsorted(each.watched[order], watched)]
                yield _collected(
                    recommender, baselines, each.request, watched, long, 1.0 / each.propensity[first].astype(np.float64)
                )


def _collected(
    recommender: Recommender,
    baselines: Baselines,
    request: Request,
    watched: np.ndarray,
    long_view: np.ndarray,
    weights: np.ndarray,
) -> HeldOut:
    query = recommender.query(request)
    rows, ranks = ranks_in(recommender.retrieval.by_source(query, []))
    inputs = recommender.ranking.encode(query, rows)
    return HeldOut(
        query=query,
        watched=watched,
        long_view=long_view,
        weights=weights,
        baselines={name: listed[:MOST_RECALLED] for name, listed in baselines.rank(request).items()},
        rows=rows,
        ranks=ranks,
        values=inputs["candidate_values"],
        predictions=recommender.ranking.predict(query, inputs),
    )
