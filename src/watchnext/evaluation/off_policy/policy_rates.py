"""The evaluated policy's probabilities for logged slates, and the weights that follow from them."""

from dataclasses import dataclass

import numpy as np

from watchnext.evaluation.off_policy.slate_log import SlateLog

LEVELS = ("slate", "cascade", "position", "cluster")  # fewer assumptions first, less variance last


@dataclass(frozen=True, kw_only=True)
class PolicyRates:
    """The evaluated policy on the slates of a log: matrices (R, K) by request and position.

    given                   probability of the logged video there, given the logged ones above it
    at_position             the same, whatever is above it
    repeated                probability of the videos logged above it, there, which the log cannot repeat
    of_cluster              probability of the logged video's cluster there, whatever is above it
    cluster_logged          the same under the logger
    features (R, K, F)      inputs of the reward model, of the logged video
    expected, expected_at   their mean (R, K, F) over the policy's video there, given those above and whatever is above
    """

    given: np.ndarray
    at_position: np.ndarray
    repeated: np.ndarray
    of_cluster: np.ndarray
    cluster_logged: np.ndarray
    features: np.ndarray
    expected: np.ndarray
    expected_at: np.ndarray

    def take(self, requests: np.ndarray) -> "PolicyRates":
        """Return the rates of the requests of a mask (R,)."""
        return PolicyRates(**{name: values[requests] for name, values in vars(self).items()})


def weights(log: SlateLog, rates: PolicyRates, level: str) -> np.ndarray:
    """Return the importance weights (R, K), 0 behind the end of a slate.

    slate     the ratio of the whole slates' probabilities; no assumption
    cascade   of the videos down to this position: a reward depends on no video below (McInerney et al., KDD 2020; Kiyohara et
              al., WSDM 2022)
    position  of the video at this position: a reward depends on no other video (Li et al., KDD 2018). The log has the
              probability given those above, so the policy's videos that stand above are left out, and the others weigh more
    cluster   of its cluster: a reward depends on the video by its cluster alone (Saito & Joachims, ICML 2022)
    """
    ratios = np.where(log.shown, rates.given / log.propensity, 1.0)
    by_level = {
        "slate": lambda: np.broadcast_to(ratios.prod(axis=1, keepdims=True), ratios.shape),
        "cascade": lambda: np.cumprod(ratios, axis=1),
        "position": lambda: rates.at_position / log.propensity / _share_left(log, rates.repeated),
        "cluster": lambda: rates.of_cluster / rates.cluster_logged,
    }
    return np.where(log.shown, by_level[level](), 0.0)


def _share_left(log: SlateLog, repeated: np.ndarray) -> np.ndarray:
    """Return the policy's mean probability (K,) of videos that do not stand above; 1 where it has none at all."""
    left = np.where(log.shown, 1.0 - repeated, 0.0).sum(axis=0) / log.shown.sum(axis=0)
    return np.where(left > 0, left, 1.0)
