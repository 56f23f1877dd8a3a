"""The state of a log, day by day: what of the last fold still holds, and the days after it. No columns and no labels, so that
serving may build its store with it."""

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
from watchnext.features.state.events import PER_ROW, Log
from watchnext.features.state.fold import Layout
from watchnext.features.state.history import Watches
from watchnext.features.state.log import log_of
from watchnext.features.state.partitions import Entry, Ledger, Stretch, digest_of, unsplit
from watchnext.features.state.replay import CHUNK_VIEWERS, THREADS, AsOf, replay
from watchnext.features.state.snapshots import Items, Snapshots, opening
from watchnext.schema import FeatureSchema


@dataclass(frozen=True)
class Rows:
    """What the rows of users, videos and creators are, as far as a state depends on it."""

    users: Ids
    catalogue: Catalogue

    @property
    def sizes(self) -> dict[str, int]:
        creators = max(len(self.catalogue.creator_names), 1)
        return {"users": len(self.users.ids), "videos": len(self.catalogue), "creators": creators}

    def under(self, settings: Mapping) -> dict:
        """What a ledger is written under."""
        sizes = self.sizes
        return {"settings": settings, "sizes": sizes, "meaning": self._meaning(sizes["users"], sizes["videos"])}

    def changed(self, under: Mapping, settings: Mapping) -> str | None:
        """What makes the rows that were built `under` that mean something else now, or None."""
        if under["settings"] != settings:
            words = [f"the {name}" for name in settings]
            return f"{', '.join(words[:-1])} or {words[-1]} are others"
        users, videos = under["sizes"]["users"], under["sizes"]["videos"]
        if users > self.sizes["users"] or videos > self.sizes["videos"]:
            return "users or videos are gone"
        now = self._meaning(users, videos)
        if differs := [name for name, digest in now.items() if digest != under["meaning"][name]]:
            return f"rows of {' and '.join(differs)} that were there changed, or moved"
        return None

    def _meaning(self, users: int, videos: int) -> dict[str, str]:
        """Of the first rows."""
        catalogue = self.catalogue
        of_videos = (catalogue.video_ids, catalogue.creator_rows, catalogue.tag_rows, catalogue.duration_ms)
        return {"users": digest_of([self.users.ids], users), "videos": digest_of(of_videos, videos)}


class StateDays:
    """Snapshots and ledger of the `stretches` of a log, in `folder`: state/, stretches.jsonl.

    settings  what else decides what is built, by name
    through   how many of the first stretches the base shall hold
    """

    def __init__(
        self, folder: Path, stretches: Sequence[Stretch], *, layout: Layout, rows: Rows, settings: Mapping, through: int
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.stretches, self.layout, self.through = stretches, layout, through
        self._rows, self._settings = rows, dict(settings)
        self.snapshots = Snapshots(folder / "state", layout, **rows.sizes)
        self.ledger = Ledger(folder / "stretches.jsonl", rows.under(self._settings))

    def begin(self) -> tuple[int, str | None]:
        """Keep what is there and still true; returns how many stretches that are, and why no more are kept."""
        kept, why = self.ledger.read(self.stretches, lambda under: self._rows.changed(under, self._settings))
        through = self.snapshots.through
        if kept and (through is None or kept < through):
            kept, why = 0, why or "the last build was cut off"
        self.ledger.truncate(kept)  # first: a ledger never names what is gone
        if not kept:
            self.snapshots.start()
        self.snapshots.truncate(kept)
        return kept, why

    def open(self, kept: int) -> Items:
        """What is in memory of the state as the stretch `kept` opens."""
        if kept < self.through and kept < len(self.stretches):
            self.snapshots.merge(kept)
        return self.snapshots.items(kept)

    def fold(
        self,
        place: int,
        log: Log,
        items: Items,
        pool: ThreadPoolExecutor,
        *,
        visible: np.ndarray | None = None,
        out: AsOf | None = None,
        watched: int = 0,
    ) -> Iterator[Watches]:
        """Fold the stretch at `place`, whose `log` begins with what is pending, and close it; `items` is that of its end then.
        Yields what viewers watched, which has to be taken to the end, or closed. The rest is as of `replay`."""
        closes, into_base = self.stretches[place].closes_ms, place < self.through
        tables = {"videos": items.videos, "creators": items.creators, "load": self.snapshots.viewers(place).load}
        with self.snapshots.closing(place, into_base=into_base) as closing:
            run = replay(self.layout, log, until=closes, visible=visible, out=out, watched=watched, pool=pool, **tables)
            for users, records, watches in run:
                closing.write(users, records)
                yield watches
        pending = log.take(np.flatnonzero(log.known_at >= closes))
        items.pending = {name: getattr(pending, name) for name in PER_ROW}
        if not into_base or place + 1 == self.through:
            self.snapshots.closed(place, items, into_base=into_base)

    def end(self) -> None:
        """Nothing more is folded."""
        if (self.snapshots.through or 0) < self.through:
            self.snapshots.merge(self.through)
        self.ledger.close()


def read_ahead(load: Callable[[Stretch], object], stretches: Sequence[Stretch]) -> Iterator:
    """`load` of each, in their order, each while the one before it is used."""
    with ThreadPoolExecutor(1) as reader:
        ahead = None
        for following in [*stretches, None]:
            begun = reader.submit(load, following) if following else None
            if ahead is not None:
                yield ahead.result()
            ahead = begun


def folded_on(layout: Layout, log: Log, until: float, items: Items, load: Callable) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Fold `log` on top of a snapshot, reading nothing: `items` in place; yields the viewers that change, and their records."""
    tables = {"videos": items.videos, "creators": items.creators, "load": load}
    with ThreadPoolExecutor(THREADS) as pool:
        for users, records, _ in replay(layout, log, until=until, visible=None, out=None, pool=pool, **tables):
            yield users, records


class LogState:
    """The state that a log leaves; `run` brings `folder` up to it, folding the days that are new or changed.

    Videos, creators and tags are rows of `catalogue`, users those of the log's own table. Impressions of videos that the
    catalogue lacks are left out. `snapshots` is of how many of the last days the state is kept.
    """

    def __init__(
        self, folder: Path, stored: StoredTables, *, schema: FeatureSchema, catalogue: Catalogue, snapshots: int
    ) -> None:
        if not stored.days:
            raise DataError(f"{stored.folder} holds no impressions; look at rejected.parquet there for why")
        self.stored, self.schema, self.catalogue = stored, schema, catalogue
        self.users, self.layout = Ids.of(stored.users["user_id"]), Layout.of(schema.state)
        stretches = unsplit(stored)
        self._days = StateDays(
            Path(folder),
            stretches,
            layout=self.layout,
            rows=Rows(self.users, catalogue),
            settings={"schema": schema.fingerprint, "code": code_of(__name__)},
            through=max(0, len(stretches) - snapshots),
        )
        self.items: Items | None = None

    # ---- fold --------------------------------------------------------------------------------------------------------

    def run(self) -> tuple[int, str | None]:
        """How many days stayed as they were, and why no more of them."""
        days = self._days
        kept, why = days.begin()
        left = days.stretches[kept:]
        items = days.open(kept)
        with (
            ThreadPoolExecutor(THREADS) as pool,
            tqdm(total=sum(s.rows for s in left), desc="state", unit=" impressions", unit_scale=True) as progress,
        ):
            for place, log in enumerate(read_ahead(self._load, left), start=kept):
                for _ in days.fold(place, opening(items, log), items, pool):
                    pass
                days.ledger.add(Entry(days.stretches[place].identity, log.rows, 0, {}, {}))
                progress.update(days.stretches[place].rows)
        days.end()
        self.items = days.snapshots.items(len(days.stretches))
        return sum(stretch.begun for stretch in days.stretches[:kept]), why

    def _load(self, stretch: Stretch) -> Log:
        impressions = stretch.impressions(self.stored)
        known = pl.Series(self.catalogue.ids.rows_of(impressions["video_id"]) >= 0)
        tables = Tables(impressions.filter(known), self.stored.users, self.stored.videos)
        return log_of(tables, self.catalogue, self.users, self.schema)

    # ---- what there is afterwards --------------------------------------------------------------------------------------

    @property
    def impressions(self) -> int:
        """How many are folded."""
        return sum(entry.rows for entry in self._days.ledger.entries)

    @property
    def left_out(self) -> int:
        return sum(stretch.rows for stretch in self._days.stretches) - self.impressions

    @property
    def until_ms(self) -> int:
        """The first moment that the log does not cover, after its last request: the state holds what was known before."""
        return max(day.last_ms for day in self.stored.days) + 1

    def viewers(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Rows (n,) and records (n, layout.viewer) of all viewers of whom anything is known, as of `until_ms`."""
        viewers = self._days.snapshots.viewers(len(self._days.stretches))
        for first in range(0, len(self.users.ids), CHUNK_VIEWERS):
            users = np.arange(first, min(first + CHUNK_VIEWERS, len(self.users.ids)))
            records = viewers.load(users)
            known = records[:, 0] > 0
            yield users[known], records[known]

    def later_ms(self, until: float) -> np.ndarray:
        """When the outcomes that `fold_later` folds were known, ms."""
        known_at = self.items.pending["known_at"]
        return known_at[known_at < until]

    def fold_later(self, until: float) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Fold the outcomes that the log holds beyond `until_ms`, known before `until`: `items` in place; yields the viewers
        whom they change. To be taken to the end, once; nothing of it is kept in the folder."""
        catalogue, pending = self.catalogue, self.items.pending
        rows_of = {"creator_rows": np.array(catalogue.creator_rows), "tag_rows": np.array(catalogue.tag_rows)}
        log = Log(**pending, **rows_of, pending=len(pending["known_at"]))
        return folded_on(self.layout, log, until, self.items, self._days.snapshots.viewers(len(self._days.stretches)).load)
