"""The probabilities that a release gives to logged slates: its candidates, ranking and greedy pass, as of the request."""

from dataclasses import dataclass, replace

import numpy as np

from watchnext.ranking.heads import WATCH
from watchnext.reranking.slate_policy import SlatePolicy
from watchnext.serving.funnel.recommender import Recommender
from watchnext.types import Request

DRAWS = 32  # slates of a request that give the probability at a position whatever is above it; any number is unbiased


@dataclass(frozen=True)
class RequestRates:
    """The release on one logged slate of K videos: arrays (K,) and (K, F) as in `PolicyRates`; `clusters` (K, G) is the
    probability of each cluster at each position."""

    given: np.ndarray
    at_position: np.ndarray
    repeated: np.ndarray
    clusters: np.ndarray
    features: np.ndarray
    expected: np.ndarray
    expected_at: np.ndarray


class ReleasePolicy:
    """Value logged slates by a recommender. `clusters` (V,) numbers the cluster of every video of its catalogue."""

    def __init__(self, recommender: Recommender, clusters: np.ndarray) -> None:
        self._recommender, self._clusters = recommender, clusters

    def rates(self, request: Request, shown: np.ndarray, rng: np.random.Generator) -> RequestRates:
        """Return the release's probabilities of the slate `shown` (K,), rows of the catalogue, best first."""
        recommender = self._recommender
        query = recommender.query(replace(request, k=len(shown)))
        scored = recommender.rank(query, recommender.retrieval.retrieve(query, []))
        policy = recommender.policy(query, scored, shown)
        rows, predictions = scored.candidates.rows, scored.predictions
        if policy.outside:
            beside = policy.rows[-policy.outside :]
            encoded = recommender.ranking.encode(query, beside)
            rows, predictions = (
                np.append(rows, beside),
                np.append(predictions, recommender.ranking.predict(query, encoded), axis=0),
            )
        return self._of(policy, shown, _inputs(predictions)[_positions(policy.rows, rows)], rng)

    def _of(self, policy: SlatePolicy, shown: np.ndarray, inputs: np.ndarray, rng: np.random.Generator) -> RequestRates:
        given, slots = _positions(shown, policy.rows), len(shown)
        chances = np.stack([policy.following(given[:slot]) for slot in range(slots)])
        at = marginals(policy, slots, rng)
        own = np.zeros((len(policy.rows), self._clusters.max() + 1))
        own[np.arange(len(own)), self._clusters[policy.rows]] = 1.0
        repeated = np.tril(at[:, given], -1).sum(axis=1)  # of the videos above, at each position
        each = np.arange(slots)
        return RequestRates(
            given=chances[each, given],
            at_position=at[each, given],
            repeated=repeated,
            clusters=at @ own,
            features=inputs[given],
            expected=chances @ inputs,
            expected_at=at @ inputs,
        )


def marginals(policy: SlatePolicy, slots: int, rng: np.random.Generator) -> np.ndarray:
    """Return the probability (slots, N) of each video at each position whatever is above it, as a share of DRAWS slates."""
    shares = np.zeros((slots, len(policy.rows)))
    for draws in rng.random((DRAWS if policy.epsilon else 1, slots, 2)):
        picked = policy.filled(draws).picked  # fewer than the slots where no more may be shown
        shares[np.arange(len(picked)), picked] += 1.0
    return shares / (DRAWS if policy.epsilon else 1)


def _positions(rows: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return the index in `among` (n,) of each of `rows`, all of which it has."""
    order = np.argsort(among, kind="stable")
    return order[np.searchsorted(among, rows, sorter=order)]


def _inputs(predictions: np.ndarray) -> np.ndarray:
    """Return the inputs (N, T) of the reward model: predictions with seconds as a logarithm, 0 where there is none."""
    inputs = np.nan_to_num(predictions.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    inputs[:, WATCH] = np.log1p(np.maximum(inputs[:, WATCH], 0.0))
    return inputs
