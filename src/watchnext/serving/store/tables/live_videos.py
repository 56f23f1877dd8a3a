"""Posted and changed videos in the store: one transaction changes them, a new catalogue is filled with all of them.

live    slot > the id and metadata of a video; a later slot of the same video counts
names   position > a creator, tag or region that the release lacks
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice

import orjson

from watchnext.serving.release.live_catalogue import ChangedVideo, LiveCatalogue, NamesByRow
from watchnext.serving.release.release import Release
from watchnext.serving.store.engines.engine import Engine, StoreError, Transaction, batched, number_key
from watchnext.serving.store.tables.journal import Event
from watchnext.serving.store.tables.seal import sealed, unsealed

LOADED = 5_000  # videos that are encoded at once
KINDS_OF_NAMES = ("creators", "tags", "regions")


class CatalogueFullError(StoreError):
    """No room for another posted or changed video, creator, tag or region; nothing of the call was stored."""


class LiveDraft:
    """Changes of one transaction, on top of what the tables have; the catalogue follows once they are stored."""

    def __init__(self, txn: Transaction, catalogue: LiveCatalogue, as_of_ms: int) -> None:
        self._txn, self._catalogue, self._as_of_ms = txn, catalogue, as_of_ms
        self._slots: dict[int | str, int] = {}
        self._entries: dict[int, Mapping] = {}
        self._names: dict[str, set[str]] = {kind: set() for kind in KINDS_OF_NAMES}

    def knows(self, video_id: int | str) -> bool:
        return video_id in self._slots or self._catalogue.ids.rows([video_id])[0] >= 0

    def change(self, event: Event) -> None:
        """Post the event's video, which replaces all that is known of it, or change what the event names.

        Raises CatalogueFullError.
        """
        slot = self._slot(event.video_id)
        before = self._metadata(event.video_id, slot) if event.kind == "changed" else {}
        features = {**before.get("features", {}), **event.metadata.get("features", {})}
        metadata = {**before, **event.metadata, "features": features}
        for kind, names in _named(metadata, self._catalogue).items():
            self._add_names(kind, names)
        self._entries[slot] = {"video_id": event.video_id, "known_at": event.known_at, "metadata": metadata}

    def _slot(self, video_id: int | str) -> int:
        """Return the slot of a video, a new one where it has none."""
        if video_id not in self._slots:
            row = int(self._catalogue.ids.rows([video_id])[0])
            slot = self._catalogue.slot(row)
            if slot is None:
                slot = max([self._catalogue.slots, *(each + 1 for each in self._slots.values())])
                _require_room(slot < self._catalogue.room, "videos were posted or changed", self._catalogue.room)
            self._slots[video_id] = slot
        return self._slots[video_id]

    def _metadata(self, video_id: int | str, slot: int) -> Mapping:
        key, row = number_key(slot), int(self._catalogue.ids.rows([video_id])[0])
        if slot in self._entries:
            return self._entries[slot]["metadata"]
        if (packed := self._txn.get("live", key)) is None:
            return {}
        entry = _unpacked(key, packed)
        return {} if _is_released(self._catalogue, row, entry, self._as_of_ms) else entry["metadata"]

    def _add_names(self, kind: str, names: Sequence[str]) -> None:
        known = names_of(self._catalogue, kind)
        self._names[kind].update(name for name in names if name not in known.rows)
        _require_room(len(known) + len(self._names[kind]) <= known.most, f"{kind} are known", known.most)

    def write(self) -> None:
        """Write all changes into the transaction."""
        keyed = [(number_key(slot), orjson.dumps(entry)) for slot, entry in self._entries.items()]
        self._txn.put_many("live", [(key, sealed(key, packed)) for key, packed in keyed])
        for kind, added in self._names.items():
            self._txn.append_many("names", [orjson.dumps([kind, name]) for name in sorted(added)], sealed)


def _require_room(has_room: bool, things: str, most: int) -> None:
    if not has_room:
        raise CatalogueFullError(
            f"{most} {things}, as many as there is room for; build a release that holds them (`dvc repro`), or restart the "
            "server with a larger WATCHNEXT_LIVE_VIDEOS"
        )


def _named(metadata: Mapping, catalogue: LiveCatalogue) -> dict[str, list[str]]:
    """Return the creator, the tags and the regions that metadata names, by KINDS_OF_NAMES."""
    creator, tags = metadata.get("creator_id"), metadata.get("tags") or []
    return {
        "creators": [] if creator is None else [str(creator)],
        "tags": tags[: catalogue.tag_rows.shape[1]],
        "regions": list(dict.fromkeys(metadata.get("regions") or ())),
    }


def _is_released(catalogue: LiveCatalogue, row: int, entry: Mapping, as_of_ms: int) -> bool:
    """Return True if the release holds what an entry says: the video, and all that was known by its `as_of`."""
    return 0 <= row < catalogue.released and entry["known_at"] < as_of_ms


def names_of(catalogue: LiveCatalogue, kind: str) -> NamesByRow:
    names = {"creators": catalogue.creator_names, "tags": catalogue.tag_names, "regions": catalogue.region_names}
    return names[kind]


def live_catalogue(engine: Engine, release: Release, *, room: int) -> LiveCatalogue:
    """Make the catalogue of a release and of what a store has on top. Raises StoreDamagedError."""
    with engine.read() as txn:
        slots = [int.from_bytes(key, "big") + 1 for key, _ in islice(txn.items("live", reverse=True), 1)]
        catalogue = LiveCatalogue(release, room=max([room, *slots]))
        _take_names(txn, catalogue)
        _take(catalogue, txn.items("live"), release.as_of_ms)
    return catalogue


def take_changes(txn: Transaction, catalogue: LiveCatalogue, video_ids: Sequence[int | str], as_of_ms: int) -> None:
    """Let the catalogue follow what the tables say of some videos, and of all that are new to it."""
    _take_names(txn, catalogue)
    slots = {catalogue.slot(row) for row in catalogue.ids.rows(video_ids).tolist()} - {None}
    known = [(key, packed) for key in map(number_key, sorted(slots)) if (packed := txn.get("live", key)) is not None]
    _take(catalogue, chain(known, txn.items("live", number_key(catalogue.slots))), as_of_ms)


def _take_names(txn: Transaction, catalogue: LiveCatalogue) -> None:
    for key, packed in txn.items("names", number_key(catalogue.names_taken)):
        kind, name = orjson.loads(unsealed("names", key, packed))
        names_of(catalogue, kind).add(name)
        catalogue.names_taken = int.from_bytes(key, "big") + 1


def _take(catalogue: LiveCatalogue, entries: Iterable[tuple[bytes, bytes]], as_of_ms: int) -> None:
    """Publish entries of the table; of a video of the release only what changed after its `as_of`, as it holds the rest."""
    for part in batched(entries, LOADED):
        changed, held, rows = {}, {}, {}
        for key, packed in part:
            entry, slot = _unpacked(key, packed), int.from_bytes(key, "big")
            video_id = entry["video_id"]
            if (row := int(catalogue.ids.rows([video_id])[0])) < 0:
                row = rows.setdefault(video_id, len(catalogue) + len(rows))
            held[row] = slot
            if not _is_released(catalogue, row, entry, as_of_ms):
                changed[row] = _resolved(catalogue, slot, row, entry)
        videos = [*changed.values()]
        if videos:
            catalogue.publish(videos, catalogue.encode(videos))
        catalogue.hold(held, max(held.values()) + 1)


def _resolved(catalogue: LiveCatalogue, slot: int, row: int, entry: Mapping) -> ChangedVideo:
    named = _named(entry["metadata"], catalogue)
    rows = {kind: [names_of(catalogue, kind).rows[name] for name in names] for kind, names in named.items()}
    return ChangedVideo(
        slot=slot,
        row=row,
        video_id=entry["video_id"],
        metadata=entry["metadata"],
        creator_row=[*rows["creators"], -1][0],
        tag_rows=rows["tags"],
        regions=sum(1 << bit for bit in rows["regions"]),
    )


def changes_catalogue(events: Sequence[Event]) -> bool:
    """Return True if a call posts or changes videos."""
    return any(event.kind in ("posted", "changed") for event in events)


def _unpacked(key: bytes, packed: bytes) -> Mapping:
    return orjson.loads(unsealed("live", key, packed))
