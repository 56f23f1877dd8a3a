"""Content without parameters, by hand; what holds for all networks stands in tests/contracts."""

import pytest
import torch
from torch.nn.functional import normalize

from watchnext.features.encode.encodings import InputSizes
from watchnext.retrieval.towers.content import ContentTowers

NONE = dict.fromkeys(("user_values", "query_values", "video_values", "candidate_values"), 0)
SIZES = InputSizes(user_codes=(4,), context_codes=(), video_codes=(5,), tags=4, vector=3, **NONE)


@pytest.fixture
def towers():
    return ContentTowers(sizes=SIZES, decay=0.5, tag_directions=8).eval()


def of_videos(tags: list, vectors: list) -> dict[str, torch.Tensor]:
    return {"video_tags": torch.tensor(tags, dtype=torch.int32), "video_vector": torch.tensor(vectors)}


def test_videos_are_alike_by_vector_and_by_tags(towers):
    videos = of_videos([[1, 0], [1, 0], [2, 0], [0, 0], [0, 0]], [[1.0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 0, 1], [0, 0, 0]])
    found = towers.video(videos)
    alike = found @ found.T
    torch.testing.assert_close(alike[0, 1], torch.tensor(0.5))  # the same tag, vectors apart
    torch.testing.assert_close(alike[0, 3], torch.tensor(0.5**0.5))  # the same vector, and no tag to compare
    assert abs(alike[0, 2] - 0.5) < 0.5  # the same vector, and tags that chance drew
    assert not found[4].any()
    torch.testing.assert_close(found[:4].norm(dim=1), torch.ones(4))


def test_a_query_is_the_recency_and_watch_weighted_mean(towers):
    tags = torch.tensor([[[1, 0], [2, 0], [3, 3]], [[0, 0]] * 3], dtype=torch.int32)
    vectors = torch.tensor([[[1.0, 0, 1], [0, 1, 1], [9, 9, 9]], [[0, 0, 0]] * 3])
    values = torch.zeros(2, 3, 5)
    values[0, :, 1] = torch.tensor([0.2, 0.6, 0.9])
    inputs = {"history_tags": tags, "history_vector": vectors, "history_values": values}
    inputs["history_mask"] = torch.tensor([[1.0, 1, 0], [0, 0, 0]])
    found = towers.query(inputs)
    latest, before = towers.video(of_videos([[1, 0], [2, 0]], [[1.0, 0, 1], [0, 1, 1]]))
    torch.testing.assert_close(found[0], normalize(0.2 * latest + 0.5 * 0.6 * before, dim=0))
    assert not found[1].any()
