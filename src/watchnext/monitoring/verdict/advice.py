"""Drifted checks by cause, each with a command: what to do about a drift."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from watchnext.monitoring.verdict.checked_window import Check

# Served days enter the log by the loop alone: `dvc repro` trains on those that the log has.
NEWER = "python -m watchnext.lifecycle run loop.most_days=1"
BESIDE = "which the loop adds to the log, and promote what wins; where you write the log yourself: `dvc repro`, then `promote`"

# Cause of the first action of `Check.action`, and the command that follows; a broken input explains everything behind it.
STEPS = {
    "inspect": (
        "missing, stuck or out of range: an input is broken",
        "python -m watchnext.monitoring skew",
        "compare what the server reads with release and journal; then look at what the producer of these columns sends",
    ),
    "check scores": (
        "the scores moved",
        "python -m watchnext.monitoring skew",
        "if inputs drifted too, they explain it; if none did, release and server disagree",
    ),
    "calibrate": (
        "predictions no longer match what happens",
        NEWER,
        f"train and calibrate on the served days, {BESIDE}",
    ),
    "retrain": (
        "viewers, videos or behaviour changed",
        NEWER,
        f"train on the served days, {BESIDE}",
    ),
}


LISTED = 5  # columns of a step in a sentence


@dataclass(frozen=True)
class Step:
    """One thing to do: the cause, the columns that show it, and a command with what it is for."""

    cause: str
    columns: list[str]
    command: str
    purpose: str


def listed(columns: Sequence[str]) -> str:
    """Join names for a sentence, the first LISTED of them."""
    more = len(columns) - LISTED
    return ", ".join(columns[:LISTED]) + (f" and {more} more" if more > 0 else "")


def steps(findings: Mapping[str, Check]) -> list[Step]:
    """Return what to do about drifted checks, most urgent first."""
    by_action = {action: [name for name, check in findings.items() if check.action == action] for action in STEPS}
    return [Step(cause, by_action[action], command, purpose)
            for action, (cause, command, purpose) in STEPS.items() if by_action[action]]  # fmt: skip
