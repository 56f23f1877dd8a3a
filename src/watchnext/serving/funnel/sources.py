"""The sources of a release, by the names of SOURCES; the nearest videos of the query tower are the recommender's own."""

import numpy as np

from watchnext.retrieval.sources.co_watch import CoWatchSource
from watchnext.retrieval.sources.source import CandidateSource, ContinueSource, FollowedSource, FreshSource
from watchnext.retrieval.sources.trending import TrendingSource
from watchnext.serving.release.release import REPAIR, WALKS, Release, ReleaseError
from watchnext.serving.store.store import Store
from watchnext.types import SOURCES


def sources_of(release: Release, store: Store) -> dict[str, CandidateSource]:
    """Raises ReleaseError for settings that name an unknown source, or give one a quota and no weight."""
    settings, catalogue = release.retrieval, release.catalogue
    quotas, weights = settings["quotas"].keys(), settings["merge"]["weights"].keys()
    if wrong := sorted((quotas ^ weights) | (quotas - {*SOURCES})):
        raise ReleaseError(
            f"{release.folder}: of the sources {', '.join(wrong)} the quota or the weight is missing, or the name is none of "
            f"{', '.join(SOURCES)}; mend conf/retrieval and run `{REPAIR}`"
        )
    upload_ms = np.array(catalogue.upload_ms)
    serving = {name: settings["trending"][name] for name in ("prior", "refresh_s")}
    kept = {name: settings["followed"][name] for name in ("creators", "per_creator")}
    return {
        "trending": TrendingSource(trending=store.trending.counts, **serving),
        "fresh": FreshSource(upload_ms=upload_ms, state=release.pipeline.schema.state, **settings["fresh"]),
        "followed": FollowedSource(creator_rows=np.array(catalogue.creator_rows), upload_ms=upload_ms, **kept),
        "continue": ContinueSource(duration_ms=np.array(catalogue.duration_ms), **settings["continue"]),
    } | {name: CoWatchSource(edges=release.walks[name], **settings[name]["walk"]) for name in WALKS}
