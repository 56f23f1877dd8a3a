"""Erase a user everywhere that a project keeps them, and say what stays where, and until when."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.user_rows import erase_from_tables
from watchnext.files import replaced
from watchnext.serving.funnel.ahead.batch import NEWCOMERS
from watchnext.serving.funnel.served.served_log import erase_answers
from watchnext.serving.release.release import releases_in
from watchnext.serving.store.erasure import Receipt, erase_from_folder

RETRAINED = "`dvc repro`, which builds features and a release without them from the tables"


def ids_of(text: str) -> list[int | str]:
    """Return what a user's id may be: the text, and the number that it says."""
    digits = text.removeprefix("-")
    return [text, int(text)] if digits.isdecimal() and -(2**63) <= int(text) < 2**63 else [text]


def erase_everywhere(
    text: str, *, outputs: Path, releases: Path, store: Path | str, served: Path, source: str | None
) -> Iterator[Receipt]:
    """Erase the user whose id is `text` from store, served log, slates and tables; yield a receipt for each place.

    A server that holds the store must be stopped. `source` names the team's own log, which is not touched.
    Raises StoreError and DataError.
    """
    users = ids_of(text)
    yield erase_from_folder(store, users, int(time.time() * 1000))
    yield Receipt(str(served), {"answers": erase_answers(served, users)})
    slates = outputs / "recommendations"
    yield Receipt(str(slates), {"slates": _erase_slates(slates, users)})
    yield Receipt(str(outputs / "tables"), erase_from_tables(outputs / "tables", users))
    yield from _holding(outputs / "features", users, RETRAINED)
    for folder in [releases / name for name in releases_in(releases)] if releases.exists() else []:
        yield from _holding(folder, users, f"{RETRAINED}; then promote it, restart, and `rm -r {folder}`")
    yield Receipt(
        source or "the log", {}, "what the log itself has of them", "you remove it there, before `dvc repro` reads it"
    )


def _erase_slates(folder: Path, users: Sequence[int | str]) -> int:
    removed, names = 0, [str(user_id) for user_id in users]
    for path in sorted(folder.glob("*/part-*.parquet")):
        slates = pl.read_parquet(path)
        left = slates.filter(~pl.col("user_id").cast(pl.String).is_in(names))
        if len(left) < len(slates):
            removed += len(slates) - len(left)
            replaced(path, left.write_parquet)
    for path in sorted(folder.glob(f"*/{NEWCOMERS}")):
        viewers = json.loads(path.read_text())
        if any(str(user) in names for user in viewers):  # the places of the others stay, as a run may go on
            replaced(path, json.dumps([None if str(user) in names else user for user in viewers]))
    return removed


def _holding(folder: Path, users: Sequence[int | str], until: str) -> Iterator[Receipt]:
    """Yield a receipt for a sealed or trained folder that holds the user: it is not edited."""
    ids = folder / "user_table" / "user_ids.npy"
    if ids.exists() and np.isin(np.load(ids).astype(str), [str(user_id) for user_id in users]).any():
        stays = "id in user_table and vocabulary, record and set in state"
        if (folder / "reference").exists():
            stays += ", rows of the reference sample"
        yield Receipt(str(folder), {}, stays, until)
