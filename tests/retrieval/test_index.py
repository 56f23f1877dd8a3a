"""The approximate index against brute force, and what it refuses."""

import numpy as np
import pytest

from watchnext.retrieval.index import VideoIndex, VideoIndexError, build_guarded, exact

HNSW = {"factory": "HNSW32,Flat", "parameters": "efSearch=256"}


def unit(seed: int, rows: int, dimension: int = 16) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, QUERIES = unit(0, 3_000), unit(1, 40)


def brute(vectors, queries, k):
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


def test_exact_search_is_brute_force():
    rows, scores = exact(VECTORS, QUERIES, 20)
    np.testing.assert_array_equal(rows, brute(VECTORS, QUERIES, 20))
    np.testing.assert_allclose(scores, np.take_along_axis(QUERIES @ VECTORS.T, rows, 1), rtol=1e-5)
    assert exact(VECTORS[:7], QUERIES, 20)[0].shape == (40, 7)


@pytest.mark.parametrize("options", [HNSW, {"factory": "Flat", "parameters": ""}])
def test_an_index_finds_what_brute_force_finds(options, tmp_path):
    index = VideoIndex.build(VECTORS, **options)
    assert (len(index), index.dimension) == VECTORS.shape
    wanted = brute(VECTORS, QUERIES, 20)
    rows, scores = index.search(QUERIES, 20)
    found = np.mean([len(np.intersect1d(a, b)) / 20 for a, b in zip(rows, wanted, strict=True)])
    assert found == index.recall(VECTORS, QUERIES, 20)
    assert found >= (0.98 if options is HNSW else 1.0)
    assert (np.diff(scores, axis=1) <= 0).all()
    index.save(tmp_path)
    again = VideoIndex.load(tmp_path)
    assert (again.factory, again.parameters) == (options["factory"], options["parameters"])
    np.testing.assert_array_equal(again.search(QUERIES, 20)[0], rows)


def test_inner_products_not_distances_decide():
    vectors = np.array([[0.1, 0.0], [9.0, 9.0], [1.0, 0.0]], np.float32)
    assert VideoIndex.build(vectors, factory="Flat", parameters="").search(vectors[2:], 3)[0].tolist() == [[1, 2, 0]]


def test_the_same_vectors_give_the_same_index(tmp_path):
    for name in ("a", "b"):
        VideoIndex.build(VECTORS, **HNSW).save(tmp_path / name)
    assert (tmp_path / "a/videos.faiss").read_bytes() == (tmp_path / "b/videos.faiss").read_bytes()


def test_more_than_there_is_gives_all_there_is():
    rows, scores = VideoIndex.build(VECTORS[:5], factory="Flat", parameters="").search(QUERIES[:1], 50)
    assert sorted(rows[0].tolist()) == [0, 1, 2, 3, 4]
    assert scores.shape == (1, 5)


def test_recall_by_hand():
    index = VideoIndex.build(VECTORS[::-1].copy(), factory="Flat", parameters="")  # finds row i where row 2999 - i is right
    wanted, found = exact(VECTORS, QUERIES, 50)[0], index.search(QUERIES, 50)[0]
    shares = [len(set(a) & set(b)) / 50 for a, b in zip(wanted.tolist(), found.tolist(), strict=True)]
    assert index.recall(VECTORS, QUERIES, 50) == pytest.approx(np.mean(shares))
    assert np.isnan(index.recall(VECTORS, QUERIES[:0], 50))


def test_a_query_of_another_width_is_named():
    with pytest.raises(VideoIndexError, match="query is 8 wide, but the index holds vectors of 16"):
        VideoIndex.build(VECTORS, factory="Flat", parameters="").search(QUERIES[:, :8], 3)


def test_a_missing_truncated_or_foreign_file_is_named(tmp_path):
    with pytest.raises(VideoIndexError, match=r"holds no readable index .*run `dvc repro index`"):
        VideoIndex.load(tmp_path)
    VideoIndex.build(VECTORS, **HNSW).save(tmp_path)
    path = tmp_path / "videos.faiss"
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"no index at all"):
        path.write_bytes(content)
        with pytest.raises(VideoIndexError, match=f"{tmp_path} holds no readable index"):
            VideoIndex.load(tmp_path)
    path.write_bytes(whole)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(VideoIndexError, match="holds no readable index"):
        VideoIndex.load(tmp_path)


def test_the_guard_hands_over_a_good_index_and_refuses_a_bad_one():
    index, recall = build_guarded(VECTORS, QUERIES, **HNSW, k=20, floor=0.98)
    assert recall == index.recall(VECTORS, QUERIES, 20)
    with pytest.raises(VideoIndexError, match=r"recall@20 of 'HNSW4,Flat' \(efSearch=1\) is 0\.\d+, expected at least 0.98"):
        build_guarded(VECTORS, QUERIES, factory="HNSW4,Flat", parameters="efSearch=1", k=20, floor=0.98)


def test_the_guard_refuses_what_nothing_was_measured_on():
    with pytest.raises(VideoIndexError, match="is nan, expected at least"):
        build_guarded(VECTORS, QUERIES[:0], **HNSW, k=20, floor=0.5)
