"""Build the state of a log day by day: keep the valid part of the last build and fold the days after it.

It writes no columns and no labels, so that serving may build its store with it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from watchnext.code_digest import code_of
from watchnext.data.storage import StoredTables
from watchnext.data.tables import DataError, Tables
from watchnext.features.catalogue import Catalogue, Ids
from watchnext.features.state.event_order import PER_ROW, Log
from watchnext.features.state.fold import Layout
from watchnext.features.state.fold_log import CHUNK_VIEWERS, THREADS, ReadBuffers, replay
from watchnext.features.state.history import Watches
from watchnext.features.state.log_arrays import log_of
from watchnext.features.state.partitions import BuildManifest, ManifestEntry, TimePartition, digest_of, time_partitions
from watchnext.features.state.snapshots import Items, Snapshots, with_pending
from watchnext.schema import FeatureSchema


@dataclass(frozen=True)
class EntityRows:
    """The row numbers of users, videos and creators that a state depends on."""

    users: Ids
    catalogue: Catalogue

    @property
    def sizes(self) -> dict[str, int]:
        creators = max(len(self.catalogue.creator_names), 1)
        return {"users": len(self.users.ids), "videos": len(self.catalogue), "creators": creators}

    def under(self, settings: Mapping) -> dict:
        """Return the build settings that a manifest records."""
        sizes = self.sizes
        return {"settings": settings, "sizes": sizes, "meaning": self._meaning(sizes["users"], sizes["videos"])}

    def changed(self, under: Mapping, settings: Mapping) -> str | None:
        """Return the reason why rows built `under` other settings are invalid now, or None."""
        if under["settings"] != settings:
            names = [*settings]
            return f"{', '.join(names[:-1])} or {names[-1]} changed since the last build"
        users, videos = under["sizes"]["users"], under["sizes"]["videos"]
        if users > self.sizes["users"] or videos > self.sizes["videos"]:
            return "users or videos were removed"
        now = self._meaning(users, videos)
        if differs := [name for name, digest in now.items() if digest != under["meaning"][name]]:
            return f"existing rows of {' and '.join(differs)} changed or moved"
        return None

    def _meaning(self, users: int, videos: int) -> dict[str, str]:
        """Digest the first rows of users and videos."""
        catalogue = self.catalogue
        of_videos = (catalogue.video_ids, catalogue.creator_rows, catalogue.tag_rows, catalogue.duration_ms)
        return {"users": digest_of([self.users.ids], users), "videos": digest_of(of_videos, videos)}


class StateBuilder:
    """Build the state of the `partitions` of a log: snapshots and manifest in `folder` (state/, stretches.jsonl).

    settings  further inputs of the build, by name
    through   number of first partitions that the base snapshot will hold
    """

    def __init__(
        self,
        folder: Path,
        partitions: Sequence[TimePartition],
        *,
        layout: Layout,
        rows: EntityRows,
        settings: Mapping,
        through: int,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.partitions, self.layout, self.through = partitions, layout, through
        self._rows, self._settings = rows, dict(settings)
        self.snapshots = Snapshots(folder / "state", layout, **rows.sizes)
        self.manifest = BuildManifest(folder / "stretches.jsonl", rows.under(self._settings))

    def begin(self) -> tuple[int, str | None]:
        """Keep the valid partitions of the last build. Returns their number and the reason why not more are kept."""
        kept, reason = self.manifest.read(self.partitions, lambda under: self._rows.changed(under, self._settings))
        through = self.snapshots.through
        if kept and (through is None or kept < through):
            kept, reason = 0, reason or "the last build was interrupted"
        self.manifest.truncate(kept)  # first, so that the manifest never names removed files
        if not kept:
            self.snapshots.start()
        self.snapshots.truncate(kept)
        return kept, reason

    def open(self, kept: int) -> Items:
        """Load the in-memory part of the state at the start of partition `kept`."""
        if kept < self.through and kept < len(self.partitions):
            self.snapshots.merge(kept)
        return self.snapshots.items(kept)

    def fold(
        self,
        index: int,
        log: Log,
        items: Items,
        pool: ThreadPoolExecutor,
        *,
        visible: np.ndarray | None = None,
        out: ReadBuffers | None = None,
        watched: int = 0,
    ) -> Iterator[Watches]:
        """Fold one partition and commit its snapshot; `items` holds the state at its end afterwards.

        index  position of the partition; its `log` begins with the pending impressions
        Yields the watches of viewers; exhaust the generator, or close it. The other arguments are those of `replay`.
        """
        snapshot_ms, into_base = self.partitions[index].snapshot_ms, index < self.through
        tables = {"videos": items.videos, "creators": items.creators, "load": self.snapshots.viewers(index).load}
        with self.snapshots.writer(index, into_base=into_base) as writer:
            run = replay(self.layout, log, until=snapshot_ms, visible=visible, out=out, watched=watched, pool=pool, **tables)
            for users, records, watches in run:
                writer.write(users, records)
                yield watches
        pending = log.take(np.flatnonzero(log.known_at >= snapshot_ms))
        items.pending = {name: getattr(pending, name) for name in PER_ROW}
        if not into_base or index + 1 == self.through:
            self.snapshots.commit(index, items, into_base=into_base)

    def end(self) -> None:
        """Finish the build: merge the base and close the manifest."""
        if (self.snapshots.through or 0) < self.through:
            self.snapshots.merge(self.through)
        self.manifest.close()


def read_ahead(load: Callable[[TimePartition], object], partitions: Sequence[TimePartition]) -> Iterator:
    """Yield `load` of each partition in order, loading one ahead."""
    with ThreadPoolExecutor(1) as reader:
        current = None
        for following in [*partitions, None]:
            pending = reader.submit(load, following) if following else None
            if current is not None:
                yield current.result()
            current = pending


def fold_onto(layout: Layout, log: Log, until: float, items: Items, load: Callable) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fold `log` onto a snapshot, `items` in place; yields the changed viewers and their records."""
    tables = {"videos": items.videos, "creators": items.creators, "load": load}
    with ThreadPoolExecutor(THREADS) as pool:
        for users, records, _ in replay(layout, log, until=until, visible=None, out=None, pool=pool, **tables):
            yield users, records


class LogState:
    """The state at the end of a log; `run` updates `folder` by folding the new and changed days.

    Videos, creators and tags are rows of `catalogue`; users are rows of the log's own table. Impressions of videos outside the
    catalogue are left out. `snapshots` is the number of last days whose state is kept.
    """

    def __init__(
        self, folder: Path, stored: StoredTables, *, schema: FeatureSchema, catalogue: Catalogue, snapshots: int
    ) -> None:
        if not stored.days:
            raise DataError(
                f"{stored.folder} holds no impressions, expected at least one; look at rejected.parquet there for the reasons"
            )
        self.stored, self.schema, self.catalogue = stored, schema, catalogue
        self.users, self.layout = Ids.of(stored.users["user_id"]), Layout.of(schema.state)
        partitions = time_partitions(stored)
        self._days = StateBuilder(
            Path(folder),
            partitions,
            layout=self.layout,
            rows=EntityRows(self.users, catalogue),
            settings={"schema": schema.fingerprint, "code": code_of(__name__)},
            through=max(0, len(partitions) - snapshots),
        )
        self.items: Items | None = None

    # ---- fold --------------------------------------------------------------------------------------------------------

    def run(self) -> tuple[int, str | None]:
        """Update the state. Returns the number of unchanged days and the reason why not more were kept."""
        days = self._days
        kept, reason = days.begin()
        remaining = days.partitions[kept:]
        items = days.open(kept)
        with (
            ThreadPoolExecutor(THREADS) as pool,
            tqdm(total=sum(s.rows for s in remaining), desc="state", unit=" impressions", unit_scale=True) as progress,
        ):
            for i, log in enumerate(read_ahead(self._load, remaining), start=kept):
                for _ in days.fold(i, with_pending(items, log), items, pool):
                    pass
                days.manifest.add(ManifestEntry(days.partitions[i].identity, log.rows, 0, {}, {}))
                progress.update(days.partitions[i].rows)
        days.end()
        self.items = days.snapshots.items(len(days.partitions))
        return sum(partition.days_begun for partition in days.partitions[:kept]), reason

    def _load(self, partition: TimePartition) -> Log:
        impressions = partition.impressions(self.stored)
        known = pl.Series(self.catalogue.ids.rows_of(impressions["video_id"]) >= 0)
        tables = Tables(impressions.filter(known), self.stored.users, self.stored.videos)
        return log_of(tables, self.catalogue, self.users, self.schema)

    # ---- results --------------------------------------------------------------------------------------

    @property
    def impressions(self) -> int:
        """Number of folded impressions."""
        return sum(entry.rows for entry in self._days.manifest.entries)

    @property
    def left_out(self) -> int:
        """Number of impressions whose video is outside the catalogue."""
        return sum(partition.rows for partition in self._days.partitions) - self.impressions

    @property
    def until_ms(self) -> int:
        """Time just after the last request of the log; the state holds everything known before it."""
        return max(day.last_ms for day in self.stored.days) + 1

    def viewers(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows (n,) and records (n, layout.viewer) of all viewers with a state, as of `until_ms`."""
        viewers = self._days.snapshots.viewers(len(self._days.partitions))
        for first in range(0, len(self.users.ids), CHUNK_VIEWERS):
            users = np.arange(first, min(first + CHUNK_VIEWERS, len(self.users.ids)))
            records = viewers.load(users)
            known = records[:, 0] > 0
            yield users[known], records[known]

    def later_ms(self, until: float) -> np.ndarray:
        """Return the times in ms when the outcomes that `fold_later` folds were known."""
        known_at = self.items.pending["known_at"]
        return known_at[known_at < until]

    def fold_later(self, until: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Fold the outcomes known from `until_ms` on and before `until`, `items` in place; yields the changed viewers.

        Exhaust the generator once. Nothing of it is kept in the folder.
        """
        catalogue, pending = self.catalogue, self.items.pending
        rows_of = {"creator_rows": np.array(catalogue.creator_rows), "tag_rows": np.array(catalogue.tag_rows)}
        log = Log(**pending, **rows_of, pending=len(pending["known_at"]))
        return fold_onto(self.layout, log, until, self.items, self._days.snapshots.viewers(len(self._days.partitions)).load)
