"""Make the sources of a release, except `two_tower`, which the recommender searches itself."""

import numpy as np

from watchnext.retrieval.sources.co_watch import CoWatchSource
from watchnext.retrieval.sources.source import CandidateSource, ContinueSource, FollowedSource, FreshSource
from watchnext.retrieval.sources.trending import TrendingSource
from watchnext.serving.release.release import CO_WATCH_SOURCES, REPAIR, Release, ReleaseError
from watchnext.serving.store.store import Store
from watchnext.types import SOURCES


def sources_of(release: Release, store: Store) -> dict[str, CandidateSource]:
    """Return source name > source. Raises ReleaseError for an unknown source, or one without a quota or a weight."""
    settings, catalogue = release.retrieval, release.catalogue
    quotas, weights = settings["quotas"].keys(), settings["merge"]["weights"].keys()
    if wrong := sorted((quotas ^ weights) | (quotas - {*SOURCES})):
        raise ReleaseError(
            f"{release.folder}: sources {', '.join(wrong)} are unknown, or lack a quota or a weight; expected some of "
            f"{', '.join(SOURCES)}, each with both; fix conf/retrieval and run `{REPAIR}`"
        )
    upload_ms = np.array(catalogue.upload_ms)
    serving = {name: settings["trending"][name] for name in ("prior", "refresh_s")}
    known = {"upload_ms": upload_ms, "counters": store.video_records, "state": release.pipeline.schema.state}
    kept = {name: settings["followed"][name] for name in ("creators", "per_creator")}
    return {
        "trending": TrendingSource(trending=store.trending.counts, **serving),
        "fresh": FreshSource(**known, **settings["fresh"]),
        "followed": FollowedSource(creator_rows=np.array(catalogue.creator_rows), upload_ms=upload_ms, **kept),
        "continue": ContinueSource(duration_ms=np.array(catalogue.duration_ms), **settings["continue"]),
    } | {name: CoWatchSource(edges=release.co_watches[name], **settings[name]["walk"]) for name in CO_WATCH_SOURCES}
