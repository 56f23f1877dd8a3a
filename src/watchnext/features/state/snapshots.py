"""The folded state on disk, as it stood when each of the last stretches of the log closed.

    base/     everybody's records after the first stretches: viewers.npy (U, layout.viewer) with a hole where nobody is yet
    00012/    the records that stretch 12 changed: users.npy (n,), viewers.npy (n, layout.viewer)

Beside the viewers, base and stretches hold all videos.npy, creators.npy, and `pending`: the impressions whose outcomes were not
known yet. A viewer's record is the one of the latest stretch that has it, else the base's.
"""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.features.growing_arrays import Columns
from watchnext.features.state.events import PER_ROW, Log
from watchnext.features.state.fold import Layout
from watchnext.kernels import kernel


@dataclass
class Items:
    """Records of all videos and creators, and the impressions whose outcomes are still to come, at one moment."""

    videos: np.ndarray
    creators: np.ndarray
    pending: dict[str, np.ndarray]  # a Log's columns

    def copy(self) -> "Items":
        return Items(self.videos.copy(), self.creators.copy(), self.pending)

    def grown(self, videos: int, creators: int) -> "Items":
        """With room for what the catalogue gained."""
        return Items(_grown(self.videos, videos), _grown(self.creators, creators), self.pending)


@kernel
def _copy(source, rows, target, places):
    for i in range(rows.size):
        target[places[i]] = source[rows[i]]


def _grown(records: np.ndarray, rows: int) -> np.ndarray:
    return np.concatenate([records, np.zeros((rows - len(records), records.shape[1]))])


class Snapshots:
    """State of a log's stretches 0, 1, ..., for a catalogue of so many users, videos and creators."""

    def __init__(self, folder: Path, layout: Layout, *, users: int, videos: int, creators: int) -> None:
        self.folder, self.layout = Path(folder), layout
        self._base = Columns(self.folder / "base", {"viewers": (np.float64, (layout.viewer,))})
        self._users, self._videos, self._creators = users, videos, creators

    # ---- what is there -----------------------------------------------------------------------------------------------

    @property
    def through(self) -> int | None:
        """How many stretches the base holds; None where it is being written, or was when the process died."""
        path = self.folder / "base.json"
        return json.loads(path.read_text())["through"] if path.exists() else None

    def _mark(self, through: int | None) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self.folder / "base.json.new"
        aside.write_text(json.dumps({"through": through}))
        os.replace(aside, self.folder / "base.json")

    def start(self) -> None:
        """An empty base, before the first stretch."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._base.resize(self._users)
        layout = self.layout
        none = {name: np.zeros((0, len(layout.shown)) if name == "amounts" else 0) for name in PER_ROW}
        none |= {name: np.zeros(0, np.int64) for name in ("user_rows", "video_rows")}
        self._save(self.folder / "base", Items(np.zeros((0, layout.item)), np.zeros((0, layout.item)), none))
        self._mark(0)

    def truncate(self, closed: int) -> None:
        """Forget the stretches from `closed` on, and make room for viewers who came since."""
        for path in self.folder.glob("[0-9]*"):
            if int(path.name) >= closed or int(path.name) < (self.through or 0):
                shutil.rmtree(path)
        self._base.resize(self._users)

    # ---- read --------------------------------------------------------------------------------------------------------

    def items(self, stretch: int) -> Items:
        """Videos, creators and pending impressions as `stretch` opens."""
        folder = self.folder / "base" if stretch == self.through else self._of(stretch - 1)
        arrays = load_arrays(folder)
        pending = {name.removeprefix("pending."): np.array(v) for name, v in arrays.items() if name.startswith("pending.")}
        found = Items(np.array(arrays["videos"]), np.array(arrays["creators"]), pending)
        return found.grown(self._videos, self._creators)

    def viewers(self, stretch: int) -> "Viewers":
        """Viewers' records as `stretch` opens; those of the base while it is written to in place."""
        later = [self._of(k) for k in range(stretch if self.through is None else self.through, stretch)]
        return Viewers(self._base, [(np.load(folder / "users.npy"), folder / "viewers.npy") for folder in later])

    # ---- write -------------------------------------------------------------------------------------------------------

    @contextmanager
    def closing(self, stretch: int, *, into_base: bool) -> Iterator["InPlace | Aside"]:
        """Where the records that `stretch` changed go: in place into the base, whose snapshots end then, or aside."""
        if into_base:
            self._mark(None)
            yield InPlace(self._base)
        else:
            folder = self._of(stretch)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with Aside(folder, self.layout.viewer) as aside:
                yield aside

    def closed(self, stretch: int, items: Items, *, into_base: bool) -> None:
        """All of `stretch` is written; its end is a snapshot from now on."""
        self._save(self.folder / "base" if into_base else self._of(stretch), items)
        if into_base:
            self._mark(stretch + 1)

    def merge(self, through: int) -> None:
        """Let the base hold the first `through` stretches; merging the same ones again, after a crash, changes nothing."""
        for stretch in range(self.through or 0, through):
            part = load_arrays(self._of(stretch))
            place = InPlace(self._base)
            for first in range(0, len(part["users"]), 4096):
                chunk = slice(first, first + 4096)
                place.write(np.array(part["users"][chunk]), np.array(part["viewers"][chunk]))
            for path in self._of(stretch).glob("*.npy"):
                if path.stem not in ("users", "viewers"):
                    shutil.copyfile(path, self.folder / "base" / path.name)
            self._mark(stretch + 1)
        self.truncate(1 << 31)

    def _of(self, stretch: int) -> Path:
        return self.folder / f"{stretch:05d}"

    def _save(self, folder: Path, items: Items) -> None:
        pending = {f"pending.{name}": values for name, values in items.pending.items()}
        save_arrays(folder, {"videos": items.videos, "creators": items.creators, **pending})


class Viewers:
    """Everybody's records at one moment, read where they are."""

    def __init__(self, base: Columns, later: list[tuple[np.ndarray, Path]]) -> None:
        self._base, self._later = base, later

    def load(self, users: np.ndarray) -> np.ndarray:
        """Copies of the records (n, layout.viewer) of the viewers `users` (n,), ascending."""
        # Mapped anew each time: what was read does not stay resident.
        records = np.empty((len(users), *self._base.kinds["viewers"][1]))
        every, latest = np.arange(len(users)), np.full(len(users), -1)
        places = np.zeros(len(users), np.int64)
        for which, (known, _) in enumerate(self._later):
            at = np.minimum(np.searchsorted(known, users), max(len(known) - 1, 0))
            there = known[at] == users if len(known) else np.zeros(len(users), bool)
            latest[there], places[there] = which, at[there]
        for which, (_, changed) in enumerate(self._later):
            if (there := latest == which).any():
                _copy(np.asarray(np.load(changed, mmap_mode="r")), places[there], records, every[there])
        first, there = int(users[0]), latest < 0
        _copy(self._base.rows(first, int(users[-1]) + 1, write=False)["viewers"], (users - first)[there], records, every[there])
        return records


class InPlace:
    """Writes records into the base."""

    def __init__(self, base: Columns) -> None:
        self._base = base

    def write(self, users: np.ndarray, records: np.ndarray) -> None:
        if len(users):
            first = int(users[0])
            _copy(records, np.arange(len(users)), self._base.rows(first, int(users[-1]) + 1)["viewers"], users - first)


class Aside:
    """Writes records one after another into a stretch's own files."""

    def __init__(self, folder: Path, width: int) -> None:
        self._columns = Columns(folder, {"users": (np.int64, ()), "viewers": (np.float64, (width,))})
        self._columns.resize(0)
        self._rows = 0

    def write(self, users: np.ndarray, records: np.ndarray) -> None:
        self._columns.append(self._rows, {"users": users, "viewers": records})
        self._rows += len(users)

    def __enter__(self) -> "Aside":
        return self

    def __exit__(self, *_: object) -> None:
        self._columns.resize(self._rows)


def opening(items: Items, log: Log) -> Log:
    """The stretch `log` with the impressions before it whose outcomes are still to come."""
    return log.after(log._replace(**items.pending, pending=0))
