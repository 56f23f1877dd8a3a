"""Whole-catalogue rankings and their merge, against sorting."""

import math

import numpy as np
import pytest
from benchmarks.leave_one_out.catalogue import best, constant, figures, gains
from benchmarks.leave_one_out.fusion import Pool, chosen, in_logs, pooled
from benchmarks.leave_one_out.protocol import Sequences

VIDEOS, VIEWERS = 30, 8


@pytest.fixture
def histories() -> Sequences:
    random = np.random.default_rng(0)
    return Sequences.of([random.integers(0, VIDEOS, size).tolist() for size in (0, 1, 2, 3, 4, 5, 6, 29)], VIDEOS)


def scorer(seed: int):
    scores = np.random.default_rng(seed).random((VIEWERS, VIDEOS))
    return lambda histories, viewers: scores[viewers].copy()


def of(histories: Sequences, viewer: int) -> set[int]:
    return set(histories.rows[histories.starts[viewer] : histories.starts[viewer + 1]].tolist())


@pytest.mark.parametrize("chunk", [3, 100])
def test_the_best_are_the_highest_unseen(histories, chunk):
    viewers = np.array([7, 0, 3, 5])
    found = best(scorer(0), histories, viewers, k=12, chunk=chunk)
    for rows, viewer in zip(found, viewers, strict=True):
        unseen = [row for row in np.argsort(-scorer(0)(histories, [viewer])[0]) if row not in of(histories, viewer)][:12]
        assert rows.tolist() == unseen + [-1] * (12 - len(unseen))


def test_minus_infinity_is_never_recommended_and_a_small_catalogue_is_padded(histories):
    scores = np.full(VIDEOS, -np.inf)
    scores[[4, 9]] = [1.0, 2.0]
    assert best(constant(scores), Sequences.of([[]], VIDEOS), np.array([0]), k=4).tolist() == [[9, 4, -1, -1]]
    assert best(constant(np.ones(2)), Sequences.of([[1]], 2), np.array([0]), k=4).tolist() == [[0, -1, -1, -1]]
    assert best(constant(scores), histories, np.array([], np.int64), k=4).shape == (0, 4)


def test_recall_and_ndcg_of_one_wanted_video():
    ranked = np.array([[5, 6, 7], [5, 6, 7], [5, 6, -1]])
    recall, ndcg = gains(ranked, np.array([5, 7, 8]))
    assert recall.tolist() == [1.0, 1.0, 0.0]
    assert ndcg.tolist() == pytest.approx([1.0, 1 / math.log2(4), 0.0])
    assert figures(ranked, np.array([5, 7, 8]), "x_") == pytest.approx({"x_recall@3": 2 / 3, "x_ndcg@3": 0.5})
    assert all(np.isnan(list(figures(np.empty((0, 3)), np.empty(0)).values())))


def test_logs_are_of_shares_with_a_floor(histories):
    found = in_logs(constant(np.array([4.0, 1.0, 0.0])), 0.01)(histories, np.array([0]))
    assert found[0].tolist() == pytest.approx([math.log(1.01), math.log(0.26), math.log(0.01)])
    nothing = in_logs(constant(np.zeros(3)), 0.01)(histories, np.array([0]))
    assert nothing[0].tolist() == pytest.approx([math.log(0.01)] * 3)


def test_a_pool_holds_what_any_source_named_once_with_all_scores(histories):
    sources, viewers = {"a": scorer(1), "b": scorer(2)}, np.array([6, 0, 7])
    pool = pooled(sources, histories, viewers, named=5, chunk=2)
    for place, viewer in enumerate(viewers):
        rows = pool.rows[place][pool.rows[place] >= 0]
        named = [best(source, histories, np.array([viewer]), 5)[0] for source in sources.values()]
        assert sorted(rows) == sorted(set(np.concatenate(named).tolist()) - {-1})
        assert len(set(rows)) == len(rows)
        for name, source in sources.items():
            expected = source(histories, np.array([viewer]))[0][rows]
            np.testing.assert_allclose(pool.scores[name][place][: len(rows)], expected, rtol=1e-6)


def test_the_merge_is_the_weighted_sum(histories):
    """With every video named, the merge is a sort of the whole catalogue."""
    pool = pooled({"a": scorer(1), "b": scorer(2)}, histories, np.arange(VIEWERS), named=VIDEOS)
    found = pool.ranked({"a": 1.0, "b": 0.7}, k=6)
    for viewer in range(VIEWERS):
        total = scorer(1)(histories, [viewer])[0] + 0.7 * scorer(2)(histories, [viewer])[0]
        wanted = [row for row in np.argsort(-total) if row not in of(histories, viewer)][:6]
        assert found[viewer].tolist() == wanted + [-1] * (6 - len(wanted))


def test_weights_go_to_the_source_that_knows():
    """`a` is noise, `b` knows the wanted video, `c` does not."""
    random = np.random.default_rng(0)
    wanted = random.integers(0, 20, 200)
    rows = np.tile(np.arange(20), (200, 1))
    knows = (rows == wanted[:, None]).astype(np.float32)
    scores = {"a": random.random((200, 20)), "b": knows * 0.5, "c": random.random((200, 20))}
    pool = Pool(rows, scores)
    weights = chosen(pool, wanted, grid=[0.0, 1.0, 4.0], rounds=2, k=3)
    assert weights == {"a": 0.0, "b": 1.0, "c": 0.0}
    assert gains(pool.ranked(weights, 3), wanted)[1].mean() == 1.0


def test_two_sources_that_know_half_each_are_merged():
    """`a` names the wanted video of even viewers first, `b` of odd ones; the other half is noise below that."""
    random = np.random.default_rng(1)
    wanted, even = random.integers(0, 20, 300), np.arange(300) % 2 == 0
    rows = np.tile(np.arange(20), (300, 1))
    knows = rows == wanted[:, None]
    scores = {
        name: np.where(knows & mine[:, None], 2.0, random.random((300, 20))) for name, mine in (("a", even), ("b", ~even))
    }
    weights = chosen(Pool(rows, scores), wanted, grid=[0.0, 0.1, 0.5, 1.0, 2.0], rounds=2, k=1)
    assert all(weights.values())
    found = Pool(rows, scores).ranked(weights, 1)[:, 0]
    assert (found == wanted).mean() > 0.9 > max((np.argmax(values, 1) == wanted).mean() for values in scores.values())


def test_the_simpler_of_equals_is_chosen():
    """`a` serves 94 viewers of 100; `b` the other 6, but puts another video first for as many whom `a` serves, then for one
    less."""
    wanted, rows = np.full(100, 2), np.tile(np.arange(3), (100, 1))
    good, bad = np.array([0.0, 1.0, 2.0]), np.array([2.0, 1.0, 0.0])
    a, b = np.where(np.arange(100)[:, None] < 94, good, bad), np.zeros((100, 3))
    b[94:] = [0.0, 0.0, 9.0]
    b[:6] = [0.0, 9.0, 0.0]
    choices = {"grid": [0.0, 0.5, 1.0], "rounds": 2, "k": 1}
    assert chosen(Pool(rows, {"a": a, "b": b}), wanted, **choices) == {"a": 1.0, "b": 0.0}
    assert chosen(Pool(rows, {"a": a, "b": a}), wanted, **choices) == {"a": 1.0, "b": 0.0}
    assert chosen(Pool(rows, {"a": a, "b": b}), np.full(100, 7), **choices) == {"a": 1.0, "b": 0.0}
    b[0] = 0.0
    assert chosen(Pool(rows, {"a": a, "b": b}), wanted, **choices) == {"a": 0.5, "b": 0.5}
    assert chosen(Pool(rows, {"b": b, "a": a}), wanted, **choices) == {"b": 0.5, "a": 0.5}
