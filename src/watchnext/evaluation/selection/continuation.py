"""Estimate from a log how likely a viewer is to go on from a slot of a slate to the next."""

from collections.abc import Mapping

import numpy as np


def continuation_of(columns: Mapping[str, np.ndarray], rows: np.ndarray) -> float | None:
    """Return the chance to go on from a slot to the next, over the impressions `rows` (N,) of a log, ascending.

    A viewer got as far as the last position with an outcome. The chance is the maximum likelihood of a geometric law that is
    cut off at the end of each slate. None where no position of a video with an outcome is logged.
    """
    known = rows[columns["position"][rows] >= 0]
    slots, acted = columns["position"][known] + 1, (columns["targets"][known] > 0).any(axis=1)
    owners = np.stack([columns["user_rows"][known], columns["time_ms"][known]])
    starts = np.flatnonzero(np.append(True, (owners[:, 1:] != owners[:, :-1]).any(axis=0))[: len(known)])
    if not acted.any():
        return None
    depths, lengths = np.maximum.reduceat(slots * acted, starts), np.maximum.reduceat(slots, starts)
    went, stopped = (depths - 1)[depths > 0].sum(), ((depths > 0) & (depths < lengths)).sum()
    return float(went / (went + stopped)) if went + stopped else None
