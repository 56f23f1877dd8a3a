import numpy as np

from watchnext.features.state import size
from watchnext.features.state.fold import OUTCOME, SHOWN, Layout, fold_event
from watchnext.features.state.size import used_bytes
from watchnext.schema import StateSpec

SPEC = StateSpec(
    counts=("impression", "click"), half_lives_h=(1.0, 24.0), tags_kept=3, creators_kept=2, history=4, seen=5, tags_per_video=2
)
LAYOUT = Layout.of(SPEC)
ALWAYS = 1 + 4 + 1 + 1  # last event, 2 counts x 2 half-lives, two lengths
SLOT = 2 + 4  # key, last event, counters


def watched(viewer, video, *, creator, tags, watch_ms):
    """One video shown to a viewer, then watched; each at a time of its own."""
    item, maker, amounts = np.zeros(LAYOUT.item), np.zeros(LAYOUT.item), np.array([1.0, 0.0])
    for kind in (SHOWN, OUTCOME):
        at = viewer[0] + 1000.0
        fold_event(LAYOUT, viewer, item, maker, kind, at, video, creator, np.array(tags, np.int32), amounts, watch_ms, 0.0)


def bytes_of(*videos: dict) -> int:
    viewers = np.zeros((1, LAYOUT.viewer))
    for number, video in enumerate(videos):
        watched(viewers[0], number, **video)
    return int(used_bytes(LAYOUT, viewers)[0])


def test_parts_are_counted_as_they_fill():
    skipped = {"creator": -1, "tags": [-1, -1], "watch_ms": 0.0}
    assert bytes_of() == bytes_of(skipped) == 8 * ALWAYS
    assert bytes_of({**skipped, "tags": [6, 0]}) == 8 * (ALWAYS + 2 * SLOT)
    assert bytes_of({**skipped, "creator": 0}) == 8 * (ALWAYS + SLOT)
    assert bytes_of({**skipped, "watch_ms": 50.0}) == 8 * (ALWAYS + 4 + 1)
    same = {"creator": 1, "tags": [2, -1], "watch_ms": 50.0}
    assert bytes_of(same, same, same) == 8 * (ALWAYS + 3 * (4 + 1) + 2 * SLOT)


def test_a_full_record_uses_its_limit_however_much_follows():
    videos = [{"creator": number % 7, "tags": [number % 11, (number + 5) % 11], "watch_ms": 9.0} for number in range(40)]
    assert bytes_of(*videos) == 8 * LAYOUT.viewer


def test_viewers_are_counted_one_by_one_in_any_number_of_chunks(monkeypatch):
    viewers = np.zeros((5, LAYOUT.viewer))
    for row in range(5):
        for number in range(row):
            watched(viewers[row], number, creator=-1, tags=[-1, -1], watch_ms=1.0)
    expected = [8 * (ALWAYS + row * 5) for row in range(5)]
    assert used_bytes(LAYOUT, viewers).tolist() == expected
    monkeypatch.setattr(size, "ROWS", 2)
    assert used_bytes(LAYOUT, viewers).tolist() == expected
    assert used_bytes(LAYOUT, viewers[:0]).tolist() == []
    assert used_bytes(LAYOUT, viewers).dtype == np.int64
