"""Check served slates against the rules, read from the configuration and the catalogue alone: no code of re-ranking runs here.

A count other than 0 under a hard rule is a bug of the funnel. Caps bend where candidates run out, so they are reported beside.
"""

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np

from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.recommender import Recommender

HARD = ("unavailable", "safety", "region", "seen", "duplicate", "upload", "exclude", "repeated")
CAPS = ("creator_cap", "tag_cap")
LEVELS = ("safe", "mature", "unsafe")  # the order of `Catalogue.safety`
CONTINUED = 2  # of the rule `seen`, where it has no setting


class RuleCheck:
    """Count the slots of an answer that break a rule of its release.

    A slot that is shown again because nothing unseen is left does not break `seen`, and neither do as many videos left midway
    as the rule lets continue.
    """

    def __init__(self, recommender: Recommender) -> None:
        self._recommender, self._catalogue = recommender, recommender.catalogue
        self._configured: dict[str | None, Mapping[str, Mapping]] = {}  # surface > rule > its options
        self._checks: Mapping[str, Callable[[Answer, Mapping], int]] = {
            "unavailable": self._unavailable,
            "safety": self._unsafe,
            "region": self._elsewhere,
            "seen": self._seen,
            "duplicate": self._copies,
            "creator_cap": lambda answer, options: _above(self._creators(answer), options.get("most", 0)),
            "tag_cap": lambda answer, options: _above(self._tags(answer), options.get("most", 0)),
        }

    def broken(self, answer: Answer) -> dict[str, int]:
        """Return rule > number of slots that break it, for the rules of the answer's surface and for what always holds."""
        rules = self._rules(answer.request.surface)
        counts = {name: self._checks[name](answer, options) for name, options in rules.items() if name in self._checks}
        rows = answer.rows.tolist()
        late = [row for row in rows if self._catalogue.upload_ms[row] > answer.request.as_of_ms]
        excluded = set(answer.request.exclude) & set(rows)
        return counts | {"upload": len(late), "exclude": len(excluded), "repeated": len(rows) - len(set(rows))}

    def _rules(self, surface: str | None) -> Mapping[str, Mapping]:
        if surface not in self._configured:
            self._configured[surface] = self._recommender.release.reranker_of(surface).to_config()["rules"]
        return self._configured[surface]

    def _unavailable(self, answer: Answer, _: Mapping) -> int:
        return int(np.count_nonzero(self._recommender.store.unavailable[answer.rows]))

    def _unsafe(self, answer: Answer, options: Mapping) -> int:
        allowed = LEVELS.index(options.get("highest", LEVELS[0]))
        return sum(level > allowed for level in self._catalogue.safety[answer.rows].tolist())

    def _elsewhere(self, answer: Answer, _: Mapping) -> int:
        bit = self._catalogue.region_bits.get(answer.query.region)
        allowed = 0 if bit is None else 1 << bit
        return sum(regions != 0 and not regions & allowed for regions in self._catalogue.regions[answer.rows].tolist())

    def _seen(self, answer: Answer, options: Mapping) -> int:
        seen = set(answer.query.seen.tolist())
        sources = dict(zip(answer.rows.tolist(), answer.sources, strict=True))
        unexcused = [row for row, names in sources.items() if row in seen and "again" not in names]
        midway = [row for row in unexcused if "continue" in sources[row]]
        return len(unexcused) - min(len(midway), options.get("continued", CONTINUED))

    def _copies(self, answer: Answer, options: Mapping) -> int:
        """Count copies of a video in the slate, and of a seen one where the rule says so."""
        prints = Counter(self._catalogue.fingerprints[answer.rows].tolist())
        within = sum(count - 1 for fingerprint, count in prints.items() if fingerprint)
        if not options.get("of_seen", True):
            return within
        seen = set(self._catalogue.fingerprints[answer.query.seen].tolist()) - {0}
        fresh = [
            row for row, names in zip(answer.rows.tolist(), answer.sources, strict=True) if not {"again", "continue"} & {*names}
        ]
        return within + sum(int(self._catalogue.fingerprints[row]) in seen for row in fresh)

    def _creators(self, answer: Answer) -> list[set[int]]:
        return [{creator} - {-1} for creator in self._catalogue.creator_rows[answer.rows].tolist()]

    def _tags(self, answer: Answer) -> list[set[int]]:
        return [{*tags} - {-1} for tags in self._catalogue.tag_rows[answer.rows].tolist()]


def _above(keys: list[set[int]], most: int) -> int:
    """Count the slots with a key that `most` slots above it have already."""
    counts, above = Counter(), 0
    for of_slot in keys:
        above += any(counts[key] >= most for key in of_slot)
        counts.update(of_slot)
    return above
