"""`releases/canary.json`: which release is tried on which share of viewers, for all servers of the folder.

The file is replaced whole, and servers look at it as they look at the link `current`.
"""

import json
import logging
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path

from watchnext.assignment import Assignment
from watchnext.files import replaced
from watchnext.serving.release.manifest import NAME, ReleaseError
from watchnext.serving.release.only_one import only_one
from watchnext.serving.release.release import current, release_in, verdict_of

log = logging.getLogger(__name__)
FILE, LOCK = "canary.json", ".canary.lock"
WRITE_S = 2.0  # longest wait for another process that writes the plan
MOST_SHARE = 0.5  # as many viewers of the serving release are compared with those of the challenger
LEAST_SHARE = 1e-6  # below, the ranges of the arms are empty in the precision of a hash
CHALLENGER, CONTROL = "challenger", "control"


@dataclass(frozen=True, kw_only=True)
class CanaryPlan:
    """The release that is tried. Raises ReleaseError for shares out of bounds.

    share   of viewers, in [0, .5], whom the challenger answers
    shadow  of the other requests, in [0, 1], that the challenger scores aside, without effect on the answer
    began   UTC
    ended   why it is tried no more, None while it is
    """

    release: str
    share: float = 0.0
    shadow: float = 0.0
    began: str = ""
    ended: str | None = None

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.release):
            raise ReleaseError(f"{self.release!r} names no release")
        for name, most in (("share", MOST_SHARE), ("shadow", 1.0)):
            value = getattr(self, name)
            if not (isinstance(value, int | float) and 0 <= value <= most):
                raise ReleaseError(f"{name} is {value!r}, expected 0 to {most:g}")
        if self.share == self.shadow == 0:
            raise ReleaseError("share and shadow are 0, expected one above 0; to end a canary, roll it back")
        if 0 < self.share < LEAST_SHARE:
            raise ReleaseError(f"share is {self.share!r}, expected 0, or {LEAST_SHARE:g} to {MOST_SHARE:g}")

    @property
    def days(self) -> float:
        """The days since it began; 0 where that is unknown."""
        try:
            return (datetime.now(UTC) - datetime.fromisoformat(self.began)) / timedelta(days=1)
        except (TypeError, ValueError):
            return 0.0

    @cached_property
    def _assignment(self) -> Assignment:
        ranges = {CHALLENGER: (0.0, self.share), CONTROL: (1.0 - self.share, 1.0)} if self.share else {}
        return Assignment(salt=f"canary {self.release}", ranges=ranges)

    def arm_of(self, user_id: int | str) -> str | None:
        """Return the arm of a viewer: CHALLENGER, CONTROL, or None for a viewer of neither.

        A viewer stays in an arm while the release is the same and its share is not lowered.
        """
        return self._assignment.arm_of(user_id)


def new_plan(release: str, *, share: float, shadow: float) -> CanaryPlan:
    """Return the plan of a canary that begins now. Raises ReleaseError."""
    return CanaryPlan(release=release, share=share, shadow=shadow, began=_now())


def read_plan(root: Path) -> CanaryPlan | None:
    """Return the plan of the folder `root`; None without one, or with one that cannot be read, which is logged."""
    try:
        return plan_in(root)
    except ReleaseError as error:
        log.error("%s", error)
        return None


def plan_in(root: Path) -> CanaryPlan | None:
    """Return the plan of the folder `root`, None without one. Raises ReleaseError for one that cannot be read."""
    path = Path(root) / FILE
    try:
        return CanaryPlan(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, RecursionError, ReleaseError) as error:
        raise ReleaseError(f"{path} cannot be read, no release is tried: {error}; remove it") from error


def write_plan(root: Path, plan: CanaryPlan) -> None:
    """Replace the plan of the folder `root`. Raises HeldError."""
    with _writing(root):
        _replace(root, plan)


def end_plan(root: Path, reason: str, *, release: str | None = None) -> CanaryPlan | None:
    """End the canary of the folder `root`, or with `release` only one of this release; return its plan, None where none is
    under way. Raises ReleaseError for a plan that cannot be read, and HeldError."""
    if _under_way(root, release) is None:  # also in a folder that cannot be written
        return None
    with _writing(root):
        if plan := _under_way(root, release):  # which no other process ended or replaced meanwhile
            _replace(root, replace(plan, ended=f"{reason} ({_now()})"))
        return plan


def _under_way(root: Path, release: str | None) -> CanaryPlan | None:
    plan = plan_in(root)
    return None if plan is None or plan.ended or release not in (None, plan.release) else plan


def _replace(root: Path, plan: CanaryPlan) -> None:
    replaced(Path(root) / FILE, json.dumps(asdict(plan)))


def _writing(root: Path) -> AbstractContextManager[int]:
    """Hold the lock of the plan: who ends the plan that it has read must not end another one. It is not the lock of `current`,
    which may be held for seconds, while guards end a canary at once."""
    return only_one(Path(root) / LOCK, f"writes {Path(root) / FILE}", wait_s=WRITE_S)


def require_challenger(root: Path, plan: CanaryPlan) -> Path:
    """Return the folder of the release that is to be tried. Raises ReleaseError where it serves already, or lost to a baseline
    and would answer viewers."""
    folder = release_in(root, plan.release)
    if folder == current(root):
        raise ReleaseError(f"{plan.release} serves already; try another release, or promote one first")
    if plan.share and (lost := verdict_of(folder)):
        raise ReleaseError(
            f"the slate of {plan.release} lost to the baseline {', '.join(lost)}, so it gets no viewers; score it aside with "
            "share=0 shadow=0.1"
        )
    return folder


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
