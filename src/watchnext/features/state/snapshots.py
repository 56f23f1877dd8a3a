"""Snapshots of the folded state on disk, one at the end of each of the last partitions of the log.

    base-00004/   records of all viewers after the first 4 partitions: viewers.npy (U, layout.viewer), sparse for new viewers,
                  and what each of these partitions added to the seen videos: seen-00000/, ..., seen-00003/
    00004/        the records that partition 4 changed: users.npy (n,), viewers.npy (n, layout.viewer), and seen/
    as_of/        the records that changed between the start of a partition and a time within it, seen/, and facts.json

Each also holds all videos.npy, creators.npy, and `pending`: the impressions whose outcomes were not known yet. A viewer's
record is read from the latest partition that has it, else from the base; a set of seen videos is merged from all partitions.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.features.column_files import ColumnFiles
from watchnext.features.state.event_order import PER_ROW, Log, no_rows
from watchnext.features.state.fold import Layout
from watchnext.features.state.fold_log import CHUNK_VIEWERS, ReadBuffers, replay
from watchnext.features.state.history import Watches
from watchnext.features.state.seen import SeenParts, added
from watchnext.files import removed
from watchnext.kernels import kernel

AS_OF = "as_of"
SEEN = "seen"


@kernel
def _copy(source, rows, target, positions):
    for i in range(rows.size):
        target[positions[i]] = source[rows[i]]


def _mapped(path: Path) -> np.ndarray:
    """Map an array anew at every call, so that its pages do not stay resident."""
    return np.asarray(np.load(path, mmap_mode="r"))


@dataclass(frozen=True)
class ViewerRecords:
    """Records of `count` viewers at one time, read from the base, and from the `later` snapshots: (changed users, path)."""

    base: ColumnFiles
    later: list[tuple[np.ndarray, Path]]
    count: int

    @classmethod
    def of(cls, base: ColumnFiles, later: Sequence[Path], count: int) -> "ViewerRecords":
        """Map the records of the base and of the folders `later`."""
        return cls(base, [(np.load(folder / "users.npy"), folder / "viewers.npy") for folder in later], count)

    def __reduce__(self):
        """Travel to another process as paths, where the same files are mapped."""
        base = ColumnFiles(self.base.folder.resolve(), self.base.kinds)
        return ViewerRecords.of, (base, [path.parent.resolve() for _, path in self.later], self.count)

    def load(self, users: np.ndarray) -> np.ndarray:
        """Return copies of the records (n, layout.viewer) of the viewers `users` (n,), ascending."""
        records, missing = np.empty((len(users), *self.base.kinds["viewers"][1])), np.ones(len(users), bool)
        for changed, path in reversed(self.later):
            positions = np.searchsorted(changed, users)
            hits = np.flatnonzero(missing & (np.append(changed, -1)[positions] == users))
            if len(hits):
                _copy(_mapped(path), positions[hits], records, hits)
                missing[hits] = False
        first, rest = int(users[0]), np.flatnonzero(missing)
        base = self.base.rows(first, int(users[-1]) + 1, write=False)["viewers"]
        _copy(base, users[rest] - first, records, rest)
        return records

    def all(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield rows (n,) and records (n, layout.viewer) of all viewers."""
        for first in range(0, self.count, CHUNK_VIEWERS):
            users = np.arange(first, min(first + CHUNK_VIEWERS, self.count))
            yield users, self.load(users)


@dataclass
class Snapshot:
    """The state at one time: viewers on disk, videos and creators in memory, the impressions with pending outcomes, and what
    viewers have seen; the last of its parts is that of `fold`."""

    layout: Layout
    viewers: ViewerRecords
    videos: np.ndarray
    creators: np.ndarray
    pending: dict[str, np.ndarray]  # a Log's columns
    seen: SeenParts

    def fold(
        self,
        log: Log,
        until: float,
        *,
        visible: np.ndarray | None = None,
        as_of: np.ndarray | None = None,
        out: ReadBuffers | None = None,
        watched: int = 0,
        pool: ThreadPoolExecutor | None = None,
        replay: Callable = replay,
    ) -> Iterator[tuple[np.ndarray, np.ndarray, Watches]]:
        """Fold the pending impressions, then `log`, both before `until`. Yields changed viewers, their records, watches.

        Exhaust it: then videos, creators and pending impressions are those at `until`. The other arguments are those of
        `replay`, or of an engine's that does the same.
        """
        log = log.after(log._replace(**self.pending))
        tables = {"videos": self.videos, "creators": self.creators, "load": self.viewers.load}
        reads = {"visible": visible, "as_of": as_of, "out": out, "watched": watched}
        yield from replay(self.layout, log, until=until, **reads, pool=pool, **tables)
        self.pending = log.take(np.flatnonzero(log.known_at >= until)).columns
        self.seen.parts.append(added(log, until))

    def write(self, folder: Path) -> None:
        """Write all records as whole arrays: viewers.npy (U, layout.viewer), videos.npy, creators.npy; and seen/."""
        files = ColumnFiles(folder, self.viewers.base.kinds)
        files.resize(self.viewers.count)
        for users, records in self.viewers.all():
            files.append(int(users[0]), {"viewers": records})
        save_arrays(folder, {"videos": self.videos, "creators": self.creators})
        self.seen.write(folder / SEEN)


class Snapshots:
    """Snapshots of partitions 0, 1, ... of a log, for the given numbers of users, videos and creators."""

    def __init__(self, folder: Path, layout: Layout, *, users: int, videos: int, creators: int) -> None:
        self.folder, self.layout = Path(folder), layout
        self._sizes = {"users": users, "videos": videos, "creators": creators}

    @classmethod
    def load_as_of(cls, folder: Path, layout: Layout) -> Snapshot:
        """Load the snapshot that `save_as_of` saved last."""
        facts = json.loads((Path(folder) / AS_OF / "facts.json").read_text())
        return cls(folder, layout, **facts["sizes"]).load(facts["partition"], Path(folder) / AS_OF)

    @property
    def through(self) -> int:
        """Number of partitions in the base."""
        return max((int(path.name.removeprefix("base-")) for path in self.folder.glob("base-*")), default=0)

    def of(self, partition: int) -> Path:
        return self.folder / f"{partition:05d}"

    def keep(self, kept: int, *, beside: str) -> None:
        """Keep the first `kept` partitions and the file `beside`, and remove all else; make room for new viewers."""
        if kept and (last := self.of(self.through - 1)).exists():
            self._move_into_base(last)
        snapshots = [self._base.folder, *map(self.of, range(self.through, kept))] if kept else []
        for path in {*self.folder.iterdir()} - {self.folder / beside, *snapshots}:
            removed(path)
        if not kept:
            no_items, no_viewers = np.zeros((0, self.layout.item)), ViewerRecords(self._base, [], 0)
            pending = no_rows(len(self.layout.shown))
            self.save(self._base.folder, Snapshot(self.layout, no_viewers, no_items, no_items, pending, SeenParts([], 0)))
        self._base.resize(self._sizes["users"])

    def load(self, partition: int, *then: Path) -> Snapshot:
        """Load the state at the start of `partition`, or after the snapshot `then`; new entities have empty records."""
        later = [*map(self.of, range(self.through, partition)), *then]
        parts = [*sorted(self._base.folder.glob(f"{SEEN}-*")), *(folder / SEEN for folder in later)]
        seen = SeenParts([load_arrays(folder) for folder in parts], self._sizes["users"])
        arrays = load_arrays(later[-1] if later else self._base.folder)
        viewers = ViewerRecords.of(self._base, later, self._sizes["users"])
        items = (_grown(arrays[name], self._sizes[name]) for name in ("videos", "creators"))
        pending = {name: np.array(arrays[f"pending.{name}"]) for name in PER_ROW}
        return Snapshot(self.layout, viewers, *items, pending, seen)

    def open(self, folder: Path) -> ColumnFiles:
        """Open the files of changed viewers in `folder`."""
        files = ColumnFiles(folder, {"users": (np.int64, ()), **self._base.kinds})
        files.resize(0)
        return files

    def save(self, folder: Path, snapshot: Snapshot) -> None:
        """Save all of `snapshot` but its viewers, which are in files of `open`, and of what was seen the last part."""
        pending = {f"pending.{name}": values for name, values in snapshot.pending.items()}
        save_arrays(folder, {"videos": snapshot.videos, "creators": snapshot.creators, **pending})
        for part in snapshot.seen.parts[-1:]:
            save_arrays(folder / SEEN, part)

    def save_as_of(self, partition: int, snapshot: Snapshot) -> None:
        """Save `snapshot` as that of a time within `partition`."""
        self.save(self.folder / AS_OF, snapshot)
        (self.folder / AS_OF / "facts.json").write_text(json.dumps({"partition": partition, "sizes": self._sizes}))

    def merge(self, through: int) -> None:
        """Move partitions into the base until it holds the first `through`. If killed, `keep` completes the last of them."""
        for partition in range(self.through, through):
            self._base.folder.rename(self.folder / f"base-{partition + 1:05d}")
            self._move_into_base(self.of(partition))

    def _move_into_base(self, folder: Path) -> None:
        base, changed, arrays = self._base, np.load(folder / "users.npy"), load_arrays(folder)
        del arrays["users"], arrays["viewers"]
        for first in range(0, len(changed), CHUNK_VIEWERS):
            users = changed[first : first + CHUNK_VIEWERS]
            target = base.rows(int(users[0]), int(users[-1]) + 1)["viewers"]
            _copy(_mapped(folder / "viewers.npy"), first + np.arange(len(users)), target, users - users[0])
        for name in arrays:
            shutil.copyfile(folder / f"{name}.npy", base.folder / f"{name}.npy")
        if (folder / SEEN).exists():
            (folder / SEEN).rename(base.folder / f"{SEEN}-{folder.name}")
        removed(folder.rename(self.folder / "merged"))  # in one step: half a partition could not be moved again

    @property
    def _base(self) -> ColumnFiles:
        return ColumnFiles(self.folder / f"base-{self.through:05d}", {"viewers": (np.float64, (self.layout.viewer,))})


def _grown(records: np.ndarray, rows: int) -> np.ndarray:
    grown = np.zeros((rows, records.shape[1]))
    grown[: len(records)] = records
    return grown
