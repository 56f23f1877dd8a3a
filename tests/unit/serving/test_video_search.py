import numpy as np
import pytest

from watchnext.serving.funnel import video_search
from watchnext.serving.funnel.video_search import VideoSearch
from watchnext.serving.release.live_catalogue import LiveCatalogue


@pytest.fixture
def search(release):
    return VideoSearch(release, LiveCatalogue(release, room=0))


def words(release, row: int) -> str:
    catalogue, creator = release.catalogue, release.catalogue.creator_rows[row]
    tags = [catalogue.tag_names[tag] for tag in catalogue.tag_rows[row] if tag >= 0]
    parts = [release.video_ids.value(row), release.texts.of_video(row)["title"] or ""]
    return " ".join([*parts, catalogue.creator_names[creator] if creator >= 0 else "", *tags]).lower()


@pytest.mark.parametrize("query", ["v01", "wolken", "WOLKEN über", "tag1", "c3 tag2", "onerror", "e", "nothing of this", "  "])
def test_it_finds_what_a_scan_of_every_video_finds(search, release, query):
    wanted = query.lower().split()
    expected = [row for row in range(len(release.catalogue)) if wanted and all(word in words(release, row) for word in wanted)]
    assert search.rows(query).tolist() == expected


def test_no_word_spans_two_videos(search, release):
    first, second = words(release, 0).split()[-1], words(release, 1).split()[0]
    assert not len(search.rows(f"{first}\n{second}"))
    assert not len(search.rows(f"{first}{second}"))


def test_the_work_of_a_query_is_bounded(search, monkeypatch):
    monkeypatch.setattr(video_search, "HITS", 5)
    np.testing.assert_array_equal(search.rows("v"), np.arange(5))
