"""Check served slates against the rules, read from the configuration and the catalogue alone: no code of re-ranking runs here.

A hard rule that is broken is a bug of the funnel, and so is a soft one that a slate bends without naming it.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from watchnext.features.state.fold import HOUR_MS
from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.recommender import Recommender

SOFT = ("near_duplicate", "creator_cap", "tag_cap", "creator_window", "tag_window", "language", "freshness", "new_creators")
MATURE, UNSAFE = 1, 2  # of `Catalogue.safety`
STRICT = ("allow", "limit", "drop")  # from mild to strict
DAY_H = 24.0
Keys = list[set[int]]  # of each slot


class Broken(NamedTuple):
    """Rule > number of slots of a slate that break it: `broken`, and `bent` for soft rules that the slate names."""

    broken: Mapping[str, int]
    bent: Mapping[str, int]


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
            "near_duplicate": self._alike,
            "creator_cap": lambda answer, options: above(self._creators(answer), **options),
            "creator_window": lambda answer, options: above(self._creators(answer), **options),
            "tag_cap": lambda answer, options: above(self._tags(answer), **options),
            "tag_window": lambda answer, options: above(self._tags(answer), **options),
            "language": lambda answer, options: above(self._foreign(answer), **options),
            "freshness": self._stale,
            "new_creators": self._established,
        }

    def count(self, answer: Answer) -> Broken:
        """Count for the rules of the answer's surface, and for what always holds."""
        rules, bent = self._rules(answer.request.surface), {*answer.slate.bent}
        counts = {name: self._checks[name](answer, options) for name, options in rules.items() if name in self._checks}
        rows = answer.rows.tolist()
        late = [row for row in rows if self._catalogue.upload_ms[row] > answer.request.as_of_ms]
        excluded = set(answer.request.exclude) & set(rows)
        always = {"upload": len(late), "exclude": len(excluded), "repeated": len(rows) - len(set(rows))}
        return Broken(
            {name: 0 if name in bent else count for name, count in counts.items()} | always,
            {name: count if name in bent else 0 for name, count in counts.items() if name in SOFT},
        )

    def _rules(self, surface: str | None) -> Mapping[str, Mapping]:
        if surface not in self._configured:
            self._configured[surface] = self._recommender.release.reranker_of(surface).to_config()["rules"]
        return self._configured[surface]

    # ---- hard rules ------------------------------------------------------------------------------------------------------

    def _unavailable(self, answer: Answer, _: Mapping) -> int:
        return int(np.count_nonzero(self._recommender.store.unavailable[answer.rows]))

    def _unsafe(self, answer: Answer, options: Mapping) -> int:
        levels = self._catalogue.safety[answer.rows].tolist()
        mature, action = levels.count(MATURE), mature_action(options, answer.query.age, answer.query.region)
        allowed = {"allow": mature, "limit": options["most"], "drop": 0}[action]
        return sum(level >= UNSAFE for level in levels) + max(0, mature - allowed)

    def _elsewhere(self, answer: Answer, _: Mapping) -> int:
        bit = self._catalogue.region_bits.get(answer.query.region)
        allowed = 0 if bit is None else 1 << bit
        return sum(regions != 0 and not regions & allowed for regions in self._catalogue.regions[answer.rows].tolist())

    def _seen(self, answer: Answer, options: Mapping) -> int:
        seen = set(answer.query.seen.tolist())
        sources = dict(zip(answer.rows.tolist(), answer.sources, strict=True))
        unexcused = [row for row, names in sources.items() if row in seen and "again" not in names]
        midway = [row for row in unexcused if "continue" in sources[row]]
        return len(unexcused) - min(len(midway), options["continued"])

    def _copies(self, answer: Answer, options: Mapping) -> int:
        """Count copies of a video in the slate, and of a seen one where the rule says so."""
        prints = Counter(self._catalogue.fingerprints[answer.rows].tolist())
        within = sum(count - 1 for fingerprint, count in prints.items() if fingerprint)
        if not options["of_seen"]:
            return within
        seen = set(self._catalogue.fingerprints[answer.query.seen].tolist()) - {0}
        sources = zip(answer.rows.tolist(), answer.sources, strict=True)
        unseen = [row for row, names in sources if not {"again", "continue"} & {*names}]
        return within + sum(int(self._catalogue.fingerprints[row]) in seen for row in unseen)

    # ---- soft rules ------------------------------------------------------------------------------------------------------

    def _alike(self, answer: Answer, options: Mapping) -> int:
        vectors = np.asarray(self._catalogue.vectors[answer.rows], np.float64)
        norms = np.linalg.norm(vectors, axis=1)
        units = vectors[norms > 0] / norms[norms > 0, None]
        near = np.tril(units @ units.T > options["cosine"] + 1e-5, -1)  # the rule counts in float32
        return int(near.any(axis=1).sum())

    def _creators(self, answer: Answer) -> Keys:
        return [{creator} - {-1} for creator in self._catalogue.creator_rows[answer.rows].tolist()]

    def _tags(self, answer: Answer) -> Keys:
        return [{*tags} - {-1} for tags in self._catalogue.tag_rows[answer.rows].tolist()]

    def _foreign(self, answer: Answer) -> Keys:
        own = self._catalogue.languages.get(answer.query.language, 0)
        codes = self._catalogue.language_codes(answer.rows).tolist()
        return [{1} if own and code and code != own else set() for code in codes]

    def _stale(self, answer: Answer, options: Mapping) -> int:
        age_h = (answer.request.as_of_ms - self._catalogue.upload_ms[answer.rows]) / HOUR_MS
        return short_of(options["least"], (age_h <= options["younger_h"]).tolist())

    def _established(self, answer: Answer, options: Mapping) -> int:
        creators = self._catalogue.creator_rows[answer.rows].tolist()
        first = {
            creator: np.nanmin(self._catalogue.upload_ms[self._catalogue.creator_rows == creator])
            for creator in {*creators} - {-1}
        }
        limit_ms = options["younger_days"] * DAY_H * HOUR_MS
        return short_of(
            options["least"],
            [creator in first and answer.request.as_of_ms - first[creator] <= limit_ms for creator in creators],
        )


def mature_action(options: Mapping, age: str | None, region: str | None) -> str:
    """Return the strictest of the policy's actions on mature videos that may be meant for a viewer of unknown parts."""
    if options["highest"] == "safe":
        return "drop"
    possible = set()
    for line in options["policy"]:
        asked = [(value, {*line[part]}) for value, part in ((age, "ages"), (region, "regions")) if line.get(part)]
        if any(value is not None and value not in names for value, names in asked):
            continue
        possible.add(line["mature"])
        if all(value is not None for value, _ in asked):
            break
    else:
        possible.add("drop" if options["policy"] else "allow")
    return max(possible, key=STRICT.index)


def above(keys: Keys, most: int, slots: int | None = None) -> int:
    """Count the slots with a key that `most` of the slots before it have: of all, or of the last `slots` with its own."""
    count = 0
    for at, of_slot in enumerate(keys):
        before = keys[max(0, at - slots + 1) : at] if slots else keys[:at]
        count += any(sum(key in each for each in before) >= most for key in of_slot)
    return count


def short_of(least: int, holds: list[bool]) -> int:
    """Count the slots that a floor of `least` lacks."""
    return max(0, min(least, len(holds)) - sum(holds))
