"""Build an online store from a log, day by day, beside the one that serves; the next server with its release starts from it.

In the store's folder, state/<state fingerprint>/ holds the validated tables of the log and the fold with its snapshots, so
that one more day costs the fold of that day and the writing of all records.
"""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from watchnext.data.loaders.canonical import CanonicalTables
from watchnext.data.stage import write_stage
from watchnext.data.storage import StoredTables
from watchnext.data.tables import DataError
from watchnext.features.catalogue import Catalogue
from watchnext.features.state.builder import StateBuilder
from watchnext.features.state.partitions import time_partitions
from watchnext.files import removed
from watchnext.serving.release.release import Release
from watchnext.serving.store.building.bootstrap import put_items, put_origin, put_seen, put_viewers
from watchnext.serving.store.building.opening import carry_current
from watchnext.serving.store.engines.engine import StoreError, StoreHeldError, number_key
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.engines.folder import locked, publish_next
from watchnext.serving.store.erasure import drop_erased
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import journal_of
from watchnext.serving.store.tables.live_videos import live_catalogue
from watchnext.serving.store.tables.meta import put_meta


@dataclass(frozen=True)
class FromLogReport:
    """The result of a build.

    kept, folded   days of the log (days whose times overlap count as one) that were kept, and that were folded again
    because        reason why no more days were kept
    rejected       invalid rows of the log; state/.../tables/rejected.parquet has the reasons
    left_out       impressions of videos that the release does not know
    until_ms       end of the log: it holds the events of the store's journal that were known before; the later ones,
                   `replayed` so far, count on top
    later          outcomes in the log from `until_ms` on that were known before any of the journal's
    switched       True if the new store is in use; False if it waits for a server to start with the release
    """

    kept: int
    folded: int
    because: str | None
    impressions: int
    rejected: int
    left_out: int
    until_ms: int
    later: int
    replayed: int
    switched: bool


def build_from_log(
    folder: Path, release: Release, root: Path, *, snapshots: int, serves: bool, map_bytes: int = MAP_BYTES
) -> FromLogReport:
    """Build the store `folder` from the log in `root` (canonical tables) for `release`, or bring it up to date.

    If the release `serves` and no server holds the store, the new one is used at once; otherwise at the next `Store.open`. A
    running server is not disturbed: events that it acknowledges from now on are counted when the store changes, unless they
    were known before the end of the log.

    Raises DataError for a log that cannot be read, StoreError where another build is running or no video of the log is known.
    """
    folder, root = Path(folder), Path(root)
    work = folder / "state" / release.state_fingerprint
    with closing(locked(work)):
        rejected = write_stage(_loader(root, release), release.pipeline.schema, work / "tables").report["rejected"]
        stored = StoredTables.open(work / "tables", repair=_command(root))
        _require_sound(stored, release, root)
        catalogue = _catalogue(folder, release, map_bytes)
        days, known = time_partitions(stored), {"schema": release.pipeline.schema, "catalogue": catalogue}
        state = StateBuilder(work / "fold", stored, days, **known, settings={}, through=len(days) - snapshots)
        kept, because = state.plan()
        state.fold()
        state.close()
        impressions = sum(entry.rows for entry in state.entries)
        left_out = sum(day.rows for day in stored.days) - impressions
        if not impressions:
            raise StoreError(
                f"none of the {left_out} impressions in {root} is of a video that the release {release.id} knows; "
                "name the release that was built with this catalogue (release=ID)"
            )
        until_ms = max(day.last_ms for day in stored.days) + 1
        later, replayed = _write(work / "built", folder, release, state, until_ms, map_bytes)
        publish_next(folder, work / "built")
    return FromLogReport(
        kept=kept,
        folded=len(stored.days) - kept,
        because=because,
        impressions=impressions,
        rejected=sum(rejected.values()),
        left_out=left_out,
        until_ms=until_ms,
        later=later,
        replayed=replayed,
        switched=serves and _switched(folder, release, map_bytes),
    )


def _catalogue(folder: Path, release: Release, map_bytes: int) -> Catalogue:
    """Return the videos of the release and those that were posted to the serving store."""
    if not os.path.lexists(folder / "current"):
        return release.catalogue
    with closing(Environment(folder / "current", durable=False, map_bytes=map_bytes, readonly=True)) as serving:
        return live_catalogue(serving, release, room=0).merged()


def _command(root: Path) -> str:
    return f"python -m watchnext.serving state build --log {root}"


def _loader(root: Path, release: Release) -> CanonicalTables:
    schema = release.folder / "pipeline" / "schema.json"
    numbers = {"video_id": not release.video_ids.are_strings}
    if len(release.user_ids.ids):
        numbers["user_id"] = not release.user_ids.are_strings
    return CanonicalTables(root=str(root), features=str(schema), repair=_command(root), numbers=numbers)


def _require_sound(stored: StoredTables, release: Release, root: Path) -> None:
    """Raise DataError without impressions, and for ids of another type than those of the release: 1 and "1" would be two
    viewers."""
    if not stored.days:
        raise DataError(
            f"{stored.folder} holds no impressions, expected at least one; look at rejected.parquet there for the reasons"
        )
    for name, column, known in (
        ("user_id", stored.users["user_id"], release.user_ids),
        ("video_id", stored.videos["video_id"], release.video_ids),
    ):
        if len(column) and not known.takes(column[0]):
            kind = "String" if known.are_strings else "Int64"
            raise DataError(f"{name} is {column.dtype} in {root} and {kind} in the release {release.id}; write it as {kind}")


def _write(built: Path, folder: Path, release: Release, state: StateBuilder, until_ms: int, map_bytes: int) -> tuple[int, int]:
    """Write the environment: the records after the log, and the later events of the serving store.

    Returns the number of later outcomes of the log, and of events of the journal, that count on top.
    """
    removed(built)
    built.mkdir()
    with closing(Environment(built, durable=False, map_bytes=map_bytes)) as environment:  # synced once, when it closes
        carry_current(folder, environment, map_bytes=map_bytes)
        # A running server saw every outcome from its first event on; earlier ones are only in the log.
        first = min(_known_after(environment, until_ms), default=np.inf)
        later = state.load(len(state.partitions)).pending["known_at"]
        later, records = later[later < first], state.as_of(first)
        for users, viewers in records.viewers.all():
            put_viewers(environment, state.users, users, viewers)
        for row, sets in records.seen.all():
            put_seen(environment, state.users, row, sets)
        put_items(environment, "videos", records.videos)
        put_items(environment, "creators", records.creators)
        drop_erased(environment, state.users, until_ms)
        store = Store(environment, release)
        latest = int(max([store.last_known_at, until_ms - 1, *later.tolist()]))
        put_origin(environment, release, since_ms=until_ms)
        put_meta(environment, last_known_at=number_key(latest))
        return len(later), store.replay()


def _known_after(environment: Environment, until_ms: int) -> Iterator[int]:
    with environment.read() as txn:
        for _, event in journal_of(txn, 0):
            if event.known_at >= until_ms:
                yield event.known_at


def _switched(folder: Path, release: Release, map_bytes: int) -> bool:
    """Let the new store take over; return False if a server holds the old one."""
    try:
        Store.open(folder, release, map_bytes=map_bytes).close()
    except StoreHeldError:
        return False
    return True
