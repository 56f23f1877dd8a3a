"""The result type of loaders.

A loader is configured in `conf/data/<name>.yaml`; `read()` converts one layout to `Tables` and keeps the rejected rows.
"""

from dataclasses import dataclass
from typing import Protocol

import polars as pl

from watchnext.data.tables import Tables

# `row` counts from 0 within its file, or, after loading, within the table; `value` is the invalid value.
REJECTED = {"table": pl.String, "row": pl.Int64, "reason": pl.String, "value": pl.String}


@dataclass(frozen=True)
class Loaded:
    """Tables of one data set, the rejected rows (columns as in REJECTED), and notes on conversions."""

    tables: Tables
    rejected: pl.DataFrame
    notes: tuple[str, ...] = ()


class Loader(Protocol):
    """Converts one layout to the canonical tables."""

    def read(self) -> Loaded: ...
