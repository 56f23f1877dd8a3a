"""Calls drawn from a seed, and what a store must hold once some of them were sent and some acknowledged."""

import json
import random
from collections.abc import Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from watchnext.serving.release.release import Release
from watchnext.serving.store.building.integrity import damages
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import VIEWERLESS, Event
from watchnext.serving.store.tables.retention import ACCEPTED, CREATED, DUPLICATE, UNKNOWN

THREADS = 3
GONE = 7  # row of the video that is withdrawn
WITHDRAWN_AT = 3  # call of the first thread that withdraws it
Name = tuple[int, int]  # thread, number of the call


def call_of(release: Release, seed: int, name: Name) -> list[Event]:
    """Draw the events of a call: outcomes, some of them about an unknown video; a slate shown; a video posted or withdrawn."""
    thread, number = name
    draw, known_at = random.Random(f"{seed}/{thread}/{number}"), release.as_of_ms + 1_000 * number + thread
    videos, prefix = release.video_ids, f"{seed}/{thread}/{number}"
    if name == (0, WITHDRAWN_AT):
        return [Event(kind="withdrawn", user_id="", video_id=videos.value(GONE), known_at=known_at)]
    if draw.random() < 0.05:
        metadata = {"creator_id": f"c{draw.randrange(20)}", "tags": ["tag1", "new"], "upload_ms": known_at}
        return [Event(kind="posted", user_id="", video_id=prefix, known_at=known_at, metadata=metadata)]
    user_id = int(draw.choice(release.user_ids.ids)) if draw.random() < 0.8 else 5_000 + draw.randrange(1_000)
    common = {"user_id": user_id, "known_at": known_at, "surface": "home"}
    if draw.random() < 0.2:
        shown = draw.sample(range(60), 8)
        return [Event(kind="shown", video_id=videos.value(row), request_id=prefix, **common) for row in shown]
    outcomes = []
    for i in range(draw.randint(1, 20)):
        video_id = "unheard" if draw.random() < 0.02 else videos.value(draw.randrange(60))
        about = {"watch_ms": draw.choice([0, 900, 61_500]), "click": draw.random() < 0.5, "long_view": draw.random() < 0.3}
        outcomes.append(Event(kind="outcome", video_id=video_id, key=f"{prefix}/{i}", **common, **about))
    return outcomes


def counted(events: Iterable[Event]) -> list[Event]:
    return [event for event in events if event.video_id != "unheard"]


def name_of(event: Event) -> Name | None:
    """Return the call that an event is of; None for a withdrawal."""
    prefix = event.key or event.request_id or (str(event.video_id) if event.kind == "posted" else "")
    return tuple(map(int, prefix.split("/")[1:3])) if prefix else None


def acks_of(text: str) -> dict[Name, set[str]]:
    """Read what a writer's calls were answered, whole lines alone."""
    acks = {}
    for line in text.split("\n")[:-1]:
        thread, number, results = json.loads(line)
        acks[thread, number] = set(results)
    return acks


def require_whole_calls(journal: list[Event], release: Release, seed: int, acks: Mapping[Name, set[str]], sent) -> None:
    """Fail unless `journal` holds each call whole or not at all, once, as it was sent, and every acknowledged one.

    `sent(name)` is true for a call that may have been sent.
    """
    by_call: dict[Name, list[Event]] = {}
    for event in journal:
        by_call.setdefault(name_of(event) or (0, WITHDRAWN_AT), []).append(event)
    for name, events in by_call.items():
        assert sent(name), f"{name} was never sent"
        if events[0].kind in VIEWERLESS:  # has no key: sent again, it stands there again and changes nothing
            events = events[:1]
        assert events == counted(call_of(release, seed, name)), f"of {name} the journal holds {events}"
    lost = [name for name in acks.keys() - by_call.keys() if counted(call_of(release, seed, name))]
    assert not lost, f"acknowledged and lost: {lost}"
    for name, results in acks.items():
        assert results <= {ACCEPTED, DUPLICATE, CREATED, UNKNOWN}, (name, results)


class Oracle:
    """Records of a store that never failed, by its journal."""

    def __init__(self, release: Release, folder: Path) -> None:
        self._release, self._folder, self._known = release, folder, {}

    def require_equal(self, store: Store, journal: list[Event]) -> None:
        """Fail unless every record is, bit by bit, that of the same events folded one by one, so that none counts twice."""
        key = tuple((event.kind, event.video_id, event.key, event.request_id) for event in journal)
        if key not in self._known:
            self._known[key] = self._folded(journal)
        for name, expected in self._known[key].items():
            assert np.array_equal(records_of(store)[name], expected), f"{name} after {len(journal)} events"

    def _folded(self, journal: list[Event]) -> dict[str, np.ndarray]:
        folder = self._folder / f"oracle-{len(self._known)}"
        with closing(Store.open(folder, self._release, durable=False)) as store:
            for event in journal:
                assert store.apply([event])[0] in (ACCEPTED, CREATED)
            return records_of(store)


def records_of(store: Store) -> dict[str, np.ndarray]:
    viewers = np.concatenate([store.viewer(user) for user in store.viewer_ids(10_000)])
    arrays = {"viewers": viewers, "videos": store.videos, "creators": store.creators, "unavailable": store.unavailable}
    return {name: array.copy() for name, array in arrays.items()}


def require_sound_store(
    folder: Path, release: Release, oracle: Oracle, seed: int, acks: Mapping[Name, set[str]], sent=lambda name: True
) -> int:
    """Open the store as after a crash and check all of it; return the number of its events."""
    with closing(Store.open(folder, release, durable=False)) as store:
        journal = list(store.journal())
        assert damages(store._engine) == []
        require_whole_calls(journal, release, seed, acks, sent)
        oracle.require_equal(store, journal)
        if (0, WITHDRAWN_AT) in acks:
            assert store.unavailable[GONE], "a withdrawn video came back"
        return len(journal)
