"""Outcomes > targets. Serving may not import this: a label at answer time is a leak."""

import numpy as np
import polars as pl

from watchnext.types import TARGETS


def targets(impressions: pl.DataFrame) -> np.ndarray:
    """(N, T) float32, columns as in TARGETS: 0/1 outcomes, then watched seconds."""
    columns = {"watch_s": impressions["watch_ms"].to_numpy() / 1000.0}
    return np.stack([columns.get(name, impressions[name].to_numpy() if name in impressions.columns else None) for name in TARGETS], axis=1).astype(np.float32)  # fmt: skip
