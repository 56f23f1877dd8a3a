"""Decide on a candidate: by guards, by replay, which may only reject or shortlist, and by live traffic, which must be won."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from watchnext.evaluation.experiment.relative import FEWEST
from watchnext.lifecycle.promotion.live_result import LiveResult
from watchnext.lifecycle.promotion.replay_comparison import ReplayComparison

PROMOTED, SHORTLISTED, KEPT, REJECTED, FORCED = "promoted", "shortlisted", "kept", "rejected", "forced"
WITHOUT_CHAMPION = "no release serves, and the slate of this one did not lose to a baseline on the validation days"


@dataclass(frozen=True)
class Guard:
    """A measure of the candidate that must not be worse than its limit allows."""

    name: str
    candidate: float
    champion: float
    limit: str
    broken: bool


@dataclass(frozen=True)
class PromotionDecision:
    """A verdict and its reason; `serves` is True where the candidate is to serve."""

    verdict: str
    reason: str

    @property
    def serves(self) -> bool:
        return self.verdict in (PROMOTED, FORCED)


def guards(comparison: ReplayComparison, limits: Mapping[str, float]) -> list[Guard]:
    """Hold a comparison against the limits of conf's `promotion.guards`.

    A measure that the candidate alone lacks (nan) breaks its guard; one that the champion lacks, too or alone, breaks none.
    """
    return [
        *_measured(comparison, limits),
        *_calibrated(comparison, limits["calibration"]),
        *_sliced(comparison, limits["slice"]),
    ]


def _measured(comparison: ReplayComparison, limits: Mapping[str, float]) -> Iterator[Guard]:
    for name, (own, other) in comparison.measures.items():
        limit = limits[name]
        if name in ("coverage", "diversity"):
            yield Guard(name, own, other, f"at least {limit:g} of the champion's", _lacks(own, other) or own < limit * other)
        elif name in ("latency", "size"):
            yield Guard(name, own, other, f"at most {limit:g} times the champion's", _lacks(own, other) or own > limit * other)
        elif name == "index_recall":
            yield Guard(name, own, other, f"at least {limit:g}", not own >= limit)
        else:
            yield Guard(name, own, other, f"at most {limit:g}", not own <= limit)


def _lacks(own: float, other: float) -> bool:
    return math.isnan(own) and not math.isnan(other)


def _calibrated(comparison: ReplayComparison, limit: float) -> Iterator[Guard]:
    for target, (own, other) in comparison.calibration.items():
        broken = _lacks(own, other) or own > other + limit
        yield Guard(f"calibration of {target}", own, other, f"at most {limit:g} above the champion's", broken)


def _sliced(comparison: ReplayComparison, limit: float) -> Iterator[Guard]:
    for name, each in comparison.slices.items():
        own, other = each["mean"]["mean"], each["other"]["mean"]
        lost = each["verdict"] == "lower" and each["difference"] < -limit * other
        yield Guard(f"slice {name}", own, other, f"no clear loss above {limit:.0%}", lost)


def decide(figure: Mapping, checked: list[Guard], live: LiveResult | None, *, least: float) -> PromotionDecision:
    """Decide on a candidate.

    figure  difference of the figure of slates that counts, as in `paired`
    least   smallest relative difference of it, above its noise floor, that counts: of replay, which can only reject

    A broken guard or a replay that is clearly worse rejects. Replay favours what the champion showed, so that no win in it
    promotes: the candidate is shortlisted, until an always-valid interval of live traffic excludes 0. A win of any size is one:
    a release that is trained costs no more than the champion. A tie keeps the champion, and a canary that a guard or a command
    ended rejects.
    """
    if broken := [f"{each.name} is {each.candidate:.4g} beside {each.champion:.4g}, expected {each.limit}" for each in checked
                  if each.broken]:  # fmt: skip
        return PromotionDecision(REJECTED, f"a guard is broken: {'; '.join(broken)}")
    low, high = (100 * figure[end] for end in ("low", "high"))
    replay = f"replay {100 * figure['difference']:+.2f} points [{low:+.2f}, {high:+.2f}]"
    if figure["verdict"] == "lower" and figure["difference"] < -least * figure["other"]["mean"]:
        return PromotionDecision(REJECTED, f"{replay}: clearly worse than the champion on the same days")
    if live is None:
        return PromotionDecision(SHORTLISTED, f"{replay}: not clearly worse; no live traffic was measured yet")
    if live.ended:
        return PromotionDecision(REJECTED, f"its canary ended: {live.ended}; {replay}")
    if math.isnan(live.relative.value):
        few = f"{live.source} of {live.requests:,} requests: fewer than {FEWEST} viewers of a release watched anything so far"
        return PromotionDecision(SHORTLISTED, f"{few}; {replay}")
    value, low, high = (f"{each:+.1%}" for each in live.relative)
    counted = f"{live.source} of {live.requests:,} requests: seconds {value} [{low}, {high}]"
    if live.verdict == "win":
        return PromotionDecision(PROMOTED, f"{counted}, won; {replay}")
    if live.verdict == "loss":
        return PromotionDecision(REJECTED, f"{counted}, lost; {replay}")
    return PromotionDecision(KEPT, f"{counted}, which holds 0: a tie keeps the champion; {replay}")
