"""A viewer who is erased is in no file and no answer; the others keep all that they had."""

from contextlib import closing
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from api import Api, app_over

from batches import precompute
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import Pending, ServedLog, erase_answers
from watchnext.serving.store.building.integrity import damages
from watchnext.serving.store.engines.engine import StoreHeldError
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.erasure import erase_from_folder
from watchnext.serving.store.store import Store, build_store
from watchnext.serving.store.tables.journal import Event
from watchnext.serving.store.tables.retention import Bounds
from watchnext.types import Request

GONE, KEPT = 7_345_678_901_234, 7_345_678_905_678  # ids that no other bytes are by chance
NOW = 1_800_000_000_000


def occurrences(folder: Path, user_id: int) -> list[str]:
    """Every file below `folder` that has the id: as text or a number in its bytes, or in a column of a table."""
    numbers = [user_id.to_bytes(8, order, signed=True) for order in ("big", "little")]
    needles = [str(user_id).encode(), *numbers, (user_id + 2**63).to_bytes(8, "big")]
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        if path.suffix == ".parquet":
            content += pl.read_parquet(path).write_ndjson().encode()
        if path.name == "pending.ipc":
            content += Pending(path).read().write_ndjson().encode()
        found += [str(path)] if any(needle in content for needle in needles) else []
    return found


def events_of(user_id: int, release, count: int) -> list[Event]:
    videos = [release.video_ids.value(row) for row in range(count)]
    about = [{"user_id": user_id, "video_id": video, "known_at": NOW + i} for i, video in enumerate(videos)]
    events = [Event(kind="shown", request_id=f"r{user_id}", **each) for each in about]
    events += [Event(kind="outcome", watch_ms=9_000, key=f"k{user_id}-{i}", **each) for i, each in enumerate(about)]
    return [*events, Event(kind="outcome", user_id=user_id, video_id="v-unknown", known_at=NOW, watch_ms=1)]


@pytest.fixture
def folder(release, tmp_path) -> Path:
    """A store in which two viewers have done the same."""
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        for event in zip(events_of(GONE, release, 30), events_of(KEPT, release, 30), strict=True):
            store.apply(list(event))
        precompute(Recommender(release, store), [GONE, KEPT], k=10, as_of_ms=NOW + 99)
    return tmp_path / "store"


def state_of(store: Store) -> tuple:
    return store.viewer(KEPT).tobytes(), store.seen(KEPT).to_bytes(), store.slates.get(KEPT), store.videos.tobytes()


def test_an_erased_viewer_is_in_no_byte_of_a_store_and_its_journal_has_no_gap(folder, release):
    with closing(Store.open(folder, release)) as store:
        before, position = state_of(store), store.position
    assert occurrences(folder, GONE) == occurrences(folder, KEPT) != []
    receipt = erase_from_folder(folder, [GONE, str(GONE)], NOW)
    assert receipt.removed == {"viewers": 1, "seen": 1, "slates": 1, "viewers_order": 1, "journal": 60, "quarantine": 1}
    assert occurrences(folder, GONE) == []
    assert occurrences(folder, KEPT) != []
    with closing(Environment(folder / "current", durable=False, map_bytes=MAP_BYTES, readonly=True)) as environment:
        assert damages(environment) == []
    with closing(Store.open(folder, release)) as store:
        assert state_of(store) == before
        assert store.position == position
        assert not store.viewer(GONE).any()
        kinds = [event.kind for event in store.journal()]
        assert len(kinds) == position
        assert kinds.count("erased") == 60
        assert [event.kind for event in store.quarantined()] == ["erased", "outcome"]


def test_a_viewer_of_the_release_does_not_come_back_with_a_new_store(release, tmp_path):
    user = next(user for user in map(release.user_ids.value, range(9)) if len(release.seen.viewer(
        int(release.user_ids.rows([user])[0])).keys))  # fmt: skip
    folder = tmp_path / "store"
    with closing(Store.open(folder, release, durable=False)) as store:
        assert len(store.seen(user).keys)
        store.erase(user, NOW)
        assert not len(store.seen(user).keys)
        assert user not in store.viewer_ids(1000)
        assert store.erased([user]) == {user}
    build_store(folder, release)
    with closing(Store.open(folder, release, durable=False)) as store:
        assert not len(store.seen(user).keys)
        assert not store.viewer(user).any()
        precompute(Recommender(release, store), [user], k=10, as_of_ms=release.as_of_ms + 1)
        assert store.slates.get(user) is None
        store.apply([Event(kind="outcome", user_id=user, video_id="v001", known_at=NOW + 5, watch_ms=9_000)])
        assert not store.erased([user])
    build_store(folder, release)
    with closing(Store.open(folder, release, durable=False)) as store:
        assert store.seen(user).rows.tolist() == release.video_ids.rows(["v001"]).tolist()


def test_viewers_are_dropped_past_the_places_of_erased_ones(release, tmp_path):
    with closing(Store.open(tmp_path / "store", release, durable=False)) as store:
        first = store.viewer_ids(3)
        for user in first:
            store.erase(user, NOW)
        store._retention.bounds = Bounds(viewers=2)
        for i in range(40):
            store.apply([Event(kind="shown", user_id=GONE + i, video_id="v001", known_at=NOW + i)])
        assert len(store.viewer_ids(1000)) <= 3


def test_a_store_that_a_server_holds_is_not_touched(folder, release):
    with closing(Store.open(folder, release, durable=False)), pytest.raises(StoreHeldError, match="stop that server"):
        erase_from_folder(folder, [GONE], NOW)


@pytest.fixture
def log(tmp_path) -> ServedLog:
    log = ServedLog(tmp_path / "served", max_bytes=1 << 24, flush_rows=4)
    yield log
    log.close()


def test_a_served_log_forgets_a_viewer_while_it_is_written(release, store, log, tmp_path):
    recommender = Recommender(release, store)
    app = app_over(recommender, store, log, timeout_s=20.0)
    api = Api(app)
    for _ in range(6):  # some in a part, some that wait
        for user in (GONE, KEPT):
            api.slate(user, k=5)
    answer = api("DELETE", f"/v1/viewers/{GONE}")
    assert answer.status_code == 200, answer.text
    receipts = {receipt["place"]: receipt for receipt in answer.json()["receipts"]}
    assert receipts["served_log"]["removed"] == {"answers": 6}
    assert receipts["traces"]["removed"] == {"answers": 6}
    assert receipts["store"]["removed"]["journal"] == 30
    assert "python -m watchnext.data erase" in receipts["tables, features and releases"]["until"]
    assert api("GET", f"/v1/viewers/{GONE}/history").json()["history"] == []
    app.state.close()
    log.close()
    assert occurrences(tmp_path / "served", GONE) == []
    rows = pl.scan_parquet(tmp_path / "served" / "**" / "*.parquet").collect()
    assert rows["user_id"].to_list() == [str(KEPT)] * 6


def test_answers_that_wait_in_the_file_of_a_killed_server_are_erased_too(release, store, log, tmp_path):
    answers = [Recommender(release, store).recommend(_ask(user, release)) for user in (GONE, KEPT)]
    for answer in answers:
        log.append(answer)
    log.close()
    [part] = (tmp_path / "served").glob("hour=*/part-0.parquet")
    Pending(tmp_path / "served" / "pending.ipc").add(pl.read_parquet(part, hive_partitioning=False))
    assert erase_answers(tmp_path / "served", [GONE]) == 2
    assert occurrences(tmp_path / "served", GONE) == []
    assert len(occurrences(tmp_path / "served", KEPT)) == 2


def _ask(user_id: int, release) -> Request:
    return Request(f"q{user_id % 10}", user_id, 5, release.as_of_ms + 1)


def test_an_unknown_viewer_is_erased_as_nobody(release, store):
    receipt = store.erase(GONE, NOW)
    assert not any(receipt.removed.values())
    assert np.array_equal(store.viewer(GONE), np.zeros(release.layout.viewer))
