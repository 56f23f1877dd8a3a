"""A store that was damaged is found and named when it is opened, and one command makes a sound one of what is intact."""

import os
import random
import shutil
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

import watchnext
from watchnext.serving.store.building.integrity import damages, main, require_sound
from watchnext.serving.store.engines.engine import StoreError, number_key
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.store import Store, build_store
from watchnext.serving.store.tables.journal import Event, id_key
from watchnext.serving.store.tables.meta import put_meta
from watchnext.serving.store.tables.seal import SEAL_BYTES, StoreDamagedError

NOW = 1_800_000_000_000
EVENTS = [
    Event(kind="outcome", user_id=100 + i % 40, video_id=f"v{i % 90:03}", known_at=NOW + i, watch_ms=5_000, key=f"key {i:04}")
    for i in range(400)
]


@pytest.fixture
def folder(release, tmp_path) -> Path:
    """A closed store with EVENTS."""
    with closing(Store.open(tmp_path / "store", release)) as store:
        store.apply(EVENTS)
    return tmp_path / "store"


def file_of(folder: Path) -> Path:
    return folder / "current" / "data.mdb"


def flip(file: Path, at: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(at)
        byte = opened.read(1)[0]
        opened.seek(at)
        opened.write(bytes([byte ^ 4]))


def test_a_flipped_bit_of_an_event_is_named_and_the_repair_keeps_all_others(release, folder):
    flip(file_of(folder), file_of(folder).read_bytes().rindex(b"key 0123"))
    with pytest.raises(
        StoreDamagedError, match=f"journal {number_key(123).hex()}; run `python -m watchnext.serving build-store`"
    ):
        Store.open(folder, release)
    assert build_store(folder, release) == 1
    with closing(Store.open(folder, release)) as store:
        assert list(store.journal()) == EVENTS[:123] + EVENTS[124:]
        assert store.position == 399
        assert store.apply([EVENTS[5]]) == ["duplicate"]


def test_a_flipped_bit_of_a_viewer_is_named_at_open_and_where_it_is_read(release, folder):
    with closing(Store.open(folder, release)) as store:
        whole, other = store.viewer(107), store.viewer(108)
    flip(file_of(folder), file_of(folder).read_bytes().rindex(whole.tobytes()) + 24)
    with pytest.raises(StoreDamagedError, match=f"viewers {id_key(107).hex()}"):
        Store.open(folder, release)
    with closing(Store.open(folder, release, durable=False)) as store:
        np.testing.assert_array_equal(store.viewer(108), other)
        for use in (lambda: store.viewer(107), lambda: store.apply([EVENTS[7]._replace(key="new")])):
            with pytest.raises(StoreDamagedError, match="build-store"):
                use()
        assert store.failed is None
    assert build_store(folder, release) == 0
    with closing(Store.open(folder, release)) as store:
        np.testing.assert_array_equal(store.viewer(107), whole)


def all_of(store: Store) -> tuple:
    """All that is read of a store: events, records, withdrawals, and keys, by what is accepted again."""
    records = [store.viewer(user).tobytes() for user in range(100, 140)]
    return list(store.journal()), records, store.videos.tobytes(), store.unavailable.tolist(), store.apply(EVENTS)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_a_file_that_was_cut_short_is_named_and_repaired(release, folder, share):
    size = file_of(folder).stat().st_size
    left = int(size * share) // 4096 * 4096
    os.truncate(file_of(folder), left)
    with pytest.raises(
        StoreError, match=f"its file has {left} bytes, expected {size}; run `python -m watchnext.serving build-store`"
    ):
        Store.open(folder, release)
    lost = build_store(folder, release)
    with closing(Store.open(folder, release)) as store:
        kept = list(store.journal())
        assert len(kept) <= len(EVENTS) - lost
        assert kept == [event for event in EVENTS if event in kept]
        assert store.apply([EVENTS[-1]]) in (["accepted"], ["duplicate"])


def test_no_flipped_bit_passes_unseen(release, folder, tmp_path):
    """Flip bits anywhere in the file: the store is refused, or all that it holds reads as before."""
    with closing(Environment(folder / "current", durable=False, map_bytes=MAP_BYTES, readonly=True)) as environment:
        assert damages(environment) == []
    with closing(Store.open(folder, release)) as store:
        store.apply([Event(kind="withdrawn", user_id="", video_id="v007", known_at=NOW + 500)])
        before = all_of(store)
    draw, refused = random.Random(0), 0
    for trial in range(12):
        copy = tmp_path / f"copy-{trial}"
        shutil.copytree(folder, copy, symlinks=True)
        flip(file_of(copy), draw.randrange(file_of(copy).stat().st_size))
        try:
            require_sound(copy / "current")
        except StoreDamagedError:
            refused += 1
            continue
        with closing(Store.open(copy, release, durable=False)) as store:
            after = all_of(store)
        assert after == before
    assert refused > 0


@pytest.fixture
def mixed(release, tmp_path) -> Path:
    """A closed store with a withdrawal, an erasure, keys of outcomes and of a slate that was shown, and a stored slate."""
    slate = [Event(kind="shown", user_id=107, video_id=f"v{i:03}", known_at=NOW, request_id="r") for i in range(3)]
    with closing(Store.open(tmp_path / "mixed", release)) as store:
        store.apply([*EVENTS[:20], *slate])
        store.apply([Event(kind="withdrawn", user_id="", video_id="v007", known_at=NOW + 500)])
        store.erase(101, NOW + 600)
        store.slates.put([(107, b"a slate")])
    return tmp_path / "mixed"


def changed(folder: Path, table: str, change) -> None:
    """Store `change(key, value)` in the place of the first entry of a table."""
    with (
        closing(Environment(folder / "current", durable=False, map_bytes=MAP_BYTES)) as environment,
        environment.write() as txn,
    ):
        key, packed = txn.head(table, 1)[0]
        txn.delete(table, key)
        txn.put(table, *change(key, packed))


def bent(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("of_key", [True, False])
def test_a_flipped_bit_of_a_withdrawal_an_erasure_or_a_key_is_named(mixed, tmp_path, of_key):
    for table in ("withdrawn", "erased", "keys", "shown"):
        shutil.copytree(mixed, tmp_path / table, symlinks=True)
        changed(tmp_path / table, table, lambda key, packed: (bent(key), packed) if of_key else (key, bent(packed)))
        assert main(str(tmp_path / table / "current")).startswith(f"{table} ")


def test_a_withdrawal_with_a_flipped_bit_comes_back_from_the_journal(release, mixed):
    changed(mixed, "withdrawn", lambda key, packed: (bent(key), packed))
    with pytest.raises(StoreDamagedError, match=r"withdrawn .*; run"):
        Store.open(mixed, release)
    build_store(mixed, release)
    with closing(Store.open(mixed, release)) as store:
        assert store.unavailable[store.catalogue.ids.rows(["v007"])].all()


@pytest.mark.parametrize("of_key", [True, False])
def test_a_slate_with_a_flipped_bit_is_none(release, mixed, of_key):
    changed(mixed, "slates", lambda key, packed: (bent(key), packed) if of_key else (key, bent(packed)))
    with closing(Store.open(mixed, release, durable=False)) as store:
        assert [store.slates.get(user) for user in (106, 107)] == [None, None]
        assert store.stored(107)[0] is None


def test_a_store_of_the_version_without_checksums_of_keys_opens_and_keeps_them(release, mixed):
    for table in ("withdrawn", "erased", "keys", "shown"):
        with (
            closing(Environment(mixed / "current", durable=False, map_bytes=MAP_BYTES)) as environment,
            environment.write() as txn,
        ):
            txn.put_many(table, [(key, packed[:-SEAL_BYTES]) for key, packed in list(txn.items(table))])
    for _ in range(2):
        with closing(Store.open(mixed, release)) as store:
            assert store.unavailable[store.catalogue.ids.rows(["v007"])].all()
            assert store.erased([101, 102]) == {101}
            assert store.apply([EVENTS[5]]) == ["duplicate"]
        build_store(mixed, release)


def test_a_missing_event_is_a_gap(release, folder):
    with (
        closing(Environment(folder / "current", durable=False, map_bytes=MAP_BYTES)) as environment,
        environment.write() as txn,
    ):
        txn.delete("journal", number_key(7))
    assert main(str(folder / "current")) == "the journal has 399 events at the positions 0 to 399"


def test_what_is_no_store_is_named_and_replaced_by_the_releases_state(release, folder):
    file_of(folder).write_bytes(b"no store" * 4096)
    with pytest.raises(StoreError, match=r"cannot be opened|is damaged"):
        Store.open(folder, release)
    build_store(folder, release)
    with closing(Store.open(folder, release)) as store:
        assert store.position == 0
        np.testing.assert_array_equal(store.videos, release.state.videos)


def test_a_store_of_the_version_without_checksums_is_rebuilt_with_all_its_events(release, folder):
    with closing(Environment(folder / "current", durable=False, map_bytes=MAP_BYTES)) as environment:
        put_meta(environment, state=release.state_fingerprint.encode())
        with environment.write() as txn:
            txn.delete("meta", b"sealed_state")
            for key, packed in list(txn.items("journal")):
                txn.put("journal", key, packed[:-SEAL_BYTES])
    with pytest.raises(StoreError, match=r"holds state nothing.*build-store"):
        Store.open(folder, release)
    assert build_store(folder, release) == 0
    with closing(Store.open(folder, release)) as store:
        assert list(store.journal()) == EVENTS


def test_the_check_finds_the_package_where_only_this_process_does(folder, monkeypatch):
    """A packaged server extends its own search path: the process of the check would otherwise not find the package."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [str(Path(watchnext.__file__).parents[1]), *sys.path])
    require_sound(folder / "current")
