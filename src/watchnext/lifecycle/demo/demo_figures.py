"""Figures of the demo: seconds by day and arm, training, what the shift cost and how much of it an arm recovered."""

from collections.abc import Mapping, Sequence

import numpy as np

from watchnext.evaluation.experiment.arm_figures import resamples, spread
from watchnext.lifecycle.demo.arms import YARDSTICK

WITHIN_DAYS = 2
UNTRAINED = "streamed"  # in the world with the shift what YARDSTICK is in the one without


def demo_figures(
    watch_s: Mapping[str, np.ndarray], passes: Mapping[str, Sequence[Mapping]], *, shift_day: int, price: float, seed: int
) -> dict:
    """Return the figures of each arm.

    watch_s  arm > seconds (U, days) that each viewer watched on each day; YARDSTICK lived without the shift
    passes   arm > findings of its passes
    price    seconds of watch time that a second of a processor in training costs

    With U the yardstick's seconds a viewer and A the arm's, by day: the arm lost U - A on the day of the shift, and l = U - A
    on the last day within WITHIN_DAYS of it. The shift cost c what UNTRAINED lost on its day, the arm itself where that one is
    not among them, as an arm that trains may be ahead of the yardstick before the shift. The arm recovered 1 - l / c, null
    where c is not above 0. `value_s` is
    watch time less price times training, and `cost_s` the shortfall of the value behind the yardstick's watch time, of all
    viewers and days. Intervals are 95%, by bootstrap over viewers, paired between arms.
    """
    viewers, days = watch_s[YARDSTICK].shape
    weights = resamples(viewers, seed) / viewers
    at = min(shift_day + WITHIN_DAYS, days) - 1
    by_day = {name: weights @ each for name, each in watch_s.items()}
    arms = {
        name: {
            "watch_s": list(spread(means.mean(axis=1))),
            "daily": {"watch_s": means[0].tolist(), "watch_s_2se": (2 * means[1:].std(axis=0)).tolist()},
            **_training(passes.get(name, ())),
        }
        for name, means in by_day.items()
    }
    still = by_day[YARDSTICK]
    for name, means in by_day.items():
        lost = still - means
        watched = float(watch_s[name].sum())
        arms[name] |= {
            "shift_cost_s": list(spread(lost[:, shift_day - 1])),
            "left_s": list(spread(lost[:, at])),
            "recovered": _recovered((still - by_day.get(UNTRAINED, means))[:, shift_day - 1], lost[:, at]),
            "value_s": watched - price * arms[name]["train_s"],
            "cost_s": float(watch_s[YARDSTICK].sum()) - watched + price * arms[name]["train_s"],
        }
    return {"viewers": viewers, "days": days, "shift_day": shift_day, "judged_day": at + 1, "price": price, "arms": arms}


def _training(passes: Sequence[Mapping]) -> dict:
    return {
        "trainings": sum(each["train_s"] > 0 for each in passes),
        "train_s": float(sum(each["train_s"] for each in passes)),
        "promotions": [each["day"] for each in passes if each["decision"] == "promoted"],
        "drifts": [each["day"] for each in passes if each["drift"] == "drift"],
    }


def _recovered(cost: np.ndarray, left: np.ndarray) -> list[float] | None:
    if cost[0] <= 0:
        return None
    with np.errstate(divide="ignore", invalid="ignore"):
        return list(spread(1 - left / np.where(cost > 0, cost, np.nan)))


def verdicts(figures: Mapping) -> dict[str, bool | None]:
    """Return what was expected of the loop, and whether it held; null where it is not known."""
    arms = {name: each for name, each in figures["arms"].items() if name != YARDSTICK}
    loop, daily = arms.get("loop"), arms.get("daily")
    if loop is None:
        return {}
    least_s = min(each["cost_s"] for each in arms.values())  # below 0 where an arm is ahead of the yardstick
    recovered = loop["recovered"]
    return {
        f"recovers 90% of the cost of the shift within {WITHIN_DAYS} days": recovered and recovered[0] >= 0.9,
        "trains less than daily": daily and loop["train_s"] < daily["train_s"],
        "its cost is within 10% of the best arm's": loop["cost_s"] <= least_s + 0.1 * abs(least_s),
    }
