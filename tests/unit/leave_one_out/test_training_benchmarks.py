"""The histories that `python -m benchmarks.training` and `benchmarks.tables` learn from, and their figures, at a small size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import tables, training

from watchnext.simulator.world import World

ROOT = Path(__file__).resolve().parents[3]
SMALL = ["module.network.dimension=8", "module.positions=256"]


@pytest.fixture(autouse=True)
def _at_the_root_with_one_thread(monkeypatch):
    monkeypatch.chdir(ROOT)  # where conf/ is
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_histories_are_the_long_views_of_the_log(tmp_path):
    sizes = {"users": 50, "videos": 200, "days": 2, "seed": 3}
    training.long_views(tmp_path / "histories.npz", **sizes)
    log, kept = World(**sizes).log(), np.load(tmp_path / "histories.npz")
    row_of = {video: row for row, video in enumerate(log.videos["video_id"])}
    viewed = log.impressions.filter("long_view").sort("time_ms", "request_id", "position")
    wanted = viewed.group_by("user_id").agg("video_id").to_dict(as_series=False)
    by_viewer = dict(zip(wanted["user_id"], wanted["video_id"], strict=True))
    assert len(kept["rows"]) == viewed.height > 50
    for row, user in enumerate(log.users["user_id"]):
        mine = kept["rows"][kept["starts"][row] : kept["starts"][row + 1]]
        assert mine.tolist() == [row_of[video] for video in by_viewer.get(user, [])]


def test_walks_stay_in_two_interests(tmp_path):
    tables.walks(tmp_path / "walks.npy", videos=1000, viewers=200, seed=0)
    rows, names = np.load(tmp_path / "walks.npy"), np.random.default_rng(0).permutation(1000)
    assert rows.shape == (200, tables.LENGTH)
    interest = np.argsort(names)[rows] // tables.INTEREST
    assert all(len(set(viewer)) <= 2 for viewer in interest)
    assert (interest[:, 1:] == interest[:, :-1]).mean() == pytest.approx(0.8, abs=0.06)  # or more: both may be one


@pytest.mark.parametrize(
    ("kind", "megabytes", "state"),
    [("full", 401 * 8 * 4, 401 * 4 + 4), ("quotient_remainder", 105 * 8 * 4, 105 * 4 + 8), ("hashed", 100 * 8 * 4, 100 * 4 + 4),
     ("full_adam", 401 * 8 * 4, 2 * 401 * 8 * 4 + 4)],
)  # fmt: skip
def test_every_table_is_measured(tmp_path, kind, megabytes, state):
    """A table of 400 videos and the padding, 8 wide, and what its optimizer remembers."""
    tables.walks(tmp_path / "walks.npy", videos=400, viewers=150, seed=0)
    found = tables.measure(tmp_path / "walks.npy", kind, videos=400, steps=3, seed=0, overrides=SMALL)
    assert found["table_mb"] * 2**20 == megabytes
    assert found["optimizer_mb"] * 2**20 == state
    assert found["bytes_per_video"] == pytest.approx((megabytes + state) / 400)
    assert found["examples_per_s"] > 0
    assert 0 <= found["recall@10"] <= 1
