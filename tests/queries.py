"""Make a query about an unknown viewer, except for the fields that a test gives."""

import numpy as np

from watchnext.types import Query, Request


def query_of(*, request_id: str = "", k: int = 0, as_of_ms: float = 0.0, surface: str | None = None, **known) -> Query:
    rows, numbers = np.zeros(0, np.int64), np.zeros(0)
    nothing = {
        "region": None,
        "state": numbers,
        **dict.fromkeys(("seen", "history_rows", "bits", "creators"), rows),
        **dict.fromkeys(("ago_s", "watch_s", "engagement"), numbers),
        "inputs": {},
    }
    return Query(request=Request(request_id, "", k, as_of_ms, surface), **{**nothing, **known})
