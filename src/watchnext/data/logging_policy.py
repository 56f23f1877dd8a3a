"""How the simulated platform fills its slates: draws of known propensity, and what it showed to whom.

R requests, V videos, K slots.
"""

import numpy as np

SEEN = 600  # a viewer is not shown any of the last so many videos again


class Seen:
    """The last SEEN videos shown to each viewer, in a ring."""

    def __init__(self, users: int):
        self.rows = np.full((users, SEEN), -1, np.int32)
        self.next = np.zeros(users, np.int64)

    def mask(self, users: np.ndarray, videos: int) -> np.ndarray:
        """(R, V); the column that empty places (-1) fall into is cut off."""
        mask = np.zeros((len(users), videos + 1), bool)
        np.put_along_axis(mask, self.rows[users].astype(np.int64) % (videos + 1), True, axis=1)
        return mask[:, :videos]

    def add(self, users: np.ndarray, slates: np.ndarray) -> None:
        """Distinct users (R,), slates (R, K), -1 for no video."""
        row, slot = np.nonzero(slates >= 0)
        place = (self.next[users[row]] + (slates >= 0).cumsum(axis=1)[row, slot] - 1) % SEEN
        self.rows[users[row], place] = slates[row, slot]
        self.next[users] += (slates >= 0).sum(axis=1)


def draw_slates(
    rng: np.random.Generator, scores: np.ndarray, eligible: np.ndarray, explore: np.ndarray, slots: int
) -> tuple[np.ndarray, np.ndarray]:
    """Slates (R, K) and propensities (R, K), without replacement; -1 and nan where nothing is left.

    A slot is uniform with probability `explore` (R,), else softmax of `scores` (R, V), both over what is `eligible` (R, V)
    and not above it.
    """
    # Gumbel-top-k (Kool et al., ICML 2019): the largest of score + Gumbel noise is a softmax draw, and the next largest of
    # those that remain is the next one. Uniform draws take the largest of independent noise.
    rows = np.arange(len(scores))
    keys = np.where(eligible, scores + rng.gumbel(size=scores.shape), -np.inf)
    noise = np.where(eligible, rng.random(scores.shape), -np.inf)
    weights = np.where(eligible, np.exp(scores - scores.max(axis=1, keepdims=True)), 0.0)
    slates, propensities = np.full((len(scores), slots), -1), np.full((len(scores), slots), np.nan)
    for slot in range(slots):
        total, left = weights.sum(axis=1), np.isfinite(keys).sum(axis=1)
        pick = np.where(rng.random(len(scores)) < explore, noise.argmax(axis=1), keys.argmax(axis=1))
        some = left > 0
        soft = np.divide(weights[rows, pick], total, out=np.zeros_like(total), where=total > 0)
        slates[some, slot] = pick[some]
        propensities[some, slot] = ((1 - explore) * soft + explore / np.maximum(left, 1))[some]
        keys[rows, pick] = noise[rows, pick] = -np.inf
        weights[rows, pick] = 0.0
    return slates, propensities
