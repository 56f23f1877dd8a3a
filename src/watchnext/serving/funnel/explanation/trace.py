"""Trace one request through the funnel: what each source and stage did, and where a video was lost. Evaluation reads it too."""

import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from watchnext.serving.funnel.answer import Answer, counts_by_source
from watchnext.types import SOURCES, TARGETS, Scored, Slate

# Where a video is lost: not retrieved, removed by a filter, valued too low, or valued high enough but kept out of the slate by
# a cap, diversity or exploration. The last name is for videos in the slate.
LOST_AT = ("retrieval", "filters", "ranking", "re-ranking", "shown")
KEPT = 256  # answers that can be traced
COUNTS = {"retrieval": "retrieved", "ranking": "ranked", "reranking": "slate"}  # stage > its key in `Answer.funnel`


@dataclass(frozen=True)
class VideoTraces:
    """The ways of R videos through the funnel of one answer.

    ends         (R,) index into LOST_AT
    candidates   (R,) position among the candidates, -1 not retrieved
    value_ranks  (R,) rank by value, from 1; 0 not retrieved
    positions    (R,) position in the slate, from 1; 0 not shown
    rules        R names of the rule that removed each, or kept it out of the candidates; None without one
    """

    ends: np.ndarray
    candidates: np.ndarray
    value_ranks: np.ndarray
    positions: np.ndarray
    rules: Sequence[str | None]

    @classmethod
    def of(cls, rows: np.ndarray, scored: Scored, slate: Slate, *, filters: Collection[str], k: int) -> "VideoTraces":
        """Trace the videos `rows` (R,) through a slate of `k`; `filters` are the rules that are never relaxed."""
        filtered, rules = np.zeros(len(scored) + 1, bool), np.full(len(scored) + 1, None, object)
        for name, removed in slate.removed.items():
            rules[removed] = name
            filtered[removed] |= name in filters
        ends = np.full(len(scored) + 1, LOST_AT.index("ranking"))
        ends[slate.order[~filtered[slate.order]][:k]] = LOST_AT.index("re-ranking")
        ends[filtered] = LOST_AT.index("filters")
        ends[slate.picked] = LOST_AT.index("shown")
        ends[-1] = LOST_AT.index("retrieval")  # of position -1, a video that is no candidate
        at = _positions(rows, scored.candidates.rows)
        return cls(
            ends[at], at, _ranks(slate.order, len(scored))[at], _ranks(slate.picked, len(scored))[at], rules[at].tolist()
        )

    def refilled(self, rows: np.ndarray, shown: np.ndarray) -> "VideoTraces":
        """Return the ways of `rows` (R,) into the slate that was filled up with seen videos, whose rows `shown` (K,) has."""
        at = _positions(rows, shown)
        ends = np.where(self.ends == LOST_AT.index("shown"), LOST_AT.index("re-ranking"), self.ends)
        rules = [rule if position < 0 else None for rule, position in zip(self.rules, at.tolist(), strict=True)]
        return replace(self, ends=np.where(at >= 0, LOST_AT.index("shown"), ends), positions=at + 1, rules=rules)


def _positions(rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return the position (R,) of each of `rows` (R,) in the distinct rows `among` (C,), -1 where it is not."""
    if not len(among):
        return np.full(len(rows), -1)
    order = np.argsort(among)
    at = order[np.minimum(np.searchsorted(among, rows, sorter=order), len(among) - 1)]
    return np.where(among[at] == rows, at, -1)


def _ranks(positions: np.ndarray, count: int) -> np.ndarray:
    """Return the rank (count + 1,), from 1, of each of `count` candidates in the order `positions`; 0 where it is not in it."""
    ranks = np.zeros(count + 1, np.int64)
    ranks[positions] = np.arange(1, len(positions) + 1)
    return ranks


def summary(answer: Answer, costs: Mapping[str, float]) -> dict:
    """Return the trace of a request without its videos: stages, sources, what each rule removed, and what it costs."""
    stages = [{"name": name, "count": answer.funnel.get(COUNTS.get(name)), "ms": ms} for name, ms in answer.timings_ms.items()]
    named = counts_by_source(answer.passed[0].candidates.sources)
    return {
        "request_id": answer.request.request_id,
        "release": answer.release,
        "mode": answer.mode,
        "stages": stages,
        "sources": {name: count for name, count in zip(SOURCES, named, strict=True) if count},
        "removed": dict(answer.removed),
        "bent": list(answer.slate.bent),
        "costs": dict(costs),
    }


def trace_of(answer: Answer, traces: VideoTraces) -> dict:
    """Return the way of one video, the only one of `traces`, through the funnel, and one sentence for where it ended."""
    scored, end, rule = answer.passed[0], LOST_AT[int(traces.ends[0])], traces.rules[0]
    at, value_rank, position = (int(each[0]) for each in (traces.candidates, traces.value_ranks, traces.positions))
    if at < 0 and position:
        predictions = dict(zip(TARGETS, answer.predictions[position - 1].tolist(), strict=True))
        text = f"shown at position {position} again, as too little unseen was left"
        return {"end": end, "rule": rule, "text": text, "position": position, "predictions": predictions}
    if at < 0:
        return {"end": end, "rule": rule, "text": _unproposed(answer, rule)}
    return {
        "end": end,
        "rule": rule,
        "text": _sentence(end, rule, position, value_rank, answer.request.k),
        "sources": scored.candidates.source_ranks(at),
        "merge_rank": at + 1,
        "value_rank": value_rank or None,
        "position": position or None,
        "predictions": dict(zip(TARGETS, scored.predictions[at].tolist(), strict=True)),
    }


def _unproposed(answer: Answer, barred_by: str | None) -> str:
    if answer.mode == "precomputed":
        return "it is not in the precomputed slate" + (f", and {barred_by} keeps it out now" if barred_by else "")
    return f"{barred_by} keeps it out" if barred_by else "no source proposed it among its first videos"


def _sentence(end: str, rule: str | None, position: int, value_rank: int, k: int) -> str:
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
