"""Assign viewers to arms by a stable hash: the same viewer has the same arm on every machine, in every process and on every
day."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import pairwise

import numpy as np

POINTS = 2.0**64


class ExperimentError(ValueError):
    """An experiment that cannot be run or read; the message names the arm, value or viewer and the expected one."""


def point_of(salt: str, user_id: int | str) -> float:
    """Return the viewer's point in [0, 1), uniform over viewers and independent of that under another salt.

    >>> round(point_of("2025-03", 7), 6)
    0.994067
    """
    digest = blake2b(f"{salt}\0{type(user_id).__name__}\0{user_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / POINTS


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """Assign each viewer to the arm whose range holds the viewer's point, or to none.

    salt    name of the experiment: another one mixes the viewers anew
    ranges  arm > (start, end) within [0, 1], without overlap. An arm whose end moves up keeps the viewers that it has
    """

    salt: str
    ranges: Mapping[str, tuple[float, float]]

    def __post_init__(self) -> None:
        for arm, (start, end) in self.ranges.items():
            if not 0 <= start <= end <= 1:
                raise ExperimentError(f"arm {arm!r} has the range {start:g} to {end:g}, expected 0 <= start <= end <= 1")
            if start == end:
                raise ExperimentError(f"arm {arm!r} is empty: its range {start:g} to {end:g} holds no viewer; give it a share")
        in_order = sorted(self.ranges.items(), key=lambda each: each[1])
        for (arm, (_, end)), (other, (start, _)) in pairwise(in_order):
            if start < end:
                raise ExperimentError(
                    f"arms {arm!r} and {other!r} overlap from {start:g} to {end:g}: a viewer would be in both; end one where "
                    "the other starts"
                )

    @classmethod
    def of_shares(cls, salt: str, shares: Mapping[str, float]) -> "Assignment":
        """Lay the arms side by side from 0 on. Raises ExperimentError for shares that are negative or beyond 1 in sum."""
        ends = np.cumsum([0.0, *shares.values()])
        if ends[-1] > 1 + 1e-9 or min(shares.values(), default=0) < 0:
            given = ", ".join(f"{arm} {share:g}" for arm, share in shares.items())
            raise ExperimentError(f"the shares are {given}: expected none below 0, and at most 1 in sum")
        spans = pairwise(np.minimum(ends, 1.0).tolist())
        return cls(salt=salt, ranges=dict(zip(shares, spans, strict=True)))

    def arm_of(self, user_id: int | str) -> str | None:
        """Return the arm of a viewer, None outside all ranges."""
        point = point_of(self.salt, user_id)
        return next((arm for arm, (start, end) in self.ranges.items() if start <= point < end), None)

    def positions(self, user_ids: Sequence[int | str]) -> dict[str, np.ndarray]:
        """Return arm > positions (n,) of its viewers in `user_ids`. Raises ExperimentError for an arm without any."""
        arms = np.array([self.arm_of(each) for each in user_ids], object)
        found = {arm: np.flatnonzero(arms == arm) for arm in self.ranges}
        for arm, positions in found.items():
            if not len(positions):
                raise ExperimentError(
                    f"arm {arm!r} is empty: none of {len(user_ids):,} viewers is in it; give it a larger share, or take more "
                    "viewers"
                )
        return found


def require_disjoint(arms: Mapping[str, Sequence[Hashable]]) -> None:
    """Raise ExperimentError unless every arm has viewers and no viewer is in two arms."""
    seen: dict[Hashable, str] = {}
    for arm, viewers in arms.items():
        if not len(viewers):
            raise ExperimentError(f"arm {arm!r} is empty: expected at least one viewer")
        for viewer in dict.fromkeys(np.asarray(viewers).tolist()):
            if other := seen.get(viewer):
                raise ExperimentError(
                    f"viewer {viewer!r} is in arm {other!r} and in arm {arm!r}, so that neither shows what it does alone; drop "
                    "the viewer, or assign by `Assignment`"
                )
            seen[viewer] = arm
