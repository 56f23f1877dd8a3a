"""Outcomes > targets. Serving may not import this: a label at answer time is a leak."""

import numpy as np
import polars as pl

from watchnext.types import TARGETS


def targets(impressions: pl.DataFrame) -> np.ndarray:
    """(N, T) float32, columns as in TARGETS: 0/1 outcomes, then watched seconds."""
    with_seconds = impressions.with_columns((pl.col("watch_ms") / 1000.0).alias("watch_s"))
    return np.stack([with_seconds[name].to_numpy() for name in TARGETS], axis=1, dtype=np.float32, casting="unsafe")
