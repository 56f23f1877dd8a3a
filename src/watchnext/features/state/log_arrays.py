"""The impressions table > the arrays of the fold."""

import numpy as np

from watchnext.data.tables import OUTCOMES, Tables, known_at
from watchnext.features.catalogue import Catalogue, Ids
from watchnext.features.state import counters, history
from watchnext.features.state.event_order import Log
from watchnext.schema import FeatureSchema


def log_of(tables: Tables, catalogue: Catalogue, users: Ids, schema: FeatureSchema) -> Log:
    """Convert impressions to the arrays of the fold."""
    impressions = tables.impressions
    video_rows = catalogue.ids.rows_of(impressions["video_id"])
    watch_ms = impressions["watch_ms"].to_numpy().astype(np.float64)
    time_ms = impressions["time_ms"].to_numpy().astype(np.float64)
    outcomes = {name: impressions[name].to_numpy() for name in OUTCOMES}
    outcomes |= {"watch_ms": watch_ms, "duration_ms": np.nan_to_num(catalogue.duration_ms)[video_rows]}
    return Log(
        user_rows=users.rows_of(impressions["user_id"]),
        video_rows=video_rows,
        time_ms=time_ms,
        known_at=impressions.select(known_at()).to_series().to_numpy().astype(np.float64),
        amounts=counters.amounts(schema.state.counts, outcomes),
        watch_ms=watch_ms,
        bits=history.outcome_bits(outcomes),
        **of_videos(catalogue),
    )


def of_videos(catalogue: Catalogue) -> dict[str, np.ndarray]:
    """Return the arrays of a `Log` that do not depend on its impressions."""
    # Writable copies: a read-only array is another type to numba, which would compile again.
    return {name: np.array(getattr(catalogue, name)) for name in ("creator_rows", "tag_rows")}
