"""Every kind of index against brute force, under filters, on disk, and what each refuses."""

import json
import sys

import numpy as np
import pytest
from index_data import QUERIES, RECIPES, VECTORS, brute, clustered, found_share, unit

from watchnext.retrieval.index.prefilter import PreFilter, StaticMask
from watchnext.retrieval.index.queries import best, best_of
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.index.vectors import FaissRecipe, VideoIndexError, exact

NOBODY = np.zeros(0, np.int64)


@pytest.fixture(scope="module")
def index(kind) -> VideoIndex:
    return VideoIndex.build(VECTORS, recipe=RECIPES[kind], towers="abc")


def masks() -> dict[str, np.ndarray]:
    random = np.random.default_rng(8)
    return {name: random.random(len(VECTORS)) < share for name, share in (("half", 0.5), ("few", 0.06), ("three", 0.001))}


def test_exact_search_is_brute_force():
    rows, scores = exact(VECTORS, QUERIES, 20)
    assert rows.tolist() == [brute(VECTORS, query, 20) for query in QUERIES]
    np.testing.assert_allclose(scores, np.take_along_axis(QUERIES @ VECTORS.T, rows, 1), rtol=1e-5)
    assert exact(VECTORS[:7], QUERIES, 20)[0].shape == (40, 7)


def test_an_index_finds_what_brute_force_finds(index, kind):
    assert (len(index), index.dimension) == VECTORS.shape
    rows, scores = index.search(QUERIES, 20)
    wanted = [brute(VECTORS, query, 20) for query in QUERIES]
    assert found_share(wanted, rows) >= (1.0 if kind == "exact" else 0.95)
    assert (np.diff(scores, axis=1) <= 0).all()
    np.testing.assert_allclose(scores, np.take_along_axis(QUERIES @ VECTORS.T, rows, 1), rtol=1e-5)
    for i in range(5):
        assert index.search(QUERIES[i : i + 1], 20)[0][0].tolist() == rows[i].tolist()


@pytest.mark.parametrize("name", ["half", "few", "three"])
def test_under_a_filter_only_what_is_allowed_is_found_and_nearly_all_of_it(index, kind, name):
    static_mask, random, shares = StaticMask(masks()[name]), np.random.default_rng(9), []
    for query in QUERIES[:15]:
        near = brute(VECTORS, query, 300)
        hidden = random.choice(near, 100, replace=False)  # what was seen lies where the viewer looks
        mask = static_mask.mask.copy()
        mask[hidden] = False
        rows, scores = index.search(query[None], 50, PreFilter(static_mask, np.append(hidden, [10**7, -1])))
        found, wanted = rows[0][rows[0] >= 0], brute(VECTORS, query, 50, mask)
        assert mask[found].all()
        assert len(found) == len(wanted)
        assert (scores[0][len(found) :] == -np.inf).all()
        shares.append(len(set(found) & set(wanted)) / len(wanted))
    assert np.mean(shares) >= (1.0 if kind == "exact" or name != "half" else 0.9)  # narrow ones take the exact path


def test_a_filter_far_from_the_query_still_fills_the_answer(index):
    far = np.argsort(VECTORS @ QUERIES[0])[:600]
    mask = np.zeros(len(VECTORS), bool)
    mask[far] = True
    rows, _ = index.search(QUERIES[:1], 300, PreFilter(StaticMask(mask), NOBODY))
    assert len(set(rows[0].tolist())) == 300
    assert mask[rows[0]].all()


def test_nothing_allowed_finds_nothing_and_more_than_there_is_all_there_is(index):
    rows, scores = index.search(QUERIES[:2], 4, PreFilter(StaticMask(np.zeros(len(VECTORS), bool)), NOBODY))
    assert rows.tolist() == [[-1] * 4] * 2
    assert (scores == -np.inf).all()
    rows, _ = index.search(QUERIES[:1], 10**6)
    assert sorted(rows[0].tolist()) == list(range(len(VECTORS)))
    short = np.zeros(100, bool)
    short[::2] = True
    rows, _ = index.search(QUERIES[:1], 10**6, PreFilter(StaticMask(short), np.array([4])))
    assert sorted(rows[0][rows[0] >= 0].tolist()) == [row for row in range(0, 100, 2) if row != 4]


def test_rows_may_be_any_numbers(kind):
    rows = np.random.default_rng(2).permutation(9_000)[:3_000]
    index = VideoIndex.build(VECTORS, recipe=RECIPES[kind], rows=rows)
    mask = np.zeros(9_000, bool)
    mask[rows[VECTORS[:, 0] > 0]] = True
    found, _ = index.search(QUERIES[:1], 20, PreFilter(StaticMask(mask), NOBODY))
    wanted = rows[brute(VECTORS, QUERIES[0], 20, VECTORS[:, 0] > 0)]
    assert len(set(found[0]) & set(wanted)) >= 18


def test_the_same_vectors_give_the_same_files_and_a_loaded_index_the_same_answers(index, kind, tmp_path):
    index.save(tmp_path / "a")
    VideoIndex.build(VECTORS, recipe=RECIPES[kind], towers="abc").save(tmp_path / "b")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) >= 3
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file
    again = VideoIndex.load(tmp_path / "a")
    assert (again.towers, len(again), again.recipe) == ("abc", 3_000, RECIPES[kind])
    for allowed in (None, PreFilter(StaticMask(masks()["half"]), np.arange(50)), PreFilter(StaticMask(masks()["few"]), NOBODY)):
        for one, other in zip(index.search(QUERIES, 20, allowed), again.search(QUERIES, 20, allowed), strict=True):
            np.testing.assert_array_equal(one, other)
    assert isinstance(again.vectors.base, np.memmap)  # mapped, not read


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_loaded_index_is_mapped_from_its_files(index, tmp_path):
    index.save(tmp_path / "index")
    again = VideoIndex.load(tmp_path / "index")
    with open("/proc/self/maps") as maps:
        mapped = {line.split()[-1] for line in maps if str(tmp_path) in line}
    expected = {"vectors.npy"} | ({"videos.faiss"} if isinstance(again.recipe, FaissRecipe) else set())
    assert expected <= {path.rsplit("/", 1)[1] for path in mapped}


def test_a_truncated_flipped_missing_or_foreign_file_is_named(index, tmp_path):
    with pytest.raises(VideoIndexError, match=r"holds no readable index .*run `dvc repro index`"):
        VideoIndex.load(tmp_path / "nowhere")
    index.save(tmp_path)
    names = json.loads((tmp_path / "index.json").read_text())["files"]
    for name in names:
        whole = (tmp_path / name).read_bytes()
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        for content in (whole[: len(whole) // 2], bytes(flipped), b"", b"no index at all"):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(VideoIndexError, match=rf"{name} is damaged: its sha256 is not that of index.json"):
                VideoIndex.load(tmp_path)
        (tmp_path / name).unlink()
        with pytest.raises(VideoIndexError, match=rf"{name} is missing or not of this index"):
            VideoIndex.load(tmp_path)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "stray").write_text("")
    with pytest.raises(VideoIndexError, match="stray is missing or not of this index"):
        VideoIndex.load(tmp_path)
    index.save(tmp_path)  # in place of all that is there
    assert len(VideoIndex.load(tmp_path)) == 3_000
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(VideoIndexError, match="holds no readable index"):
        VideoIndex.load(tmp_path)


def test_verified_files_are_not_read_twice(index, tmp_path):
    index.save(tmp_path)
    meta = json.loads((tmp_path / "index.json").read_text())
    meta["files"]["vectors.npy"] = "0" * 64
    (tmp_path / "index.json").write_text(json.dumps(meta))
    assert len(VideoIndex.load(tmp_path, verified=True)) == 3_000


@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (QUERIES[:, :8], 3, "query is 8 wide, but the index holds vectors of 16"),
        (QUERIES[0], 3, "query is 16 wide"),
        (np.where(np.arange(40)[:, None] == 2, np.nan, QUERIES), 3, "query 2 holds nan or infinity"),
        (QUERIES, 0, "k is 0, expected at least 1"),
    ],
)
def test_a_query_of_another_width_or_not_finite_is_refused(index, queries, k, message):
    with pytest.raises(VideoIndexError, match=message):
        index.search(queries, k)


def test_vectors_that_cannot_be_indexed_are_refused():
    broken = VECTORS[:5].copy()
    broken[3, 2] = np.inf
    with pytest.raises(VideoIndexError, match="the vector of video 13 holds nan or infinity"):
        VideoIndex.build(broken, recipe=None, rows=np.arange(10, 15))
    with pytest.raises(VideoIndexError, match="'bfloat16', expected one of float32, float16"):
        VideoIndex.build(VECTORS, recipe=None, precision="bfloat16")


def test_an_empty_catalogue_has_an_index_that_finds_nothing(kind, tmp_path):
    index = VideoIndex.build(VECTORS[:0], recipe=RECIPES[kind])
    index.save(tmp_path)
    for each in (index, VideoIndex.load(tmp_path)):
        assert each.search(QUERIES[:2], 5, PreFilter(StaticMask(np.ones(3, bool)), np.array([1])))[0].shape == (2, 0)


def test_inner_products_not_distances_decide():
    vectors = np.array([[0.1, 0.0], [9.0, 9.0], [1.0, 0.0]], np.float32)
    assert VideoIndex.build(vectors, recipe=None).search(vectors[2:], 3)[0].tolist() == [[1, 2, 0]]


def test_half_precision_takes_half_and_changes_little(tmp_path):
    half = VideoIndex.build(VECTORS, recipe=RECIPES["ivf_sq8"], precision="float16")
    half.save(tmp_path)
    assert VideoIndex.load(tmp_path).vectors.dtype == np.float16
    wanted = [brute(VECTORS, query, 50) for query in QUERIES]
    assert found_share(wanted, half.search(QUERIES, 50)[0]) > 0.95


def test_lists_are_built_alike_by_any_number_of_threads(tmp_path):
    import faiss

    built = []
    for threads in (1, 2):
        faiss.omp_set_num_threads(threads)
        index = VideoIndex.build(clustered(7, 20_000), recipe=FaissRecipe(factory="IVF{lists},SQ8", lists=64, compared=2_000))
        index.save(tmp_path / str(threads))
        built.append((tmp_path / str(threads) / "videos.faiss").read_bytes())
    assert built[0] == built[1]


def test_each_video_has_its_best_score_of_several_queries():
    rows = np.array([[4, 2, -1], [2, 7, 4]])
    scores = np.array([[0.9, 0.3, -np.inf], [0.8, 0.7, 0.1]], np.float32)
    found, best = best_of(rows, scores)
    assert found.tolist() == [4, 2, 7]
    np.testing.assert_array_equal(best, np.float32([0.9, 0.8, 0.7]))
    found, _ = best_of(np.full((2, 2), -1), np.full((2, 2), -np.inf, np.float32))
    assert found.tolist() == []


def test_more_lists_than_videos_are_not_made():
    index = VideoIndex.build(unit(1, 10), recipe=FaissRecipe(factory="IVF{lists},SQ8", lists=2048, compared=5))
    assert index.search(unit(2, 1), 10)[0][0].tolist() == brute(unit(1, 10), unit(2, 1)[0], 10)


@pytest.mark.parametrize("share", [0.02, 0.2, 0.24, 0.9])
def test_a_narrow_mask_has_lists_of_its_own_that_find_what_the_whole_ones_find(share, tmp_path):
    vectors, query = clustered(3, 60_000), QUERIES[:1]
    index = VideoIndex.build(vectors, recipe=FaissRecipe(factory="IVF{lists},SQ8", lists=128, compared=6_000, over=1.2))
    index.save(tmp_path)
    mask = np.random.default_rng(4).random(len(vectors)) < share
    static_mask, near = StaticMask(mask), np.array(brute(vectors, query[0], 400, mask))
    for each in (index, VideoIndex.load(tmp_path)):
        found = each.search(query, 100, PreFilter(static_mask, near[::2]))[0][0]
        assert found_share([near[1::2][:100]], [found]) >= 0.98
        part = each._part_of(static_mask)
        assert (part is each.approximate) == (share > 0.25)
        held = sum(part._index.invlists.list_size(number) for number in range(128))
        assert held == (mask.sum() if share < 0.25 else len(vectors))


def test_the_best_of_scores_are_ordered_and_ties_follow_their_positions():
    scores = np.array([3.0, 5.0, 1.0, 5.0, 3.0, 3.0], np.float32)
    assert best(scores, 4).tolist() == [1, 3, 0, 4]
    assert best(scores, 9).tolist() == [1, 3, 0, 4, 5, 2]
    assert best(scores[:0], 3).tolist() == []
