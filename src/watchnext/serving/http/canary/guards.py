"""Decide that a canary must end: its figures against those of the serving release, looked at as often as one likes."""

import math
from dataclasses import dataclass

import numpy as np

from watchnext.ratios import ratio
from watchnext.sequential import Spread, always_valid, relative
from watchnext.serving.http.canary.arm_counts import RESULTS, ArmCounts

PLANNED = 100  # answers, or viewers, at which the intervals are narrowest: what is bad must end soon
ALPHA = 0.01  # of each guard


@dataclass(frozen=True, kw_only=True)
class Guards:
    """Bound how much worse than the serving release a challenger may be, with an always-valid interval for each figure.

    errors, degraded, short  largest share of its answers beyond that of the serving release
    slower, slower_ms        an answer is slow above the p99 of the serving release times `slower` plus `slower_ms`
    slow                     largest share of slow answers
    watch                    largest share by which seconds per impression may be lower
    idle                     largest share of viewers who watched nothing beyond that of the serving release
    least, least_viewers     answers of each arm, and viewers (for `watch`, who watched), before which nothing is judged
    """

    errors: float = 0.005
    degraded: float = 0.02
    short: float = 0.02
    slower: float = 1.5
    slower_ms: float = 5.0
    slow: float = 0.02
    watch: float = 0.0
    idle: float = 0.02
    least: int = 30
    least_viewers: int = 50

    def broken(self, challenger: ArmCounts, control: ArmCounts) -> str | None:
        """Return the sentence of the first guard that is broken, None where all hold."""
        if challenger.unruly:
            rules = ", ".join(f"{name} ({count})" for name, count in challenger.unruly.items())
            return f"answers would have broken hard rules: {rules}"
        return (
            self._worse_share(challenger, control) or self._slow(challenger, control) or self._less_watched(challenger, control)
        )

    def _worse_share(self, challenger: ArmCounts, control: ArmCounts) -> str | None:
        for name in RESULTS:
            counts = (challenger.results[name], challenger.answers, control.results[name], control.answers)
            excess, most = share_difference(*counts, least=self.least), getattr(self, name)
            if excess is not None and excess.low > most:
                return (
                    f"{name}: {counts[0]} of {counts[1]} answers against {counts[2]} of {counts[3]}; the share is higher by at "
                    f"least {excess.low:.3f}, expected at most {most:g}"
                )
        return None

    def _slow(self, challenger: ArmCounts, control: ArmCounts) -> str | None:
        times, of_control = challenger.times_ms, control.times_ms
        if min(len(times), len(of_control)) < self.least:
            return None
        edge_ms = self.slower * float(np.quantile(of_control, 0.99)) + self.slower_ms
        slow, slow_of_control = (int((each > edge_ms).sum()) for each in (times, of_control))
        excess = share_difference(slow, len(times), slow_of_control, len(of_control), least=self.least)
        if excess is not None and excess.low > self.slow:
            return f"latency: {slow} of {len(times)} answers took more than {edge_ms:.0f} ms, expected a share of {self.slow:g}"
        return None

    def _less_watched(self, challenger: ArmCounts, control: ArmCounts) -> str | None:
        idle = [(int((seconds == 0).sum()), len(seconds)) for seconds, _ in (challenger.watch, control.watch)]
        excess = share_difference(*idle[0], *idle[1], least=self.least_viewers)
        if excess is not None and excess.low > self.idle:
            return f"watch time: {idle[0][0]} of {idle[0][1]} viewers watched nothing, against {idle[1][0]} of {idle[1][1]}"
        change = watch_change(challenger, control, least=self.least_viewers)
        if change is not None and change.high < -self.watch:
            return f"watch time: seconds per impression changed by {change.value:+.1%} [{change.low:+.1%}, {change.high:+.1%}]"
        return None


def share_difference(first: int, of_first: int, second: int, of_second: int, *, least: int) -> Spread | None:
    """Return the difference of two shares with its always-valid interval; None for fewer than `least` of either.

    One more of each kind is counted (Agresti & Caffo, 2000), as no failure in thirty answers is no certainty.
    """
    if min(of_first, of_second) < least:
        return None
    shares = [((count + 1) / (total + 2), total + 2) for count, total in ((first, of_first), (second, of_second))]
    error = math.sqrt(sum(share * (1 - share) / total for share, total in shares))
    return always_valid(shares[0][0] - shares[1][0], error, min(of_first, of_second), planned=PLANNED, alpha=ALPHA)


def watch_change(challenger: ArmCounts, control: ArmCounts, *, least: int) -> Spread | None:
    """Return the relative change of seconds per impression with the always-valid interval of its logarithm, the standard errors
    by the delta method over viewers; None where fewer than `least` viewers of either arm watched anything."""
    tried, kept = challenger.watch, control.watch
    if min(np.count_nonzero(seconds) for seconds, _ in (tried, kept)) < least:
        return None
    (value, error), (base, base_error) = ratio(*tried), ratio(*kept)
    viewers = min(len(tried[0]), len(kept[0]))
    return relative(value / base, math.hypot(error / value, base_error / base), viewers, planned=PLANNED, alpha=ALPHA)
