"""The state of a log, folded day by day and kept in one folder; features, release and online store take it from here.

Any step may be killed: the same calls again end in the bytes of a build that was not, and keep every finished partition.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from watchnext.code_digest import code_of
from watchnext.data.storage import StoredTables
from watchnext.data.tables import Tables
from watchnext.features.catalogue import Catalogue, Ids
from watchnext.features.state import log_arrays
from watchnext.features.state.event_order import Log, no_rows
from watchnext.features.state.fold import Layout
from watchnext.features.state.fold_log import THREADS, ahead, replay
from watchnext.features.state.history import Watches
from watchnext.features.state.partitions import BuildManifest, ManifestEntry, TimePartition, digest_of
from watchnext.features.state.snapshots import AS_OF, Snapshot, Snapshots
from watchnext.schema import FeatureSchema

MANIFEST = "manifest.jsonl"

Changes = Callable[..., Iterator[Watches]]


def prepare_nothing(partition: TimePartition, impressions: pl.DataFrame, log: Log) -> None:
    """Prepare nothing."""


def fold_only(index: int, prepared: None, changes: Changes) -> dict:
    """Fold a partition and encode nothing."""
    for _ in changes():
        pass
    return {}


class StateBuilder:
    """Keep the state of the `partitions` of a log in `folder`, where nothing else writes.

    plan       compare the partitions with those of the last build, and keep the valid ones
    load       read the state at the start of a partition
    fold       fold the other partitions, one after another; hooks encode their rows
    snapshot   write the state at the end of a partition, and merge older ones into the base

    Videos, creators and tags are rows of `catalogue`; users are rows of the log's own table. Impressions of videos outside the
    catalogue are left out.
    settings  further inputs of the build, by name
    through   number of first partitions whose snapshots are merged
    code      the module whose sources decide the result
    """

    def __init__(
        self,
        folder: Path,
        stored: StoredTables,
        partitions: Sequence[TimePartition],
        *,
        schema: FeatureSchema,
        catalogue: Catalogue,
        settings: Mapping,
        through: int,
        code: str = __name__,
    ) -> None:
        self.stored, self.partitions, self.schema, self.catalogue = stored, partitions, schema, catalogue
        self.users, self.layout = Ids.of(stored.users["user_id"]), Layout.of(schema.state)
        creators = max(len(catalogue.creator_names), 1)
        self.sizes = {"users": len(self.users.ids), "videos": len(catalogue), "creators": creators}
        self.folder, self.kept = Path(folder), 0
        self._through, self._snapshots = through, Snapshots(self.folder, self.layout, **self.sizes)
        everything = {"schema": schema.fingerprint, **settings, "code": code_of(code)}
        under = {"settings": everything, "sizes": self.sizes, "meaning": self._meaning(self.sizes)}
        self._manifest = BuildManifest(self.folder / MANIFEST, under)

    @property
    def entries(self) -> Sequence[ManifestEntry]:
        """The partitions that are built."""
        return self._manifest.entries

    # ---- plan --------------------------------------------------------------------------------------------------------

    def plan(self) -> tuple[int, str | None]:
        """Keep the valid partitions of the last build. Returns their number of days, and the reason why the next is rebuilt."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept, reason = self._manifest.read(self.partitions, self._changed)
        if 0 < kept < self._snapshots.through:
            kept, reason = 0, reason or "the state before the days that were removed is no longer kept"
        self._manifest.truncate(kept)  # first, so that the manifest never names removed files
        self._snapshots.keep(kept, beside=MANIFEST)
        self.kept = kept
        return sum(partition.days_begun for partition in self.partitions[:kept]), reason

    def _changed(self, under: Mapping) -> str | None:
        """Return the reason why partitions built `under` other settings are invalid now, or None."""
        if under["settings"] != self._manifest.under["settings"]:
            *names, last = self._manifest.under["settings"]
            return f"{', '.join(names)} or {last} changed since the last build"
        if any(under["sizes"][name] > self.sizes[name] for name in ("users", "videos")):
            return "users or videos were removed"
        now = self._meaning(under["sizes"])
        if differs := [name for name, digest in now.items() if digest != under["meaning"][name]]:
            return f"existing rows of {' and '.join(differs)} changed or moved"
        return None

    def _meaning(self, sizes: Mapping[str, int]) -> dict[str, str]:
        """Digest the first rows of users and videos."""
        catalogue = self.catalogue
        of_videos = (catalogue.video_ids, catalogue.creator_rows, catalogue.tag_rows, catalogue.duration_ms)
        return {"users": digest_of([self.users.ids], sizes["users"]), "videos": digest_of(of_videos, sizes["videos"])}

    # ---- load --------------------------------------------------------------------------------------------------------

    def load(self, partition: int) -> Snapshot:
        """Load the state at the start of `partition`."""
        return self._snapshots.load(partition)

    def _log_of(self, impressions: pl.DataFrame) -> Log:
        tables = Tables(impressions, self.stored.users, self.stored.videos)
        log = log_arrays.log_of(tables, self.catalogue, self.users, self.schema)
        known = log.video_rows >= 0
        return log if known.all() else log.take(np.flatnonzero(known))

    # ---- fold --------------------------------------------------------------------------------------------------------

    def fold(self, prepare: Callable = prepare_nothing, encode: Callable = fold_only, replay: Callable = replay) -> None:
        """Fold the partitions after those kept.

        prepare  (partition, impressions, log) > anything that `encode` needs; called in order, a partition ahead of the fold
        encode   (index, prepared, changes) > facts for the manifest; it exhausts `changes(visible=, as_of=, out=, watched=)`,
                 which folds the partition as `replay` does and yields the watches of viewers
        replay   `fold_log.replay`, or that of an engine
        """
        remaining = self.partitions[self.kept :]
        with (
            ThreadPoolExecutor(1) as reader,
            ThreadPoolExecutor(THREADS) as pool,
            tqdm(total=sum(each.rows for each in remaining), desc="fold", unit=" impressions", unit_scale=True) as progress,
        ):
            read = ahead(reader, partial(self._read, prepare), [(each,) for each in remaining], most=2)
            for index, (log, prepared) in enumerate(read, start=self.kept):
                state, partition = self.load(index), self.partitions[index]
                changes = partial(
                    self._changes, self._snapshots.of(index), state, log, partition.snapshot_ms, pool=pool, replay=replay
                )
                self.snapshot(index, state, log.rows, encode(index, prepared, changes))
                progress.update(partition.rows)

    def _read(self, prepare: Callable, partition: TimePartition) -> tuple[Log, object]:
        impressions = partition.impressions(self.stored)
        log = self._log_of(impressions)
        return log, prepare(partition, impressions, log)

    def _changes(self, folder: Path, state: Snapshot, log: Log, until: float, **reads) -> Iterator[Watches]:
        """Fold `log` onto `state`, and write the records of the viewers that it changes."""
        files, rows = self._snapshots.open(folder), 0
        for users, records, watches in state.fold(log, until, **reads):
            files.append(rows, {"users": users, "viewers": records})
            rows += len(users)
            yield watches
        files.resize(rows)

    # ---- snapshot ----------------------------------------------------------------------------------------------------

    def snapshot(self, index: int, state: Snapshot, rows: int, encoded: dict) -> None:
        """Keep `state` as that at the end of partition `index`."""
        self._snapshots.save(self._snapshots.of(index), state)
        self._manifest.add(ManifestEntry(self.partitions[index].identity, rows, encoded))
        self._snapshots.merge(min(index + 1, self._through))

    def close(self) -> None:
        """Merge the snapshots that no later build starts from, and fsync everything."""
        self._snapshots.merge(self._through)
        self._manifest.close()

    def as_of(self, until_ms: float) -> Snapshot:
        """Write and load one more snapshot, of everything known before `until_ms`."""
        index = sum(partition.snapshot_ms <= until_ms for partition in self.partitions)
        log = Log(**no_rows(len(self.schema.state.counts)), **log_arrays.of_videos(self.catalogue))
        if index < len(self.partitions):  # it may begin before `until_ms`, where days overlap or share it
            log = self._log_of(self.partitions[index].impressions(self.stored).filter(pl.col("time_ms") < until_ms))
        state = self.load(index)
        fold_only(index, None, partial(self._changes, self.folder / AS_OF, state, log, until_ms))
        self._snapshots.save_as_of(index, state)
        return self._snapshots.load(index, self.folder / AS_OF)
