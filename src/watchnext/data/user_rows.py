"""Erase a user from the canonical tables. The log that they were made from is the team's own and is not touched."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from watchnext.data.storage import StoredTables, finish, write_day, write_table


def erase_from_tables(folder: Path, user_ids: Sequence[int | str]) -> dict[str, int]:
    """Rewrite the tables in `folder` without the user; return the number of rows removed from each file, nothing where there
    are no tables. Raises DataError for a broken file."""
    folder = Path(folder)
    if not (folder / "days.json").exists():
        return {}
    stored, names = StoredTables.open(folder), [str(user_id) for user_id in user_ids]
    removed, days = {"impressions": 0}, []
    for day in stored.days:
        rows = stored.impressions([day])
        left = _without(rows, names)
        removed["impressions"] += len(rows) - len(left)
        if len(left) == len(rows):
            days.append(day)
        elif len(left):
            days.append(write_day(folder, day.day, left))
    finish(folder, days)
    users, rejected = folder / "users.parquet", folder / "rejected.parquet"
    for path, column in ((users, "user_id"), (rejected, "value")):
        rows = pl.read_parquet(path) if path.exists() else pl.DataFrame({column: []})
        left = _without(rows, names, column)
        removed[path.stem] = len(rows) - len(left)
        if removed[path.stem]:
            write_table(left, path)
    if any(removed.values()):
        (folder / "checks.json").unlink(missing_ok=True)  # what a run would keep; it may quote a rejected id
    return removed


def _without(rows: pl.DataFrame, names: list[str], column: str = "user_id") -> pl.DataFrame:
    return rows.filter(~pl.col(column).cast(pl.String).is_in(names).fill_null(False))
