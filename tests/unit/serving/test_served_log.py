import subprocess
import sys
import textwrap
import threading
import time
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served import served_log
from watchnext.serving.funnel.served.served_log import Pending, ServedLog, frame_of, shown_videos
from watchnext.types import Request

HOUR_MS = 3_600_000


@pytest.fixture
def answer(release, store):
    recommender = Recommender(release, store)

    def ask(number=0, hours=0, **fields):
        as_of_ms = release.as_of_ms // HOUR_MS * HOUR_MS + HOUR_MS * hours + number
        return recommender.recommend(
            Request(**{"request_id": f"q{number}", "user_id": 105, "k": 5, "as_of_ms": as_of_ms, **fields})
        )

    return ask


def test_every_answer_is_read_back_as_it_was(answer, tmp_path):
    given = [answer(0), answer(1, hours=1, user_id="new"), answer(2, hours=1), answer(3, k=0)]
    log = ServedLog(tmp_path / "served", max_bytes=10**9, flush_rows=2)
    assert all(log.append(each) for each in given)
    log.close()
    log.close()
    read = pl.scan_parquet(tmp_path / "served" / "**" / "*.parquet").sort("request_id").collect()
    assert read["request_id"].to_list() == ["q0", "q1", "q2", "q3"]
    assert read["user_id"].to_list() == ["105", "new", "105", "105"]
    assert len({path.name for path in (tmp_path / "served").iterdir()}) == 2
    for row, each in zip(read.to_dicts(), given, strict=True):
        assert row["video_ids"] == each.ids
        assert row["candidate_rows"] == each.scored.candidates.rows.tolist()
        assert row["propensities"] == each.slate.propensities.tolist()
        np.testing.assert_allclose(row["predicted_click"], each.predictions[:, 0])
    assert (log.dropped, log.failed) == (0, 0)


def test_a_part_is_on_disk_before_it_has_its_name(answer, tmp_path, monkeypatch):
    order, sync = [], served_log.synced
    monkeypatch.setattr(served_log, "synced", lambda path: (order.append(path.name), sync(path)))
    log = ServedLog(tmp_path / "served", max_bytes=10**9, flush_rows=1)
    log.append(answer(0))
    log.close()
    (part,) = (tmp_path / "served").rglob("*.parquet")
    assert order == ["part-0.writing", part.parent.name, "served"]


def test_the_oldest_go_when_it_is_too_large(answer, tmp_path):
    log = ServedLog(tmp_path / "served", max_bytes=1, flush_rows=1)
    for hour in range(3):
        log.append(answer(hour, hours=hour))
    log.close()
    parts = list((tmp_path / "served").rglob("*.parquet"))
    assert len(parts) == 1
    assert pl.read_parquet(parts[0])["request_id"].to_list() == ["q2"]
    assert len(list((tmp_path / "served").iterdir())) == 1


def test_a_full_queue_drops_and_never_waits(answer, tmp_path, monkeypatch):
    monkeypatch.setattr(served_log, "WAITING", 2)
    gate, real = threading.Event(), served_log.frame_of
    monkeypatch.setattr(served_log, "frame_of", lambda answers: (gate.wait(10), real(answers))[1])
    log = ServedLog(tmp_path / "served", max_bytes=10**9, flush_rows=1)
    each = answer()
    taken = [log.append(each) for _ in range(20)]
    assert 2 <= sum(taken) <= 3
    assert log.dropped == 20 - sum(taken)
    gate.set()
    log.close()
    assert pl.scan_parquet(tmp_path / "served" / "**" / "*.parquet").collect().height == sum(taken)
    assert not log.append(each)


def test_a_folder_that_cannot_be_written_is_counted_and_survived(answer, tmp_path):
    (tmp_path / "served").write_text("in the way")
    log = ServedLog(tmp_path / "served", max_bytes=10**9, flush_rows=1)
    log.append(answer(0))
    log.append(answer(1))
    log.close()
    assert log.failed == 2


def test_what_cannot_be_pending_is_counted(answer, tmp_path):
    (tmp_path / "full").touch()
    pending = Pending(tmp_path / "full" / "pending.ipc")
    frame = frame_of([answer(0), answer(1)])
    assert pending.add(frame) is frame
    assert pending.failed == 2


def test_a_new_log_goes_on_behind_the_parts_of_the_last(answer, tmp_path):
    for number in range(2):
        log = ServedLog(tmp_path / "served", max_bytes=10**9, flush_rows=10)
        log.append(answer(number))
        log.close()
    assert sorted(path.name for path in (tmp_path / "served").rglob("*.parquet")) == ["part-0.parquet", "part-1.parquet"]


def test_the_log_unfolds_into_one_row_a_video_with_its_features(answer):
    given = [answer(0), answer(1, user_id="new"), answer(2, k=0), replace(answer(3), name_features=dict)]
    videos = shown_videos(frame_of(given))
    assert videos["request_id"].to_list() == ["q0"] * 5 + ["q1"] * 5 + ["q3"] * 5
    assert videos["video_ids"].to_list() == [each for one in given for each in one.ids]
    assert videos["position"].to_list() == [0, 1, 2, 3, 4] * 3
    assert videos.schema["region"] == pl.String
    assert videos.schema["account_age_days"] == pl.Float32
    assert videos["region"].to_list()[:10] == given[0].features["region"].tolist() + [None] * 5
    assert videos["region"].to_list()[10:] == [None] * 5
    np.testing.assert_array_equal(videos["age_h"].to_numpy()[5:10], given[1].features["age_h"])
    assert set(given[0].features) <= set(videos.columns)


LEFT = """
    import sys, time
    from watchnext.serving.funnel.served import served_log
    from watchnext.serving.funnel.recommender import Recommender
    from watchnext.serving.release.release import Release
    from watchnext.serving.store.store import Store
    from watchnext.types import Request
    served_log.SYNC_S = 0.05
    release = Release.load(sys.argv[1])
    recommender = Recommender(release, Store.open(sys.argv[2] + "/store", release, durable=False))
    log = served_log.ServedLog(sys.argv[2] + "/served", max_bytes=10**9, flush_rows=500)
    for i in range(1_000_000):
        log.append(recommender.recommend(Request(f"q{i}", 105, 5, release.as_of_ms + i)))
        print(i, flush=True)
        time.sleep(0.02)
"""


def test_kill_9_loses_only_the_answers_of_the_last_moment(release, tmp_path):
    command = [sys.executable, "-c", textwrap.dedent(LEFT), str(release.folder), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        lines = [int(process.stdout.readline()) for _ in range(60)]
        process.kill()
        lines += [int(line) for line in process.stdout.read().splitlines()]
    assert not list((tmp_path / "served").rglob("*.parquet"))
    with (tmp_path / "served" / "pending.ipc").open("ab") as file:
        file.write(b"\0" * 7 + b"\xff of which the end is missing")
    for _ in range(2):  # the second finds nothing pending
        log = ServedLog(tmp_path / "served", max_bytes=10**9, flush_rows=500)
        log.close()
    (part,) = (tmp_path / "served").rglob("*.parquet")
    kept = pl.read_parquet(part)["request_id"].to_list()
    assert kept == [f"q{i}" for i in range(len(kept))]
    assert len(lines) // 2 < len(kept) <= len(lines) + 1
    assert not (tmp_path / "served" / "pending.ipc").exists()


def test_pending_answers_that_are_in_a_part_are_not_logged_again(answer, tmp_path, monkeypatch):
    monkeypatch.setattr(served_log, "SYNC_S", 0.01)
    monkeypatch.setattr(served_log.Pending, "clear", lambda self: None)  # as if killed between part and clearing
    log = ServedLog(tmp_path / "served", max_bytes=10**9, flush_rows=500)
    log.append(answer(0))
    while not (tmp_path / "served" / "pending.ipc").exists():
        time.sleep(0.01)
    log.close()
    monkeypatch.undo()
    ServedLog(tmp_path / "served", max_bytes=10**9, flush_rows=500).close()
    read = pl.scan_parquet(tmp_path / "served" / "**" / "*.parquet").collect()
    assert read["request_id"].to_list() == ["q0"]
