"""The log through the fold, a stretch at a time, from where the last build ended: columns, watches and state on disk."""

import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
from tqdm import tqdm

from watchnext.code_digest import code_of
from watchnext.data.splits import TimeSplit
from watchnext.data.storage import StoredTables
from watchnext.data.tables import DataError, Tables
from watchnext.features.arrays import save_arrays
from watchnext.features.catalogue import Catalogue, Ids
from watchnext.features.dataset.freshness import visible_until
from watchnext.features.dataset.labels import Labels, watch_ratio
from watchnext.features.encode.context import Dictionaries
from watchnext.features.growing_arrays import Columns
from watchnext.features.state.builder import Rows, StateDays, read_ahead
from watchnext.features.state.events import PER_ROW, Log
from watchnext.features.state.fold import Layout
from watchnext.features.state.history import Watches
from watchnext.features.state.log import log_of
from watchnext.features.state.partitions import Entry, Plan, Stretch
from watchnext.features.state.replay import THREADS, AsOf, replay
from watchnext.features.state.snapshots import Items, opening
from watchnext.schema import FeatureSchema
from watchnext.types import TARGETS

EPOCH = date(1970, 1, 1).toordinal()
AS_OF = tuple(field.name for field in fields(AsOf))  # columns that the fold writes
WATCHES = {"video_rows": (np.int32, ()), "known_at": (np.float64, ()), "watch_ms": (np.float64, ()), "bits": (np.uint8, ())}


@dataclass(frozen=True)
class Loaded:
    """A stretch, read: its log, what its rows see (N,), its columns, the sums of its labels a day, and how long the
    dictionaries were after it."""

    log: Log
    visible: np.ndarray
    columns: dict[str, np.ndarray]
    sums: dict[str, dict[str, float]]
    dictionaries: dict[str, int]


class Folding:
    """What a build does with the log; `run` brings `folder` up to `plan`, or from `begin` on what is left of it.

    In `folder`: stretches.jsonl, columns/ (N rows), watches/ (what histories point at), context/ (dictionaries), state/.
    """

    def __init__(
        self,
        folder: Path,
        stored: StoredTables,
        split: TimeSplit,
        *,
        schema: FeatureSchema,
        labels: Labels,
        regime: str,
        snapshots: int,
    ) -> None:
        self.folder, self.stored, self.plan = folder, stored, Plan.of(stored, split, regime)
        self.schema, self.labels, self.regime = schema, labels, regime
        vector = schema.of("video", "vector")
        self.catalogue = Catalogue.of(
            stored.videos, tags_per_video=schema.state.tags_per_video, dimension=vector[0].dimension if vector else 0
        )
        self.users = Ids.of(stored.users["user_id"])
        self.layout = Layout.of(schema.state)
        self.dictionaries = Dictionaries.load(folder / "context", schema)
        self.columns = Columns(folder / "columns", self._kinds())
        self.watches = Columns(folder / "watches", WATCHES)
        rows, stretches = Rows(self.users, self.catalogue), self.plan.stretches
        self.sizes = rows.sizes
        self.days = StateDays(
            folder,
            stretches,
            layout=self.layout,
            rows=rows,
            settings={"schema": schema.fingerprint, "labels": vars(labels), "code": code_of(__name__)},
            # All but the last days, and nothing of the held-out ones.
            through=max(0, min([len(stretches) - snapshots, *self.plan.opens.values()])),
        )
        self.state, self.ledger = self.days.snapshots, self.days.ledger

    def _kinds(self) -> dict[str, tuple[type, tuple[int, ...]]]:
        block = self.layout.block
        return {
            "user_rows": (np.int32, ()),
            "video_rows": (np.int32, ()),
            "time_ms": (np.float64, ()),
            "day": (np.int32, ()),
            "split": (np.int8, ()),
            "targets": (np.float32, (len(TARGETS),)),
            "position": (np.int16, ()),
            "propensity": (np.float32, ()),
            "user": (np.float32, (block,)),
            "gap_s": (np.float32, ()),
            "candidate": (np.float32, (4, block)),
            "history_at": (np.int64, ()),
            "history_len": (np.int16, ()),
            **self.dictionaries.kinds,
        }

    # ---- what stays --------------------------------------------------------------------------------------------------

    def begin(self) -> tuple[int, str | None]:
        """Keep what is there and still true; returns how many stretches that are, and why no more are kept."""
        kept, why = self.days.begin()
        if not kept:
            for part in ("columns", "watches", "context"):
                shutil.rmtree(self.folder / part, ignore_errors=True)
            self.dictionaries.values.clear()
        self.dictionaries.truncate(self.ledger.entries[-1].dictionaries if kept else {})
        return kept, why

    # ---- fold --------------------------------------------------------------------------------------------------------

    def run(self, kept: int) -> None:
        """Fold the stretches from `kept` on."""
        left = self.plan.stretches[kept:]
        items = self.days.open(kept)
        with (
            ThreadPoolExecutor(THREADS) as pool,
            tqdm(total=sum(s.rows for s in left), desc="features", unit=" impressions", unit_scale=True) as progress,
        ):
            # In their order, as dictionaries grow by them.
            for place, loaded in enumerate(read_ahead(self.load, left), start=kept):
                self._fold(place, loaded, items, pool)
                progress.update(self.plan.stretches[place].rows)
        self.columns.resize(self.ledger.rows(len(self.plan.stretches)))
        self.watches.resize(self._watched())
        self.dictionaries.save(self.folder / "context")
        self._write_split()
        self.days.end()

    def rows(self) -> Iterator[dict[str, np.ndarray]]:
        """The columns of each stretch, mapped."""
        first = 0
        for stretch in self.plan.stretches:
            yield self.columns.rows(first, first + stretch.rows)
            first += stretch.rows

    def _write_split(self) -> None:
        """Of all rows anew: the days that it goes by move on with the log."""
        for stretch, columns in zip(self.plan.stretches, self.rows(), strict=True):
            days = [date.fromisoformat(day.day).toordinal() - EPOCH for day in stretch.days]
            place = np.searchsorted(days, columns["day"])
            columns["split"][:] = np.array(stretch.split, np.int8)[place]

    # ---- the state to start from ---------------------------------------------------------------------------------------

    @property
    def as_of_ms(self) -> int:
        """When the state of a release ends: the first request of the test days. A log too short to have some ends with its last
        request, none with the last upload. Raises DataError where not even that is known."""
        if 2 in self.plan.starts:
            return int(self.plan.starts[2])
        ends = [day.last_ms for day in self.stored.days] or self._uploads_ms
        if not len(ends):
            raise DataError(
                "there are no impressions, and no video has an upload_ms: nothing says which video to show first; "
                "give the videos their upload_ms, or a log"
            )
        return int(max(ends)) + 1

    @property
    def _uploads_ms(self) -> np.ndarray:
        return self.catalogue.upload_ms[np.isfinite(self.catalogue.upload_ms)]

    def save_opening(self) -> None:
        """What `opening` needs beside the snapshots: which one, and what of the log was known between it and `as_of_ms`."""
        place = self.plan.opens.get(2, len(self.plan.stretches))
        items = self.state.items(place)
        log = opening(items, self._rest(place)) if 2 in self.plan.opens else self._pending(items)
        save_arrays(self.folder / "state" / "opening", {name: getattr(log, name) for name in PER_ROW})
        facts = {"stretch": place, "as_of_ms": self.as_of_ms, "pending": log.pending, **self.sizes}
        (self.folder / "state" / "opening.json").write_text(json.dumps(facts))

    def _rest(self, place: int) -> Log:
        """The impressions of a stretch before `as_of_ms`: none but where a later day begins before the first test day, as then
        they are one stretch."""
        impressions = self.plan.stretches[place].impressions(self.stored).filter(pl.col("time_ms") < self.as_of_ms)
        return log_of(Tables(impressions, self.stored.users, self.stored.videos), self.catalogue, self.users, self.schema)

    def _pending(self, items: Items) -> Log:
        """The impressions whose outcomes are still to come, and nothing else."""
        of_videos = {name: np.array(getattr(self.catalogue, name)) for name in ("creator_rows", "tag_rows")}
        return Log(**items.pending, **of_videos, pending=len(items.pending["time_ms"]))

    def load(self, stretch: Stretch) -> Loaded:
        """Read a stretch."""
        impressions = stretch.impressions(self.stored)
        log = log_of(Tables(impressions, self.stored.users, self.stored.videos), self.catalogue, self.users, self.schema)
        names = impressions["day"].cast(pl.String)
        split_of = {day.day: split for day, split in zip(stretch.days, stretch.split, strict=True)}
        split = names.replace_strict(split_of, return_dtype=pl.Int8).to_numpy()
        visible = visible_until(self.regime, impressions, split, self.plan.starts, self.plan.days_ms)
        duration_ms = np.asarray(self.catalogue.duration_ms)[log.video_rows]
        targets, ratio = self.labels.targets(impressions, duration_ms), watch_ratio(impressions, duration_ms)
        days = {day.day: (names == day.day).to_numpy() for day in stretch.days}
        sums = {day: self.labels.sums(targets[here], ratio[here]) for day, here in days.items()}
        columns = {"user_rows": log.user_rows, "video_rows": log.video_rows, "time_ms": log.time_ms, "targets": targets}
        columns |= {"day": impressions["day"].cast(pl.Int32).to_numpy(), **_exposure(impressions)}
        columns |= self.dictionaries.columns(impressions)
        return Loaded(log, visible, columns, sums, self.dictionaries.lengths)

    def _watched(self) -> int:
        return self.ledger.entries[-1].watches if self.ledger.entries else 0

    def _fold(self, place: int, loaded: Loaded, items: Items, pool: ThreadPoolExecutor) -> None:
        """Write a stretch's rows, and the state at its end, of which `items` is the part that is in memory."""
        stretch, first, watched = self.plan.stretches[place], self.ledger.rows(place), self._watched()
        self.columns.resize(first + stretch.rows)
        self.watches.resize(watched)
        # In memory first: rows are written viewer after viewer, which a mapped file takes a page at a time.
        kinds = self.columns.kinds
        read = {name: np.empty((stretch.rows, *kinds[name][1]), kinds[name][0]) for name in AS_OF}
        log = opening(items, loaded.log)
        out = AsOf(**read)
        visible = _behind_pending(log, loaded.visible)
        with closing(self.days.fold(place, log, items, pool, visible=visible, out=out, watched=watched)) as run:
            for watches in run:
                watched = self._remember(watches, watched)
        for start, opens in self._frozen_elsewhere(place):
            watched = self._read_frozen(loaded, start, opens, read, watched, pool)
        columns = loaded.columns | read
        list(pool.map(lambda name: self.columns.append(first, {name: columns[name]}), columns))
        self.dictionaries.save(self.folder / "context")  # perhaps with a later stretch's; the ledger says how many count
        self.ledger.add(Entry(stretch.identity, stretch.rows, watched, loaded.dictionaries, loaded.sums))

    def _remember(self, watches: Watches, watched: int) -> int:
        self.watches.append(watched, vars(watches))
        return watched + len(watches.bits)

    def _frozen_elsewhere(self, place: int) -> list[tuple[float, int]]:
        """Starts of the splits that some of a stretch's rows see frozen, and the earlier stretches in which they lie."""
        if self.regime != "frozen":
            return []
        splits = sorted({split for split in self.plan.stretches[place].split if split > 0})
        return [(self.plan.starts[split], self.plan.opens[split]) for split in splits if self.plan.opens[split] < place]

    def _read_frozen(self, loaded: Loaded, start: float, opens: int, mapped: Mapping, watched: int, pool) -> int:
        """Read again what sees the state of an earlier stretch, which the fold has left behind."""
        rows = np.flatnonzero(loaded.visible == start)
        items = self.state.items(opens)
        tables = {"videos": items.videos, "creators": items.creators, "load": self.state.viewers(opens).load}
        out = AsOf(*(np.empty((len(rows), *mapped[name].shape[1:]), mapped[name].dtype) for name in AS_OF))
        log = opening(items, loaded.log.take(rows))
        visible = _behind_pending(log, loaded.visible[rows])
        run = replay(self.layout, log, until=start, visible=visible, out=out, watched=watched, pool=pool, **tables)
        for _, _, watches in run:
            watched = self._remember(watches, watched)
        for name in AS_OF:
            mapped[name][rows] = getattr(out, name)
        return watched


def _exposure(impressions: pl.DataFrame) -> dict[str, np.ndarray]:
    """How each impression came to be shown: `position`, -1 where it was not logged, and `propensity`, nan likewise. Training
    may use it, a network's inputs never hold it."""
    position = impressions["position"].fill_null(-1).to_numpy()
    return {"position": position, "propensity": impressions["propensity"].fill_null(np.nan).to_numpy()}


def _behind_pending(log: Log, visible: np.ndarray) -> np.ndarray:
    """What the impressions of `log` see (N,): of those before its stretch nothing is read."""
    return np.concatenate([np.zeros(log.pending), visible])
