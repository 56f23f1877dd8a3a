import numpy as np
import pytest

from watchnext.evaluation.funnel import Funnel


@pytest.fixture(scope="session")
def funnel():
    """watched, long_view (all, unless given) and any other field > Funnel; what is not given is empty, new and unknown."""

    def made(watched, long_view=None, **fields) -> Funnel:
        watched = np.array(watched, np.int64)
        empty = {"user_id": 1, "watches": 0, "age_h": np.zeros(len(watched)), "fates": np.zeros(len(watched), np.int64)}
        long_view = np.ones(len(watched), bool) if long_view is None else np.array(long_view, bool)
        parts = {"merged": watched[:0], "stages": {}, "sources": {}, "floors": {}}
        return Funnel(**{"watched": watched, "long_view": long_view, **empty, **parts, **fields})

    return made
