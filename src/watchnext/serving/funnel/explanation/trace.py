"""Trace one request through the funnel: what each source and stage did, and where a video was lost. Evaluation reads it too."""

import threading
from collections import OrderedDict
from collections.abc import Iterable

import numpy as np

from watchnext.serving.funnel.answer import Answer
from watchnext.types import SOURCES, TARGETS, Scored, Slate

# Where a video is lost: not retrieved, removed by a filter, valued too low, or valued high enough but kept out of the slate by
# a cap, diversity or exploration. The last name is for videos in the slate.
LOST_AT = ("retrieval", "filters", "ranking", "re-ranking", "shown")
KEPT = 256  # answers that can be traced
COUNTS = {"retrieval": "retrieved", "ranking": "ranked", "reranking": "slate"}  # stage > its key in `Answer.funnel`


def lost_at(rows: np.ndarray, scored: Scored, slate: Slate, filters: Iterable[str], k: int) -> np.ndarray:
    """Return the index into LOST_AT (R,) of each of the videos `rows` (R,); `filters` are the rules that are never relaxed."""
    filtered = np.zeros(len(scored), bool)
    for name in filters:
        filtered[slate.removed.get(name, slate.picked[:0])] = True
    ends = np.full(len(scored), LOST_AT.index("ranking"))
    ends[slate.order[~filtered[slate.order]][:k]] = LOST_AT.index("re-ranking")
    ends[filtered] = LOST_AT.index("filters")
    ends[slate.picked] = LOST_AT.index("shown")
    by_row = dict(zip(scored.candidates.rows.tolist(), ends.tolist(), strict=True))
    return np.array([by_row.get(row, LOST_AT.index("retrieval")) for row in rows.tolist()], np.int64)


def summary(answer: Answer) -> dict:
    """Return the trace of a request without its videos: stages, sources, and what each rule removed."""
    stages = [{"name": name, "count": answer.funnel.get(COUNTS.get(name)), "ms": ms} for name, ms in answer.timings_ms.items()]
    bits = np.arange(len(SOURCES))
    named = ((answer.scored.candidates.sources[:, None] >> bits) & 1).sum(axis=0).tolist()
    return {
        "request_id": answer.request.request_id,
        "release": answer.release,
        "mode": answer.mode,
        "stages": stages,
        "sources": {name: count for name, count in zip(SOURCES, named, strict=True) if count},
        "removed": dict(answer.removed),
    }


def trace_of(answer: Answer, row: int, *, filters: Iterable[str], barred_by: str | None) -> dict:
    """Return the way of the video `row` through the funnel, and one sentence for where it ended.

    `barred_by` names what keeps a video out of retrieval: a rule, or a part of the request.
    """
    scored, slate, request = answer.scored, answer.slate, answer.request
    end = LOST_AT[int(lost_at(np.array([row]), scored, slate, filters, request.k)[0])]
    found = np.flatnonzero(scored.candidates.rows == row)
    if not len(found):
        return {"end": end, "rule": barred_by, "text": _unproposed(answer, barred_by)}
    at = int(found[0])
    rule = next((name for name, positions in slate.removed.items() if at in positions), None)
    position, value_rank = _rank(slate.picked, at), _rank(slate.order, at)
    return {
        "end": end,
        "rule": rule,
        "text": _sentence(end, rule, position, value_rank, request.k),
        "sources": scored.candidates.source_ranks(at),
        "merge_rank": at + 1,
        "value_rank": value_rank,
        "position": position,
        "predictions": dict(zip(TARGETS, scored.predictions[at].tolist(), strict=True)),
    }


def _unproposed(answer: Answer, barred_by: str | None) -> str:
    if answer.mode == "precomputed":
        return "it is not in the precomputed slate"
    return f"{barred_by} keeps it out" if barred_by else "no source proposed it among its first videos"


def _rank(positions: np.ndarray, at: int) -> int | None:
    return next((index + 1 for index in np.flatnonzero(positions == at).tolist()), None)


def _sentence(end: str, rule: str | None, position: int | None, value_rank: int, k: int) -> str:
    if end == "shown":
        return f"shown at position {position}"
    if end == "filters":
        return f"the rule {rule} removed it"
    if end == "ranking":
        return f"valued at rank {value_rank}, and {k} are shown"
    return f"valued at rank {value_rank}, but {f'held back by {rule}' if rule else 'pushed out by diversity or exploration'}"


class RecentAnswers:
    """Keep the last answers of this process, for their traces. Any thread may call it."""

    def __init__(self, most: int = KEPT) -> None:
        self._most, self._lock = most, threading.Lock()
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    def put(self, answer: Answer) -> None:
        with self._lock:
            self._answers[answer.request.request_id] = answer
            if len(self._answers) > self._most:
                self._answers.popitem(last=False)

    def erase(self, user_id: int | str) -> int:
        """Forget a viewer's answers; return their number."""
        with self._lock:
            found = [name for name, answer in self._answers.items() if answer.request.user_id == user_id]
            for name in found:
                del self._answers[name]
        return len(found)

    def get(self, request_id: str) -> Answer | None:
        return self._answers.get(request_id)
