"""Logged slates with propensities, as matrices by request and position, and the checks that they must pass. R requests."""

from dataclasses import dataclass

import numpy as np

LOGGING = "log the probability of each video at its position given those above it (`propensity` in docs/data_card.md)"


class OffPolicyError(ValueError):
    """A log or a policy that cannot be evaluated; the message names the value, the rows and the next command."""


@dataclass(frozen=True, kw_only=True)
class SlateLog:
    """Logged slates. Positions behind the end of a slate are False in `shown`, and hold reward 0 and propensity 1.

    shown (R, K) bool       the positions of each slate
    reward (R, K)           what each shown video earned
    propensity (R, K)       probability that the logger shows this video at this position, given those above it
    viewer, logger (R,)     numbers from 0 without gaps
    rows (R, K) int64       the row of the raw columns, -1 behind the end
    """

    shown: np.ndarray
    reward: np.ndarray
    propensity: np.ndarray
    viewer: np.ndarray
    logger: np.ndarray
    rows: np.ndarray

    @classmethod
    def of(
        cls,
        *,
        request: np.ndarray,
        viewer: np.ndarray,
        position: np.ndarray,
        reward: np.ndarray,
        propensity: np.ndarray,
        logger: np.ndarray | None = None,
    ) -> "SlateLog":
        """Read columns of N shown videos in any order.

        `propensity` is (N,), or (N, L) under each of the L loggers: then `logger` numbers them, and weights are balanced over
        them. Raises OffPolicyError.
        """
        logger = np.zeros(len(request), np.int64) if logger is None else np.asarray(logger)
        reward, propensity = np.asarray(reward, np.float64), np.asarray(propensity, np.float64)
        _require_rows(request)
        _require_probabilities("propensity", propensity, low_open=True)
        _require_rewards(reward)
        rows = _matrix(request, position)
        groups = [_one_each(name, values, request, rows) for name, values in (("viewer", viewer), ("logger", logger))]
        if len(np.unique(groups[0])) < 2:
            raise OffPolicyError(
                f"all {len(reward):,} rows are of one viewer ({viewer[0]}), expected at least 2: intervals are over viewers; "
                "evaluate more requests"
            )
        shown = rows >= 0
        spread = np.where(shown[..., None], propensity.reshape(len(reward), -1)[rows], 1.0)
        return cls(
            shown=shown,
            reward=np.where(shown, reward[rows], 0.0),
            propensity=spread[..., 0] if spread.shape[2] == 1 else balanced(spread, logger[rows[:, 0]]),
            viewer=groups[0],
            logger=groups[1] if spread.shape[2] == 1 else np.zeros(len(rows), np.int64),
            rows=rows,
        )

    def __len__(self) -> int:
        return len(self.shown)

    def spread(self, values: np.ndarray, empty: float = 0.0) -> np.ndarray:
        """Return the values (N, ...) of the raw rows by request and position (R, K, ...), `empty` behind the end of a slate."""
        shown = self.shown.reshape(*self.shown.shape, *(1,) * (values.ndim - 1))
        return np.where(shown, values[self.rows], empty)

    def take(self, requests: np.ndarray) -> "SlateLog":
        """Return the log of the requests of a mask (R,)."""
        parts = {name: values[requests] for name, values in vars(self).items()}
        return SlateLog(**parts | {"viewer": np.unique(parts["viewer"], return_inverse=True)[1]})


def balanced(propensity: np.ndarray, logger: np.ndarray) -> np.ndarray:
    """Return the propensities (R, K) of the mixture of all loggers, from those under each (R, K, L).

    Balanced weights (Agarwal et al., KDD 2017): a slate's probability is the mean over loggers, each by its share of requests.
    That of a position given those above is then the ratio of the mixtures of two prefixes.
    """
    shares = np.bincount(logger, minlength=propensity.shape[2]) / len(logger)
    prefix = np.cumprod(propensity, axis=1) @ shares
    return prefix / np.concatenate([np.ones((len(prefix), 1)), prefix[:, :-1]], axis=1)


def _require_rows(request: np.ndarray) -> None:
    if not len(request):
        raise OffPolicyError("the log has 0 rows, expected shown videos with propensities; choose days with requests")


def _require_probabilities(name: str, values: np.ndarray, *, low_open: bool) -> None:
    wrong = ~np.isfinite(values) | (values < 0) | (values > 1) | (low_open & (values == 0))
    if rows := int(wrong.reshape(len(values), -1).any(axis=1).sum()):
        first = values[wrong][0]
        interval = "(0, 1]" if low_open else "[0, 1]"
        shown = "missing" if np.isnan(first) else f"{first:g}"
        raise OffPolicyError(
            f"{name} is {shown} in the first of {rows:,} wrong rows of {len(values):,}, expected a probability in {interval}; "
            f"{LOGGING}, or leave those requests out"
        )


def _require_rewards(reward: np.ndarray) -> None:
    if not np.isfinite(reward).all():
        raise OffPolicyError(
            f"reward is not finite in {int((~np.isfinite(reward)).sum()):,} of {len(reward):,} rows, expected numbers"
        )
    if reward.min() == reward.max():
        raise OffPolicyError(
            f"reward is {reward[0]:g} in all {len(reward):,} rows, expected two values at least: labels of one class tell no "
            "policy from another; choose another label (off_policy.reward) or more requests"
        )


def _matrix(request: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return the raw rows (R, K). Raises OffPolicyError for positions that are not 0, 1, ... in each request."""
    number = np.unique(request, return_inverse=True)[1]
    given = np.asarray(position, np.float64)
    if missing := int((~np.isfinite(given) | (given < 0)).sum()):
        raise OffPolicyError(
            f"position is missing in {missing:,} of {len(given):,} rows, expected 0, 1, ... in each request: a slate's "
            "propensity is a product over positions; log the position"
        )
    at, order = given.astype(np.int64), np.lexsort((given, number))
    lengths = np.bincount(number)
    expected = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if len(wrong := np.flatnonzero(at[order] != expected)):
        row = order[wrong[0]]
        raise OffPolicyError(
            f"position is {at[row]} in request {request[row]}, expected {expected[wrong[0]]}: {len(wrong):,} of {len(at):,} "
            "rows are not numbered 0, 1, ... within their request; leave out requests of which rows are gone"
        )
    rows = np.full((len(lengths), lengths.max()), -1)
    rows[number, at] = np.arange(len(at))
    return rows


def _one_each(name: str, values: np.ndarray, request: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Number the viewers or loggers (R,) of the requests. Raises OffPolicyError for a request of two."""
    numbers = np.unique(np.asarray(values), return_inverse=True)[1][rows]
    mixed = np.flatnonzero(((numbers != numbers[:, :1]) & (rows >= 0)).any(axis=1))
    if len(mixed):
        own = request[rows[mixed[0], 0]]
        raise OffPolicyError(
            f"request {own} has two values of {name}, as have {len(mixed):,} of {len(rows):,} requests; expected one each: "
            "arms of an experiment do not overlap; fix the log, or leave those requests out"
        )
    return numbers[:, 0]
