"""Choose, on the validation days of a log, how its sources are merged and its candidates ordered, and compare the slate with
every baseline.

Nothing is carried over from another log: the configuration holds where the search starts. Requests are split in halves by
viewer: what is fitted on one half orders the requests of the other, so that every figure is of viewers who were not fitted on.

A log shows what its policy chose to show. Where it has the policy's propensities, each watch counts their inverse (inverse
propensity scoring, clipped) in what the order of candidates is fitted on and judged by: what viewers like, not how well an
order foretells what that policy showed next. The merge only has to name candidates, and is chosen by the watches as they are.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from watchnext import metrics
from watchnext.evaluation.selection.merge_weights import MergeProblem, chosen_weights
from watchnext.features.catalogue import Catalogue
from watchnext.ranking.models.trees.engage import Engage, evidence
from watchnext.reranking.rules.rule import RuleContext
from watchnext.reranking.slate import Reranker
from watchnext.reranking.value import MERGE, Value
from watchnext.retrieval.sources.merge import fused, vector
from watchnext.serving.release.surfaces import Surfaces
from watchnext.types import SOURCES, Candidates, Query, Scored

POWERS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 16.0)
TRADE_OFFS = (0.9, 0.95)  # between value and similarity, tried after the configured one
ENOUGH = 0.95  # share of the best recall that an order and a slate must have
MERGE_DEPTHS = (20, 100)  # of the recall by which the merge is chosen, beside that of all candidates
DEPTHS = (10, 20)  # of the recall by which the order is chosen and compared with the baselines
MOST_WEIGHT = 10.0  # of a watch, in units of the median: less variance for some bias towards what was shown
LEAST_POSITIVES = 50  # watched candidates of a half below which no trees are fitted
RESAMPLES = 4000  # of an interval, whose ends are far out where baselines are many
HALVES = 2
NO_OVERRIDES = Surfaces()


@dataclass(frozen=True)
class HeldOut:
    """One held-out request before the merge.

    watched (R,), long_view (R,) bool  videos that the viewer watched afterwards, and which of them long
    weights (R,)                       inverse propensities of these watches, nan unknown; in `select`, what each counts
    lists, baselines                   name > rows, best first
    rows (C,), ranks (C, SOURCES)      the listed videos, ascending, and their rank in each list
    values (C, .), predictions (C, T)  their `candidate_values`, and what the ranker predicts
    """

    query: Query
    watched: np.ndarray
    long_view: np.ndarray
    weights: np.ndarray
    baselines: Mapping[str, np.ndarray]
    rows: np.ndarray
    ranks: np.ndarray
    values: np.ndarray
    predictions: np.ndarray

    @property
    def surface(self) -> str | None:
        return self.query.request.surface

    @property
    def relevant(self) -> np.ndarray:
        """The videos viewed long, or those watched where none was."""
        return self.watched[self._wanted]

    @property
    def worth(self) -> np.ndarray:
        """The weights of the `relevant` videos."""
        return self.weights[self._wanted]

    @property
    def _wanted(self) -> np.ndarray:
        return self.long_view if self.long_view.any() else np.ones(len(self.watched), bool)

    def weight_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the weight (n,) of the watch of each of the videos `rows` (n,); 0 for those not watched."""
        at = np.minimum(np.searchsorted(self.watched, rows), len(self.watched) - 1)
        return np.where(self.watched[at] == rows, self.weights[at], 0.0)


@dataclass(frozen=True)
class Merged:
    """A request after the merge: its candidates, the predictions of each, `columns` of evidence, and the weight `watched` (C,)
    of a watch, 0 for none."""

    candidates: Candidates
    predictions: np.ndarray
    columns: np.ndarray
    watched: np.ndarray

    @classmethod
    def of(cls, request: HeldOut, merge: Mapping) -> "Merged":
        candidates = fused(request.rows, request.ranks, **merge)
        at = np.searchsorted(request.rows, candidates.rows)
        predictions = request.predictions[at]
        columns = evidence(candidates, request.values[at], predictions)
        return cls(candidates, predictions, columns, request.weight_of(candidates.rows))

    def scored(self, trees: Engage | None) -> Scored:
        return Scored(self.candidates, self.predictions, trees(self.columns) if trees else None)


@dataclass(frozen=True)
class Selection:
    """The chosen settings of merge, value and diversity, the fitted trees, and how they were chosen.

    trees   None where too little was watched
    report  recall of all that was tried, and of the slate beside the baselines, with the `verdict`
    """

    merge: Mapping
    value: Value
    trade_off: float
    trees: Engage | None
    report: Mapping

    @classmethod
    def start(cls, merge: Mapping, reranker: Reranker) -> "Selection":
        """Return the settings from which the search starts."""
        return cls(merge, reranker.value, reranker.diversity.trade_off, None, {"requests": 0})

    def reranking(self, configured: Mapping) -> dict:
        """Return settings of re-ranking with the chosen value and diversity."""
        return {
            **configured,
            "value": asdict(self.value),
            "diversity": {**configured["diversity"], "trade_off": self.trade_off},
        }

    def save(self, folder: Path) -> None:
        settings = {"merge": self.merge, "value": asdict(self.value), "trade_off": self.trade_off}
        settings |= {"report": metrics.rounded(self.report, 6)}
        (folder / "selection.json").write_text(json.dumps(settings, indent=1))
        if self.trees:
            self.trees.save(folder / "engage")

    @classmethod
    def load(cls, folder: Path) -> "Selection":
        """Load the folder. Raises FileNotFoundError naming `dvc repro selection` if the stage has not run."""
        path = Path(folder) / "selection.json"
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; run `dvc repro selection`")
        settings, fitted = json.loads(path.read_text()), Path(folder) / "engage"
        trees = Engage.load(fitted) if fitted.exists() else None
        return cls(settings["merge"], Value(**settings["value"]), settings["trade_off"], trees, settings["report"])


def select(
    requests: Sequence[HeldOut],
    start: Selection,
    *,
    reranker: Reranker,
    facts: Catalogue,
    seed: int,
    surfaces: Surfaces = NO_OVERRIDES,
) -> Selection:
    """Choose the merge, then the order of its candidates; `reranker` makes the slates that are compared with baselines.

    The release's own settings are chosen, and each request is answered with what `surfaces` makes of them. The merge is chosen
    on surfaces without a merge of their own.
    """
    if not requests:
        return start
    requests = weighted(requests)
    own = [each for each in requests if surfaces.merge(each.surface, start.merge) == start.merge] or requests
    problem = _merge_problem(own, start.merge)
    merge = {**start.merge, "weights": _weights(own, problem, start.merge, seed)}
    merged = [Merged.of(request, surfaces.merge(request.surface, merge)) for request in requests]
    scored, trees = _cross_fitted(merged, _halves(requests), seed)
    orders = Orders.of(requests, scored, start.value, surfaces, seed=seed)
    served = _served(requests, scored, orders, reranker, facts, seed, surfaces)
    value = served.value
    report = {
        "requests": len(requests),
        "merge": {name: problem.quality(vector(weights)) for name, weights in _merges(start.merge, merge).items()},
        "weights": merge["weights"],
        "orders": orders.report,
        "engage": value.engage,
        "source": value.source,
        "trade_off": served.trade_off,
        "slate": served.against,
        "verdict": served.verdict,
    }
    return Selection(merge, value, served.trade_off, trees, report)


def weighted(requests: Sequence[HeldOut]) -> list[HeldOut]:
    """Return the requests with weights in units of their median, clipped, 1 where unknown; all 1 without propensities."""
    inverse = np.concatenate([each.weights for each in requests])
    median = float(np.median(inverse[known])) if (known := np.isfinite(inverse)).any() else 1.0
    clipped = (np.minimum(np.nan_to_num(each.weights / median, nan=1.0, posinf=MOST_WEIGHT), MOST_WEIGHT) for each in requests)
    return [replace(each, weights=weights) for each, weights in zip(requests, clipped, strict=True)]


# ---- merge -------------------------------------------------------------------------------------------------------------


def _merge_problem(requests: Sequence[HeldOut], merge: Mapping) -> MergeProblem:
    watched = [np.isin(request.rows, request.watched) for request in requests]
    missed = [len(request.watched) - int(each.sum()) for request, each in zip(requests, watched, strict=True)]
    ranks, depths = [request.ranks for request in requests], (*MERGE_DEPTHS, merge["most"])
    return MergeProblem.of(ranks, watched, missed, constant=merge["constant"], depths=depths)


def _weights(requests: Sequence[HeldOut], problem: MergeProblem, merge: Mapping, seed: int) -> Mapping[str, float]:
    """Return the weights that the search chose, or those of `merge` where the gain in recall is within noise: that of weights
    chosen on the viewers of one half for those of the other."""
    viewers, halves, start = _viewers(requests), _halves(requests), vector(merge["weights"])
    if len(np.unique(halves)) < HALVES:  # there is one viewer
        return merge["weights"]
    gains = np.zeros(len(requests))
    for half in range(HALVES):
        other = _merge_problem([each for each, at in zip(requests, halves, strict=True) if at != half], merge)
        gain = problem.recalls(vector(chosen_weights(other, merge["weights"]))) - problem.recalls(start)
        gains[halves == half] = gain[halves == half]
    low, _ = metrics.interval(gains, seed=seed, viewers=viewers)
    return chosen_weights(problem, merge["weights"]) if low > 0 else merge["weights"]


def _merges(start: Mapping, chosen: Mapping) -> dict[str, Mapping[str, float]]:
    """Return name > weights of the merges that the report compares."""
    return {"chosen": chosen["weights"], "start": start["weights"]} | {name: {name: 1.0} for name in SOURCES}


# ---- order -------------------------------------------------------------------------------------------------------------


def _viewers(requests: Sequence[HeldOut]) -> np.ndarray:
    return np.array([str(request.query.request.user_id) for request in requests])


def _halves(requests: Sequence[HeldOut]) -> np.ndarray:
    """Return the half (R,) of each request; all requests of a viewer are in one."""
    return np.unique(_viewers(requests), return_inverse=True)[1] % HALVES


def _cross_fitted(merged: Sequence[Merged], halves: np.ndarray, seed: int) -> tuple[list[Scored], Engage | None]:
    """Score every request with trees of the other half; also return the trees of all. Without enough watches, none."""
    parts = [[each for each, half in zip(merged, halves, strict=True) if half != other] for other in range(HALVES)]
    with ThreadPoolExecutor() as pool:  # each fit has one thread, so that its trees do not depend on the processor
        *of_half, whole = pool.map(partial(_fitted, seed=seed), [*parts, merged])
    if any(trees is None for trees in of_half):
        return [each.scored(None) for each in merged], None
    return [each.scored(of_half[half]) for each, half in zip(merged, halves.tolist(), strict=True)], whole


def _fitted(merged: Sequence[Merged], seed: int) -> Engage | None:
    watched = np.concatenate([np.zeros(0), *(each.watched for each in merged)])
    if np.count_nonzero(watched) < LEAST_POSITIVES:
        return None
    # Imported here, as loading a selection fits nothing, and XGBoost takes a second to import.
    from watchnext.ranking.models.trees.boosted import fit_engage

    return fit_engage(np.concatenate([each.columns for each in merged], axis=1), watched, seed=seed)


@dataclass(frozen=True)
class Orders:
    """Orders by name with the recall (R, DEPTHS) of each: powers of `engage`, the merge, and the list of every source that is
    long enough; and which have enough: ENOUGH of the best recall and as much as the merge, or of weighted watches, which vary
    more, what is within noise of the best."""

    values: Mapping[str, Value]
    recalls: Mapping[str, np.ndarray] = field(repr=False)
    enough: Mapping[str, bool]

    @classmethod
    def of(
        cls, requests: Sequence[HeldOut], scored: Sequence[Scored], value: Value, surfaces: Surfaces, *, seed: int
    ) -> "Orders":
        powers = POWERS if scored[0].engage is not None else (0.0,)
        listing = np.mean([(request.ranks > 0).sum(axis=0) for request in requests], axis=0)
        alone = [name for name, listed in zip(SOURCES, listing, strict=True) if listed >= max(DEPTHS)]
        values = {f"engage {power:g}": replace(value, engage=power, source=None) for power in powers}
        values |= {name: replace(value, engage=0.0, source=name) for name in (MERGE, *alone)}

        def ranked(order: Value) -> list[np.ndarray]:
            scores = [surfaces.value(of.surface, order).order(each) for of, each in zip(requests, scored, strict=True)]
            return [each.candidates.rows[np.argsort(-by, kind="stable")] for each, by in zip(scored, scores, strict=True)]

        recalls = {name: recalls_of(ranked(order), requests) for name, order in values.items()}
        best = max(recalls.values(), key=np.mean)
        # Ranking must not undo what retrieval has found; weighed recall is too uncertain to say whether it does.
        least = recalls[MERGE].mean() if _alike(requests) else 0.0
        enough = {name: each.mean() >= least and _has_enough(each, best, requests, seed=seed) for name, each in recalls.items()}
        return cls(values, recalls, enough)

    @property
    def chosen(self) -> Value:
        """The first order with enough of the best recall.

        Powers stand first and ascend, so that the value of an impression counts for as much as recall allows: recall knows only
        what was shown, and on simulated worlds more of it is not always more of what viewers would like.
        """
        return next(self.values[name] for name, enough in self.enough.items() if enough)

    @property
    def instead(self) -> list[Value]:
        """Orders that may serve where the slate of the chosen one loses to a baseline: the merge and sources, best first."""
        means = {name: float(np.nanmean(self.recalls[name])) for name, value in self.values.items() if value.source}
        return [self.values[name] for name in sorted(means, key=means.__getitem__, reverse=True)]

    @property
    def report(self) -> dict[str, dict[str, float]]:
        return {name: _by_depth(np.nanmean(recalls, axis=0)) for name, recalls in self.recalls.items()}


def _most_diverse(
    requests: Sequence[HeldOut],
    scored: Sequence[Scored],
    reranker: Reranker,
    value: Value,
    facts: Catalogue,
    surfaces: Surfaces,
    *,
    seed: int,
) -> tuple[float, list[np.ndarray]]:
    """Return the trade-off with the most diversity that keeps enough of the recall without any, and the slate of each request.

    No trade-off has more diversity than the configured one.
    """

    def slates(trade_off: float) -> list[np.ndarray]:
        diversity = replace(reranker.diversity, trade_off=trade_off)
        tried = Reranker(value=value, rules=reranker.rules, diversity=diversity, exploration=reranker.exploration)
        by_surface = {surface: surfaces.reranker(surface, tried) for surface in {each.surface for each in requests}}
        queries = [request.query for request in requests]
        contexts = [RuleContext.of(query, facts=facts, region_bits=facts.region_bits) for query in queries]
        return [
            each.candidates.rows[by_surface[query.request.surface].rerank(each, query.request, context).picked]
            for each, query, context in zip(scored, queries, contexts, strict=True)
        ]

    without = slates(1.0)
    most = recalls_of(without, requests)
    configured = reranker.diversity.trade_off
    for trade_off in (configured, *(each for each in TRADE_OFFS if each > configured)):
        if _has_enough(recalls_of(shown := slates(trade_off), requests), most, requests, seed=seed):
            return trade_off, shown
    return 1.0, without


def _has_enough(recalls: np.ndarray, best: np.ndarray, requests: Sequence[HeldOut], *, seed: int) -> bool:
    """Say whether recall (R, DEPTHS) is ENOUGH of the `best`, or, of weighed watches, lacks no more of it than noise."""
    if recalls.mean() >= ENOUGH * best.mean():
        return True
    lacking = (best - recalls).mean(axis=1)
    return not _alike(requests) and metrics.interval(lacking, seed=seed, viewers=_viewers(requests))[0] <= 0


def recalls_of(ranked: Sequence[np.ndarray], requests: Sequence[HeldOut]) -> np.ndarray:
    """Return the recall (R, DEPTHS) of each request, whose mean is that of all.

    Watches of equal weight are shared out within each request. Inverse propensities count over all requests together
    (self-normalised: Swaminathan & Joachims, NeurIPS 2015), as within a request of few watches the weights would cancel out.
    """
    worth, found = [each.worth for each in requests], []
    for rows, request, weights in zip(ranked, requests, worth, strict=True):
        listed = request.relevant[:, None] == rows[: max(DEPTHS)]
        found.append([weights @ listed[:, :k].any(axis=1) for k in DEPTHS])
    total = np.array([each.sum() for each in worth])
    return np.array(found) / (total if _alike(requests) else total.mean())[..., None]


def _alike(requests: Sequence[HeldOut]) -> bool:
    """Say whether all watches count the same."""
    return all((each.weights == 1.0).all() for each in requests)


def _by_depth(values: Sequence) -> dict[str, object]:
    return {f"recall@{k}": value for k, value in zip(DEPTHS, values, strict=True)}


# ---- verdict -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Served:
    """A value with the diversity chosen for it, and its slates beside the baselines."""

    value: Value
    trade_off: float
    against: Mapping[str, Mapping]

    @property
    def verdict(self) -> dict[str, str]:
        """Baseline > depths at which the slates lose to it beyond the interval."""
        lost = {
            name: ", ".join(depth for depth, (_, _, high) in entry["gain"].items() if high < 0)
            for name, entry in self.against.items()
            if "gain" in entry
        }
        return {name: depths for name, depths in lost.items() if depths}


def _served(
    requests: Sequence[HeldOut],
    scored: Sequence[Scored],
    orders: Orders,
    reranker: Reranker,
    facts: Catalogue,
    seed: int,
    surfaces: Surfaces,
) -> Served:
    """Return the chosen order, or where its slates lose to a baseline, the first of `instead` that loses to none."""

    def tried(value: Value) -> Served:
        trade_off, slates = _most_diverse(requests, scored, reranker, value, facts, surfaces, seed=seed)
        return Served(value, trade_off, beside_baselines(requests, slates, seed))

    first = tried(orders.chosen)
    if not first.verdict:
        return first
    return next((each for each in map(tried, orders.instead) if not each.verdict), first)


def beside_baselines(requests: Sequence[HeldOut], slates: Sequence[np.ndarray], seed: int) -> dict[str, dict]:
    """Return the recall of the slates, and of every baseline with what the slates gain on it: mean and 95% interval over
    viewers, of all comparisons together, as one loss of many would often be chance."""
    viewers, slate = _viewers(requests), recalls_of(slates, requests)
    drawn = {"seed": seed, "viewers": viewers, "resamples": RESAMPLES, "comparisons": len(requests[0].baselines) * len(DEPTHS)}
    report = {"slate": _by_depth(slate.mean(axis=0).tolist())}
    for name in requests[0].baselines:
        recalls = recalls_of([request.baselines[name] for request in requests], requests)
        gains = [[float(gain.mean()), *metrics.interval(gain, **drawn)] for gain in (slate - recalls).T]
        report[name] = _by_depth(recalls.mean(axis=0).tolist()) | {"gain": _by_depth(gains)}
    return report
