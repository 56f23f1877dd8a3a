"""Value a policy on simulated logs whose truth is known: `python -m benchmarks.off_policy`.

Viewers, videos, long views and the examination by position are those of `watchnext.simulator.world.World`. The policy is of the
release's kind: the greedy pass of re-ranking with diversity, a creator cap and epsilon exploration. Each request has 10 videos,
of which 4 are shown: few enough to compute the probability of every slate, and so the exact value. The logger picks a share of
the positions by a softmax of another value, and the others as the policy would; the share sets the overlap. A run draws
viewers, their requests, slates and long views anew.

The last line is one JSON object, by overlap:

    truth, logged   mean long views of a slate under the policy, and under the logger
    effective       effective share of the requests, of slates and of clusters
    estimators      name > root mean square error, bias, and coverage of the 95% interval and of one by 200 bootstraps
    chosen          the same of the estimator that was chosen in each run, with its interval widened by its disagreement with
                    those that assume less: coverage, that of its interval as estimated, how many times wider it is, the ratio
                    of its error to that of the estimator with the least, and the names with their runs
"""

import argparse
import json
import math
from collections import Counter, defaultdict
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
from tqdm import tqdm

from watchnext.cli import exits_on
from watchnext.evaluation.off_policy.choice import chosen, disagreement
from watchnext.evaluation.off_policy.estimate import estimated
from watchnext.evaluation.off_policy.policy_rates import PolicyRates
from watchnext.evaluation.off_policy.slate_log import SlateLog
from watchnext.evaluation.off_policy.valuation import contributions
from watchnext.metrics import rounded
from watchnext.reranking.diversity import Diversity, Similarity, scaled
from watchnext.reranking.greedy import NOTHING
from watchnext.reranking.limits import SlateRules
from watchnext.reranking.rules.caps import CreatorCap
from watchnext.reranking.rules.rule import RuleContext
from watchnext.reranking.slate_policy import SlatePolicy
from watchnext.simulator.behaviour import DAY_MS
from watchnext.simulator.mechanisms import POSITION_LAWS, SURFACES, Mechanisms, continues
from watchnext.simulator.world import World

VIDEOS, SLOTS, TIMES, CLUSTERS = 10, 4, 3, 4  # of a request; requests of a viewer; of the catalogue
OVERLAPS = {"wide": 0.3, "medium": 0.6, "thin": 0.85}  # share of positions that the logger draws otherwise than the policy
BOOTSTRAPS = 200
DISCOVER = SURFACES.index("discover")


@dataclass(frozen=True)
class Requests:
    """Every request that a run may draw, M = viewers * TIMES, with C videos each.

    long_view (M, C)   true probabilities
    policy (M, C, ...) joint probability of every prefix of 1 to SLOTS videos under the policy
    logger             the softmax's log odds (M, C) at sharpness 1
    goes_on            probability that a viewer goes on from each position, without and after a long view there
    features (M, C, F), cluster (M, C)
    """

    long_view: np.ndarray
    policy: list[np.ndarray]
    logger: np.ndarray
    goes_on: list[list[float]]
    features: np.ndarray
    cluster: np.ndarray


def requests_of(viewers: int, seed: int, epsilon: float, law: str) -> Requests:
    rng = np.random.default_rng(seed)
    world = World(users=viewers, videos=2000, days=5, seed=seed, mechanisms=Mechanisms(baseline=-1.0, position_law=law))
    users = np.repeat(np.arange(viewers), TIMES)
    times = world.start_ms + rng.integers(0, 5 * DAY_MS, len(users))
    rows = np.stack([rng.choice(2000, VIDEOS, replace=False) for _ in users])
    long_view = world.truth(users[:, None], rows, times[:, None]).probability["long_view"]
    log_odds = np.log(long_view / (1 - long_view))
    value = log_odds + 0.7 * rng.standard_normal(rows.shape)  # the ranker's, which is not the truth
    catalogue = world.catalogue
    facts = SimpleNamespace(
        creator_rows=catalogue["creator"], tag_rows=catalogue["tags"].astype(np.int32), vectors=catalogue["latent"]
    )
    policies = [policy_of(facts, own[np.argsort(-v)], np.sort(v)[::-1], epsilon) for own, v in zip(rows, value, strict=True)]
    order = np.argsort(-value, axis=1)
    rows, long_view, value = (np.take_along_axis(each, order, axis=1) for each in (rows, long_view, value))
    directions = rng.standard_normal((CLUSTERS, catalogue["latent"].shape[1]))
    return Requests(
        long_view=long_view,
        policy=[np.stack(each) for each in zip(*(prefixes(one) for one in tqdm(policies, desc="policy")), strict=True)],
        logger=value + 0.5 * rng.standard_normal(rows.shape),
        features=np.stack([value, np.exp(value) / (1 + np.exp(value))], axis=2),
        goes_on=[
            [continues.py_func(POSITION_LAWS.index(law), DISCOVER, k, seen) for seen in (False, True)] for k in range(SLOTS)
        ],
        cluster=(catalogue["latent"][rows] @ directions.T).argmax(axis=2),
    )


def policy_of(facts: SimpleNamespace, rows: np.ndarray, values: np.ndarray, epsilon: float) -> SlatePolicy:
    context = RuleContext(seen=NOTHING, region=None, facts=facts, region_bits={})
    return SlatePolicy(
        rows=rows,
        outside=0,
        slots=SLOTS,
        relevance=scaled(values),
        similarity=Similarity.of(rows, facts),
        diversity=Diversity(trade_off=0.8),
        limits=SlateRules([CreatorCap(most=1)]).limits(rows, context),
        epsilon=epsilon,
        continuation=1.0,
    )


def prefixes(policy: SlatePolicy) -> list[np.ndarray]:
    """Return the joint probabilities of all prefixes of 1 to SLOTS videos: (C,), (C, C), ..."""
    joint, found = np.ones(()), []
    for slot in range(SLOTS):
        following = np.zeros((*joint.shape, VIDEOS))
        for given in np.argwhere(joint > 0) if slot else [NOTHING]:
            following[tuple(given)] = policy.following(given)
        joint = joint[..., None] * following
        found.append(joint)
    return found


def logger_of(requests: Requests, share: float) -> list[np.ndarray]:
    """Return the joint probabilities (M, C, ...) of all prefixes under a logger that draws a `share` of the positions by the
    softmax of those that are left, and the others as the policy would."""
    mass = np.exp(requests.logger - requests.logger.max(axis=1, keepdims=True))
    joint, left, policy_above, found = np.ones(len(mass)), mass, np.ones(len(mass)), []
    for policy in requests.policy:
        own = np.divide(policy, policy_above[..., None], out=np.zeros_like(policy), where=policy_above[..., None] > 0)
        softmax = left / left.sum(axis=-1, keepdims=True)
        may_be = own.sum(axis=-1, keepdims=True) > 0
        joint = joint[..., None] * np.where(may_be, share * softmax + (1.0 - share) * own, softmax)
        found.append(joint)
        left, policy_above = left[..., None, :] * (1.0 - np.eye(VIDEOS)), policy
    return found


def long_views(requests: Requests, joint: list[np.ndarray]) -> float:
    """Return the exact mean number of long views of a slate."""
    long_view, total, examined = requests.long_view, 0.0, np.ones(len(requests.long_view))
    for slot, prefix in enumerate(joint):
        here = long_view.reshape(len(long_view), *(1,) * slot, VIDEOS)
        total += (prefix * examined[..., None] * here).sum()
        other, viewed = requests.goes_on[slot]
        examined = examined[..., None] * (here * viewed + (1.0 - here) * other)
    return float(total / len(long_view))


class Worlds:
    """The requests under one logger: its logs, the policy's rates on them, and both exact values."""

    def __init__(self, requests: Requests, logger: list[np.ndarray]) -> None:
        self.requests, self.logger = requests, logger
        self.truth, self.logged = (long_views(requests, each) for each in (requests.policy, logger))
        self._at, self._logged_at = (marginals(each) for each in (requests.policy, logger))
        own = np.eye(CLUSTERS)[requests.cluster]
        self._of_cluster, self._cluster_logged = (np.einsum("mkc,mcg->mkg", each, own) for each in (self._at, self._logged_at))
        self._expected_at = np.einsum("mkc,mcf->mkf", self._at, requests.features)

    def drawn(self, viewers: int, rng: np.random.Generator) -> tuple[SlateLog, PolicyRates]:
        """Draw viewers with replacement, one to TIMES requests of each, their slates and long views."""
        who = rng.integers(0, len(self.requests.long_view) // TIMES, viewers)
        asked = rng.random((viewers, TIMES)) < 0.5
        asked[np.arange(viewers), rng.integers(0, TIMES, viewers)] = True
        viewer, time = np.nonzero(asked)
        at = who[viewer] * TIMES + time
        slates, propensity = self._slates(at, rng)
        rows = np.arange(len(at) * SLOTS)
        log = SlateLog.of(
            request=rows // SLOTS,
            position=rows % SLOTS,
            viewer=np.repeat(viewer, SLOTS),
            reward=self._rewards(at, slates, rng).ravel(),
            propensity=propensity.ravel(),
        )
        return log, self.rates(at, slates)

    def _slates(self, at: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        slates, propensity = np.zeros((len(at), SLOTS), np.int64), np.zeros((len(at), SLOTS))
        for slot in range(SLOTS):
            chances = following(self.logger, at, slates[:, :slot])
            slates[:, slot] = (chances.cumsum(axis=1) < rng.random((len(at), 1))).sum(axis=1).clip(max=VIDEOS - 1)
            propensity[:, slot] = chances[np.arange(len(at)), slates[:, slot]]
        return slates, propensity

    def _rewards(self, at: np.ndarray, slates: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        long_view = rng.random(slates.shape) < np.take_along_axis(self.requests.long_view[at], slates, axis=1)
        examined = np.ones(len(at), bool)
        for slot in range(SLOTS):
            long_view[:, slot] &= examined
            examined &= rng.random(len(at)) < np.array(self.requests.goes_on[slot])[long_view[:, slot].astype(int)]
        return long_view.astype(np.float64)

    def rates(self, at: np.ndarray, slates: np.ndarray) -> PolicyRates:
        requests, each = self.requests, np.arange(len(at))
        chances = np.stack([following(requests.policy, at, slates[:, :slot]) for slot in range(SLOTS)], axis=1)
        cluster = np.take_along_axis(requests.cluster[at], slates, axis=1)
        slots = np.arange(SLOTS)
        return PolicyRates(
            given=np.take_along_axis(chances, slates[..., None], axis=2)[..., 0],
            at_position=self._at[at[:, None], slots, slates],
            repeated=np.stack([self._at[at[:, None], slot, slates[:, :slot]].sum(axis=1) for slot in slots], axis=1),
            of_cluster=self._of_cluster[at[:, None], slots, cluster],
            cluster_logged=self._cluster_logged[at[:, None], slots, cluster],
            features=requests.features[at][each[:, None], slates],
            expected=np.einsum("nkc,ncf->nkf", chances, requests.features[at]),
            expected_at=self._expected_at[at],
        )


def marginals(joint: list[np.ndarray]) -> np.ndarray:
    """Return the probability (M, SLOTS, C) of each video at each position, whatever is above it."""
    return np.stack([each.sum(axis=tuple(range(1, each.ndim - 1))) for each in joint], axis=1)


def following(joint: list[np.ndarray], at: np.ndarray, above: np.ndarray) -> np.ndarray:
    """Return the probabilities (n, C) of the next video, given those `above` (n, slot); 0 where these cannot be."""
    slot = above.shape[1]
    prefix = (at, *above.T)
    total = joint[slot - 1][prefix] if slot else np.ones(len(at))
    return np.divide(joint[slot][prefix], total[:, None], out=np.zeros((len(at), VIDEOS)), where=total[:, None] > 0)


def bootstrapped(log: SlateLog, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the intervals (2, E) of BOOTSTRAPS draws of viewers, from contributions (R, E)."""
    totals = np.stack([np.bincount(log.viewer, each) for each in (*values.T, np.ones(len(log)))], axis=1)
    times = rng.multinomial(len(totals), np.full(len(totals), 1 / len(totals)), BOOTSTRAPS) @ totals
    return np.quantile(times[:, :-1] / times[:, -1:], [0.025, 0.975], axis=0)


def figures_of(runs: list[tuple[float, bool, bool]], truth: float) -> dict[str, float]:
    """Summarise the value of each run, and whether its interval and that of the bootstraps hold the truth."""
    values, covered, boots = (np.array(each, float) for each in zip(*runs, strict=True))
    bias = float(values.mean() - truth)
    error = float(np.sqrt(np.mean((values - truth) ** 2)))
    return {"error": error, "bias": bias, "coverage": float(covered.mean()), "bootstrap": float(boots.mean())}


def measured(worlds: Worlds, *, runs: int, viewers: int, seed: int) -> dict:
    """Draw `runs` logs and value the policy on each."""
    found, names, effective, truth = defaultdict(list), Counter(), defaultdict(list), worlds.truth
    widths = []
    rng = np.random.default_rng(seed)
    for _ in tqdm(range(runs), desc="runs"):
        log, rates = worlds.drawn(viewers, rng)
        every = contributions(log, rates)
        answers = [estimated(" ".join(key), key[0], log, *parts) for key, parts in every.items()]
        best = chosen(answers)
        boots = bootstrapped(log, np.stack([values for _, values in every.values()], axis=1), rng).T
        for each, (low, high) in zip(answers, boots, strict=True):
            run = each.value, each.low <= truth <= each.high, low <= truth <= high
            found[each.name].append(run)
            effective[each.level].append(each.effective / len(log))
            if each is best:
                half = math.hypot(best.half, disagreement(best, answers))
                found["chosen"].append((best.value, abs(best.value - truth) <= half, run[1]))
                widths.append(half / best.half)
        names.update([best.name if best else "none"])
    figures = {name: figures_of(values, truth) for name, values in found.items()}
    picked = figures.pop("chosen", {})
    least = min(figures, key=lambda name: figures[name]["error"])
    if picked:
        picked["as_estimated"] = picked.pop("bootstrap")
        picked |= {"wider": float(np.mean(widths)), "of_least": picked["error"] / figures[least]["error"]}
    return {
        "truth": truth,
        "logged": worlds.logged,
        "effective": {level: float(np.mean(shares)) for level, shares in effective.items()},
        "estimators": figures,
        "least": least,
        "chosen": picked | {"names": dict(names)},
    }


@exits_on(ValueError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--viewers", type=int, default=1500, help="of a run")
    parser.add_argument("--population", type=int, default=200, help="viewers of which those of a run are drawn")
    parser.add_argument("--law", default="cascade", choices=POSITION_LAWS, help="of the examination by position")
    parser.add_argument("--epsilon", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    requests = requests_of(options.population, options.seed, options.epsilon, options.law)
    figures = {name: getattr(options, name) for name in ("runs", "viewers", "law", "epsilon", "seed")}
    for name, share in OVERLAPS.items():
        worlds = Worlds(requests, logger_of(requests, share))
        figures[name] = measured(worlds, runs=options.runs, viewers=options.viewers, seed=options.seed)
    print(json.dumps(rounded(figures, 4)))


if __name__ == "__main__":
    main()
