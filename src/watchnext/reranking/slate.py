"""Build a slate: filters, then one greedy pass over value and diversity, under caps, with exploration of known probability."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np

from watchnext.reranking.diversity import Diversity, Similarity, scaled
from watchnext.reranking.greedy import NOTHING, Filled, fill
from watchnext.reranking.limits import SlateRules
from watchnext.reranking.rules.copies import DuplicateFilter
from watchnext.reranking.rules.registry import Rule, rule
from watchnext.reranking.rules.rule import HARD, Demotion, Filter, RuleContext
from watchnext.reranking.slate_policy import SlatePolicy
from watchnext.reranking.value import MERGE, RerankingError, Value, require_known, require_number
from watchnext.types import Dials, Request, Scored, Slate, descending


@dataclass(frozen=True, kw_only=True)
class Exploration:
    """Epsilon-greedy exploration: with probability `epsilon`, a slot takes a uniform draw of its eligible candidates."""

    epsilon: float = 0.0

    def __post_init__(self) -> None:
        require_number("exploration.epsilon", self.epsilon, low=0, high=1)


PARTS = {"value": Value, "diversity": Diversity, "exploration": Exploration}


def _part(name: str, options: Mapping):
    require_known(name, options, PARTS[name].__dataclass_fields__)
    if name == "value" and "weights" not in options:
        raise RerankingError("value lacks 'weights', expected target > weight, such as {long_view: 1.0}")
    return PARTS[name](**options)


class Reranker:
    """Turn scored candidates into one slate. Candidate order has no effect: equal values are ordered by row number."""

    def __init__(self, *, value: Value, rules: Sequence[Rule], diversity: Diversity, exploration: Exploration) -> None:
        names = [each.name for each in rules]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise RerankingError(f"rules contain {', '.join(repeated)} twice, expected each rule once")
        self.value, self.rules, self.diversity, self.exploration = value, tuple(rules), diversity, exploration
        # Duplicates are filtered last; otherwise a later filter could remove the copy that was kept.
        self._filters = sorted((r for r in rules if isinstance(r, Filter)), key=lambda r: isinstance(r, DuplicateFilter))
        self._hard = [r for r in self._filters if r.name in HARD]
        self._limiting = SlateRules(rules)
        self._demotions = [r for r in rules if isinstance(r, Demotion)]

    @classmethod
    def from_config(cls, config: Mapping) -> "Reranker":
        """Build from parsed YAML: value, rules (name > options, in order), diversity, exploration. Raises RerankingError."""
        known = ("value", "rules", "diversity", "exploration")
        require_known("re-ranking", config, known)
        for name in known:
            if not isinstance(config.get(name), Mapping):
                raise RerankingError(f"re-ranking: {name} is {config.get(name)!r}, expected a mapping, as in conf/config.yaml")
        for name, options in config["rules"].items():
            if not isinstance(options, Mapping):
                raise RerankingError(f"rules.{name} is {options!r}, expected a mapping of options ({{}} for none)")
        rules = [rule(name, options) for name, options in config["rules"].items()]
        return cls(rules=rules, **{name: _part(name, config[name]) for name in PARTS})

    def to_config(self) -> dict:
        """Return the JSON-ready inverse of `from_config`; the order of the rules matters."""
        return {
            "rules": {each.name: asdict(each) for each in self.rules},
            **{name: asdict(getattr(self, name)) for name in PARTS},
        }

    def turned(self, dials: Dials) -> "Reranker":
        """Return this re-ranker under the dials of one request. Raises RerankingError for weights that are all 0.

        With weights, candidates are ordered by value also where the release orders them by the list of a source.
        """
        if dials == Dials():
            return self
        changes = {} if dials.weights is None else {"weights": dials.weights, "source": None}
        changes |= {} if dials.engage is None else {"engage": dials.engage}
        diversity = self.diversity if dials.diversity is None else replace(self.diversity, trade_off=1.0 - dials.diversity)
        value = replace(self.value, **changes)
        return Reranker(value=value, rules=self.rules, diversity=diversity, exploration=self.exploration)

    def rerank(self, scored: Scored, request: Request, context: RuleContext) -> Slate:
        """Pick the best `k` of the request, or all eligible candidates if fewer; `context` is what the rules read.

        Exploration is drawn from the request's id, so that the same request has the same slate.

        `removed` lists every rule of the config; a soft one lists the candidates it barred from the last slot. Candidates
        neither picked nor removed were eligible but not chosen. `bent` names the soft rules that the slate does not keep. A
        value of -inf marks a non-finite prediction.
        """
        if (k := request.k) < 0:
            raise RerankingError(f"k is {k}, expected 0 or more")
        rows = scored.candidates.rows
        values, order, left, removed = self._filtered(scored, self._filters, context)
        policy = self._policy(k, rows[left], values[left], context)
        filled, names = policy.filled(_random(request.request_id).random((policy.slots, 2))), self._limiting.names
        for at, name in enumerate(names):
            barred = left[filled.barred_by == at]
            removed[name] = np.concatenate([removed[name], barred]) if name in removed else barred
        picked = left[filled.picked]
        return Slate(
            picked=picked,
            values=values[picked],
            propensities=filled.propensities,
            removed={each.name: np.sort(removed.get(each.name, left[:0])) for each in self.rules},
            order=order,
            bent=self._bent(filled),
        )

    @property
    def parts_keep_rules(self) -> bool:
        """True where a part of any slate keeps the soft rules that the slate keeps."""
        return self._limiting.parts_keep_them

    def bent(self, rows: np.ndarray, context: RuleContext) -> tuple[str, ...]:
        """Return the names of the soft rules that the slate `rows` (K,), best first, does not keep, as `rerank` names them."""
        similarity = Similarity.of(rows, context.facts) if self._limiting.keep_copies_apart else None
        given, plain = np.arange(len(rows)), replace(self.diversity, trade_off=1.0)
        limits, slots = self._limiting.limits(rows, context), {"slots": len(rows), "given": given}
        filled = fill(np.zeros(len(rows)), similarity, plain, limits, 0.0, np.ones((len(rows), 2)), **slots)
        return self._bent(filled)

    def _bent(self, filled: Filled) -> tuple[str, ...]:
        return tuple(name for name, bent in zip(self._limiting.names, filled.bent.tolist(), strict=True) if bent)

    def costs(self, scored: Scored, request: Request, context: RuleContext, slate: Slate) -> dict[str, float]:
        """Return rule, "diversity" and "exploration" > the value that the `slate` of `rerank` loses by it.

        Each is applied behind those before it: filters, then what weighs less, limits, diversity, exploration. So all sum to
        the difference between the best slate by value alone and the one that is shown. A slot counts by its reach.
        """
        rows = scored.candidates.rows
        values, order, left, removed = self._filtered(scored, self._filters, context)
        least = values[np.isfinite(values)].min(initial=np.inf)
        worth, reach = np.where(np.isfinite(values), values, least), self.value.goes_on ** np.arange(request.k)

        def total(positions: np.ndarray) -> float:
            return float(worth[positions[: len(reach)]] @ reach[: len(positions)])

        policy, steps = self._policy(request.k, rows[left], values[left], context), [("", order)]
        for name, out in removed.items():
            after = steps[-1][1]
            steps.append((name, after[~np.isin(after, out)]))
        draws = _random(request.request_id).random((policy.slots, 2))
        steps += [(name, left[filled.picked]) for name, filled in self._steps(policy, draws)]
        explored = (draws[:, 0] < policy.epsilon).any()  # else the slate is the one without exploration
        without = left[replace(policy, epsilon=0.0).filled(draws).picked] if explored else slate.picked
        steps += [("diversity", without), ("exploration", slate.picked)]
        lost = dict.fromkeys([name for name, _ in steps[1:]], 0.0)
        for (_, before), (name, after) in pairwise(steps):
            lost[name] += total(before) - total(after)
        return lost

    def _steps(self, policy: SlatePolicy, draws: np.ndarray) -> Iterator[tuple[str, Filled]]:
        """Yield the name of each rule behind the filters, one after another, and the slate with it, by value alone."""
        known = policy.similarity if self._limiting.keep_copies_apart else None
        plain = replace(policy, similarity=known, diversity=replace(self.diversity, trade_off=1.0), epsilon=0.0)
        for each in self._demotions:
            yield each.name, replace(plain, limits=policy.limits.first(0)).filled(draws)
        for count, name in enumerate(self._limiting.names, 1):
            yield name, replace(plain, limits=policy.limits.first(count)).filled(draws)

    def ordered(self, scored: Scored, request: Request, context: RuleContext) -> Slate:
        """Order all candidates by value without those that a HARD filter removes: no other rule, diversity or exploration."""
        values, order, picked, removed = self._filtered(scored, self._hard, context)
        return Slate(picked=picked, values=values[picked], propensities=np.ones(len(picked)), removed=removed, order=order)

    def permitted(self, rows: np.ndarray, context: RuleContext) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Return the positions in `rows` (n,), in order, that pass every HARD filter, and the positions that each removed."""
        return _passing(rows, np.arange(len(rows)), self._hard, context)

    def broken(self, rows: np.ndarray, context: RuleContext, *, one_slate: bool) -> list[str]:
        """Return the names of the HARD filters that forbid any of the videos `rows` (n,), or in `one_slate` all of them."""
        forbid = [each.removes(rows, context).any() or (one_slate and each.beyond(rows, context).any()) for each in self._hard]
        return [each.name for each, broken in zip(self._hard, forbid, strict=True) if broken]

    def first_filters(self, rows: np.ndarray, context: RuleContext) -> list[str | None]:
        """Return the name of the first filter that removes each of the videos `rows` (n,) alone, whatever its value; None where
        it may be shown."""
        names: list[str | None] = [None] * len(rows)
        for each in self._filters:
            for at in np.flatnonzero(each.removes(rows, context)).tolist():  # perhaps as the copy of another of `rows`
                if names[at] is None and each.removes(rows[at : at + 1], context)[0]:
                    names[at] = each.name
        return names

    def _filtered(
        self, scored: Scored, filters: Sequence[Filter], context: RuleContext
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Return the values (C,), all positions by value, those that pass every filter, and those that each filter removed.

        A slate may continue what the source `continue` lists.
        """
        rows, values = scored.candidates.rows, self._values(scored)
        context = replace(context, continued=rows[scored.candidates.named_by("continue")])
        order = descending(values, rows)
        return values, order, *_passing(rows, order, filters, context)

    def allowed(self, rows: np.ndarray, context: RuleContext) -> np.ndarray:
        """Return those of `rows` (n,), in their order, that pass every filter and may be in one slate."""
        for each in self._filters:
            rows = rows[~each.removes(rows, context)]
        for each in self._filters:
            rows = rows[~each.beyond(rows, context)]
        return rows

    def _values(self, scored: Scored) -> np.ndarray:
        """Return the values (C,) that order candidates; without any prediction, those of the retrieval order."""
        unranked = len(scored) and not np.isfinite(scored.predictions).any()
        value = replace(self.value, source=MERGE) if unranked and self.value.source is None else self.value
        return value.order(scored)

    def policy(self, scored: Scored, request: Request, context: RuleContext, shown: np.ndarray) -> SlatePolicy:
        """Return the distribution of the slate that `rerank` draws, with the videos `shown` (P,) among its rows."""
        rows = scored.candidates.rows
        values, _, left, _ = self._filtered(scored, self._filters, context)
        return self._policy(request.k, rows[left], values[left], context, shown[~np.isin(shown, rows[left])])

    def _policy(
        self, k: int, rows: np.ndarray, values: np.ndarray, context: RuleContext, outside: np.ndarray = NOTHING
    ) -> SlatePolicy:
        """Return the distribution of a slate of `k` over the eligible videos `rows` (N,), sorted by `values` (N,)."""
        every, relevance = np.concatenate([rows, outside]), scaled(values)
        for each in self._demotions:
            relevance = np.multiply(relevance, each.factors(rows, context), where=np.isfinite(relevance), out=relevance)
        needed = self.diversity.trade_off < 1 or self._limiting.keep_copies_apart
        return SlatePolicy(
            rows=every,
            outside=len(outside),
            slots=min(k, len(rows)),
            relevance=np.concatenate([relevance, np.zeros(len(outside))]),
            similarity=Similarity.of(every, context.facts) if needed else None,
            diversity=self.diversity,
            limits=self._limiting.limits(every, context),
            epsilon=self.exploration.epsilon,
            continuation=self.value.goes_on,
        )


def _passing(
    rows: np.ndarray, left: np.ndarray, filters: Sequence[Filter], context: RuleContext
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the positions `left` in `rows` that pass every filter, in their order, and those that each filter removed."""
    removed, passing = {}, rows[left]
    for each in filters:
        out = each.removes(passing, context)
        removed[each.name] = left[out]
        if len(removed[each.name]):  # most filters remove nothing: the sources leave it out
            left = left[~out]
            passing = rows[left]
    return left, removed


def _random(request_id: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8], "big"))
