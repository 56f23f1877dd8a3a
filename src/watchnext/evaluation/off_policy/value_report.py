"""A release's value on a log as a report and as text."""

import math
from collections.abc import Mapping

import numpy as np

from watchnext.evaluation.off_policy.choice import checked, chosen, disagreement
from watchnext.evaluation.off_policy.estimate import estimated, interval_of
from watchnext.evaluation.off_policy.policy_rates import PolicyRates
from watchnext.evaluation.off_policy.slate_log import SlateLog
from watchnext.evaluation.off_policy.valuation import contributions
from watchnext.metrics import aligned

WARNED = "!"  # in the table, at an estimate with a warning


def value_report(log: SlateLog, rates: PolicyRates) -> dict:
    """Return every estimate of a slate's reward, the one that was chosen, and its gain on the log's own mean; JSON-ready.

    `value` and `gain` of the chosen one are mean, low, high, widened by its disagreement with estimates that assume less.
    """
    every = contributions(log, rates)
    estimates = {f"{level} {form}": estimated(f"{level} {form}", level, log, *parts) for (level, form), parts in every.items()}
    best, logged = chosen([*estimates.values()]), log.reward.sum(axis=1)
    report = {"requests": len(log), "viewers": int(log.viewer.max()) + 1, "loggers": int(log.logger.max()) + 1,
              "logged": _interval(log, logged),
              "estimates": {name: {"value": each.value, "low": each.low, "high": each.high, "effective": each.effective,
                                   "mean_weight": each.mean_weight, "warning": each.warning}
                            for name, each in estimates.items()},
              "chosen": best.name if best else None}  # fmt: skip
    if best:
        values = next(parts[1] for key, parts in every.items() if " ".join(key) == best.name)
        apart = disagreement(best, [*estimates.values()])
        report |= {"value": _interval(log, values, apart), "gain": _interval(log, values - logged, apart), "apart": apart,
                   "checked": checked(best, [*estimates.values()])}  # fmt: skip
    return report


def _interval(log: SlateLog, values: np.ndarray, apart: float = 0.0) -> list[float]:
    """Return the mean of values (R,) and its 95% interval over viewers, widened by a bias of about `apart`."""
    mean, half = interval_of(log, values)
    half = math.hypot(half, apart)
    return [mean, mean - half, mean + half]


def value_table(report: Mapping) -> str:
    """Render the estimates, the warnings, and the choice."""
    reward, left_out = report["reward"], ", ".join(f"{name}: {count:,}" for name, count in report["left_out"].items())
    rows = [["estimator", f"{reward} a slate", "95% interval", "worth", "mean weight", ""]]
    rows.append(["the log itself", *_cells(*report["logged"]), f"{report['requests']:,}", "", ""])
    for name, each in report["estimates"].items():
        mark = "chosen" if name == report["chosen"] else WARNED if each["warning"] else ""
        rows.append([name, *_cells(each["value"], each["low"], each["high"]), f"{each['effective']:,.0f}",
                     f"{each['mean_weight']:.3f}", mark])  # fmt: skip
    return "\n".join([
        f"{report['release']}: {report['requests']:,} requests of {report['viewers']:,} viewers, loggers: {report['loggers']}; "
        "worth: effective number of requests",
        *([f"requests left out, {left_out}"] if left_out else []),
        *aligned(rows),
        *(f"{WARNED} {names}: {warning}" for warning, names in _warnings(report["estimates"]).items()),
        _verdict(report, reward),
    ])  # fmt: skip


def _warnings(estimates: Mapping[str, Mapping]) -> dict[str, str]:
    """Return warning > the levels that have it: all estimators of a level have the same weights."""
    levels: dict[str, list[str]] = {}
    for name, each in estimates.items():
        if each["warning"]:
            levels.setdefault(each["warning"], []).append(name.split()[0])
    return {warning: ", ".join(dict.fromkeys(names)) for warning, names in levels.items()}


def _cells(value: float, low: float, high: float) -> tuple[str, str]:
    return f"{value:.4f}", f"[{low:.4f}, {high:.4f}]"


def _verdict(report: Mapping, reward: str) -> str:
    if not report["chosen"]:
        return (
            "no estimator has enough overlap: this log cannot value the release; evaluate more requests "
            "(off_policy.requests), or log with more exploration (reranking.exploration.epsilon)"
        )
    mean, low, high = report["gain"]
    gain = (
        f"gain of the release on the log, by {report['chosen']}: {mean:+.4f} [{low:+.4f}, {high:+.4f}] {reward} a slate, with "
        f"{report['apart']:.4f} of disagreement with what assumes less"
    )
    return gain if report["checked"] else f"{gain}; unchecked, as no estimator that assumes less has enough overlap"
