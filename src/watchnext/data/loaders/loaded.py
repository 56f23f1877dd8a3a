"""What every loader answers with.

A loader is an object configured in `conf/data/<name>.yaml`; `read()` brings one layout into `Tables` and keeps what it refused.
"""

from dataclasses import dataclass
from typing import Protocol

import polars as pl

from watchnext.data.tables import Tables

# `row` counts from 0 within the file the row came from, or, after loading, within the table; `value` is what was wrong with it.
REJECTED = {"table": pl.String, "row": pl.Int64, "reason": pl.String, "value": pl.String}


@dataclass(frozen=True)
class Loaded:
    """Tables of one data set, the rows that the loader refused (columns as in REJECTED), and what it read as something else."""

    tables: Tables
    rejected: pl.DataFrame
    notes: tuple[str, ...] = ()


class Loader(Protocol):
    """Brings one layout into the canonical tables."""

    def read(self) -> Loaded: ...
