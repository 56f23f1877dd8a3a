"""Skew: what the server read against what release and journal give again, column by column."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from watchnext.metrics import aligned
from watchnext.serving.funnel.served.repeated import differences, repeatable, repeated
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store

REQUESTS = 1_000  # the last ones are compared


@dataclass(frozen=True)
class Skew:
    """The largest difference of each column over `requests`, 0 where all are the same bit for bit, inf where texts or the shown
    videos differ; `left_out` answers cannot be recomputed."""

    columns: Mapping[str, float]
    requests: int
    left_out: int

    @property
    def apart(self) -> list[str]:
        """The columns that differ, largest first."""
        return sorted((name for name, value in self.columns.items() if value), key=self.columns.__getitem__, reverse=True)

    @property
    def verdict(self) -> str:
        return ("skew" if self.apart else "none") if self.requests else "no data"

    @property
    def exit_code(self) -> int:
        return {"none": 0, "skew": 2, "no data": 3}[self.verdict]

    @property
    def report(self) -> dict:
        columns = {name: value if np.isfinite(value) else "differs" for name, value in self.columns.items()}
        return {"verdict": self.verdict, "requests": self.requests, "left_out": self.left_out, "columns": columns}

    def __str__(self) -> str:
        lines = [(name, f"{self.columns[name]:.3g}") for name in self.apart]
        about = f"{len(self.columns)} columns of {self.requests} requests, {self.left_out} left out"
        return "\n".join([f"skew: {self.verdict}; {len(self.apart)} of {about}", *(f"  {line}" for line in aligned(lines))])


def skew_of(answers: pl.DataFrame, release: Release, store: Store) -> Skew:
    """Compare the last answers of a served log, all of one release.

    Raises ReleaseError or StoreError where the state of their moments cannot be had again.
    """
    whole = repeatable(answers, store).sort("journal_position")
    compared = whole.tail(REQUESTS)
    columns: dict[str, float] = {}
    for one in repeated(compared, release, store):
        for name, apart in differences(one).items():
            columns[name] = max(columns.get(name, 0.0), apart)
    return Skew(columns, requests=len(compared), left_out=len(answers) - len(whole))
