"""Decide whether to train: what waiting until the next pass would lose, against what a training costs.

    loss = W * min(1, decay * age * (1 + min(drift, MOST_DRIFT))) * volume * horizon / (1 + rejected)
    cost = price * seconds of processor time of a training

W is the watch time a day, `age` the days of the log that neither the serving release nor the last training has seen, `drift` by
how many times what matters the worst check of the drift report moved (0 without drift), `volume` the share of `least_rows` that
those days hold, as few rows teach little, and `rejected` the trainings in a row whose release was not let serve: the next may
not be either. Both sides are seconds of watch time.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

MOST_DRIFT = 5.0  # a check that moved further says no more of what is lost


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Expectations of a team.

    decay         share of the watch time that is lost for each day of age
    price         seconds of watch time that a second of training must win back
    horizon_days  days until the next pass
    least_rows    impressions from which on new days teach fully
    most_days     age from which on a release is trained anew whatever it costs; null is never
    train_s       seconds of a training, until one was measured
    """

    decay: float
    price: float
    horizon_days: float
    least_rows: int
    most_days: float | None
    train_s: float

    @classmethod
    def of(cls, settings: Mapping) -> "Costs":
        """Return the expectations among the settings of the loop."""
        return cls(**{name: settings[name] for name in cls.__dataclass_fields__})

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is not None and (value < 0 or (name in ("horizon_days", "least_rows") and value == 0)):
                raise ValueError(f"loop.{name} is {value}, expected a number above 0; see conf/config.yaml")


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Findings of a pass.

    rows, watch_s, days  impressions, seconds of watch time and days of the log that neither the serving release nor the last
                         training has seen
    drift, rejected      as in the formula
    train_s              seconds that the last training took; None before one
    serves               False where no release serves
    is_trained           True where the last training, whose release does not serve, has seen the whole log
    """

    rows: int
    watch_s: float
    days: int
    drift: float
    train_s: float | None
    rejected: int = 0
    serves: bool = True
    is_trained: bool = False


@dataclass(frozen=True)
class Decision:
    """`train` or wait, the reason in a sentence, and every term of the formula."""

    train: bool
    reason: str
    terms: dict[str, float]


def decide(found: Evidence, costs: Costs) -> Decision:
    """Compare the loss of waiting with the cost of training."""
    train_s = costs.train_s if found.train_s is None else found.train_s
    watch_s_a_day = found.watch_s / found.days if found.days else 0.0
    share = min(1.0, costs.decay * found.days * (1 + min(found.drift, MOST_DRIFT)))
    volume = min(1.0, found.rows / costs.least_rows)
    loss, cost = watch_s_a_day * share * volume * costs.horizon_days / (1 + found.rejected), costs.price * train_s
    terms = {
        "watch_s_a_day": watch_s_a_day, "age_days": float(found.days), "drift": found.drift, "lost_share": share,
        "rows": float(found.rows), "volume": volume, "rejected": float(found.rejected), "loss_s": loss, "train_s": train_s,
        "cost_s": cost,
    }  # fmt: skip
    if not found.serves:
        return Decision(True, "no release serves", terms)
    if found.is_trained:
        return Decision(False, "the last training has seen the whole log, and its release waits or was rejected", terms)
    if not found.rows:
        return Decision(False, "the serving release has seen the whole log", terms)
    if costs.most_days is not None and found.days >= costs.most_days:
        return Decision(True, f"{found.days} days of the log are new, expected at most {costs.most_days:g}", terms)
    sides = f"waiting loses {loss:,.0f} s of watch time, a training costs {cost:,.0f} s"
    if found.rejected:
        sides = f"{sides}; of the last trainings {found.rejected} in a row did not serve"
    return Decision(loss > cost, sides, terms)
