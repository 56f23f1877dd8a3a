"""How `python -m benchmarks.cold_start` cuts viewers' logs, and what it counts, against loops over the log."""

import numpy as np
import pytest
from benchmarks.cold_start import K, QueryBatch, Viewers, baselines, recall

from watchnext.data.storage import StoredTables

ROWS = slice(5, None, 97)


@pytest.fixture(scope="module")
def viewers(world_folder, world_features):
    return Viewers(StoredTables.open(world_folder.parent / "tables"), world_features)


@pytest.mark.parametrize("watches", [0, 1, 5])
def test_a_cut_viewer_has_the_last_watches_and_no_name(watches, viewers, world_features):
    rows = world_features.rows("test")[ROWS]
    whole, cut = viewers.whole(rows), viewers.cut(rows, watches)
    history = whole.inputs["history_rows"]
    wanted = np.where(np.arange(history.shape[1]) < watches, history, -1)
    assert (cut.inputs["history_rows"] == wanted).all()
    kept = wanted >= 0
    np.testing.assert_allclose(cut.inputs["history_values"][kept], whole.inputs["history_values"][kept])
    assert (cut.inputs["context_codes"] == whole.inputs["context_codes"]).all()
    assert (cut.inputs["user_codes"][:, viewers._id_position] == 0).all()
    others = np.arange(whole.inputs["user_codes"].shape[1]) != viewers._id_position
    assert (cut.inputs["user_codes"][:, others] == whole.inputs["user_codes"][:, others]).all()
    if not watches:  # then all that is counted of a viewer is that of a newcomer
        newcomer = world_features.newcomers(1)["query_values"].numpy()
        names = world_features.pipeline.value_names("query_values")
        of_viewer = [place for place, name in enumerate(names) if name.startswith(("user ", "gap_s"))]
        assert (cut.inputs["query_values"][:, of_viewer] == newcomer[:, of_viewer]).all()


def test_the_popularity_baseline_knows_what_was_known(viewers, world_features):
    rows = world_features.rows("test")[ROWS]
    found = baselines(viewers.log, world_features)["recent popular"](viewers.whole(rows))
    log, long = viewers.log, world_features.columns["targets"][:, 1] > 0
    for place, row in enumerate(rows):
        known = long & (log.known_at < log.time_ms[row])
        ages = (log.time_ms[row] - log.known_at[known]) / 86_400_000
        wanted = np.bincount(log.video_rows[known], 0.5**ages, found.shape[1])
        ratio = found[place][wanted > 0] / wanted[wanted > 0]
        np.testing.assert_allclose(ratio, ratio[0])
        assert not found[place][wanted == 0].any()


def test_recall_counts_what_is_there_and_unwatched_with_ties_by_chance():
    videos = K + 100
    upload_ms = np.zeros(videos)
    upload_ms[:50] = 10.0  # not there yet
    history = np.full((3, 4), -1)
    history[:, 0] = 60
    asked = QueryBatch(np.arange(3), np.full(3, 5.0), np.array([599, 70, 598]), {"history_rows": history})

    def scores(part):
        found = np.zeros((3, videos))
        found[1, 80:] = 1.0  # 520 before the second target
        found[2, 80:] = 1.0  # 520 with the third among them
        return found

    assert recall(scores, asked, upload_ms) == pytest.approx((500 / 549 + 0 + 500 / 520) / 3)
