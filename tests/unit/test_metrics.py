"""Every metric against the slow reading of its definition, on small arrays full of ties."""

import doctest
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from watchnext import metrics

few = st.integers(0, 4).map(float)  # few distinct values, so ties are common
odd = st.sampled_from([float("nan"), float("inf"), float("-inf")])
rows = st.lists(st.tuples(st.integers(0, 1), few | odd, st.integers(0, 3)), max_size=30)
seconds = st.lists(st.tuples(few, few | odd), max_size=25)


def sunk(score: float) -> float:
    return score if math.isfinite(score) else -math.inf


def slow_auc(pairs: list[tuple[int, float]]) -> float:
    wins = [
        (sunk(p) > sunk(n)) + (sunk(p) == sunk(n)) / 2
        for (a, p), (b, n) in itertools.product(pairs, pairs)
        if a == 1 and b == 0
    ]
    return sum(wins) / len(wins) if wins else math.nan


def columns(table: list[tuple], width: int) -> tuple[np.ndarray, ...]:
    return tuple(np.array([row[i] for row in table]) for i in range(width))


def same(left: float, right: float) -> bool:
    return left == pytest.approx(right, nan_ok=True)


def test_the_examples_in_the_docstrings_hold():
    tried = doctest.testmod(metrics)
    assert tried.attempted >= 9
    assert tried.failed == 0


@given(rows)
def test_auc_is_the_share_of_won_pairs(table):
    labels, scores, _ = columns(table, 3)
    assert same(metrics.auc(labels, scores), slow_auc([row[:2] for row in table]))


def slow_ranks(scores: list[float]) -> list[float]:
    return [sum(s < mine for s in scores) + (sum(s == mine for s in scores) + 1) / 2 for mine in scores]


@given(seconds)
def test_rank_correlation_is_the_correlation_of_ranks(table):
    left, right = columns(table, 2) if table else (np.zeros(0), np.zeros(0))
    ranks = [slow_ranks([sunk(value) for value in values]) for values in (left, right)]
    both = len(table) and all(np.ptp(values) for values in ranks)
    assert same(metrics.rank_correlation(left, right), np.corrcoef(*ranks)[0, 1] if both else math.nan)


@given(rows)
def test_gauc_averages_each_viewers_auc_by_positives(table):
    total = weight = 0.0
    for viewer in {row[2] for row in table}:
        own = [row[:2] for row in table if row[2] == viewer]
        area, positives = slow_auc(own), sum(row[0] for row in own)
        if not math.isnan(area):
            total, weight = total + area * positives, weight + positives
    assert same(metrics.gauc(*columns(table, 3)), total / weight if weight else math.nan)


def every_order(own: list[tuple[int, float]]) -> list[list[int]]:
    """The labels of one viewer best first, under every order of rows of one score."""
    orders = itertools.permutations(own)
    return [[row[0] for row in sorted(order, key=lambda row: -sunk(row[1]))] for order in orders]  # a stable sort


@given(st.lists(st.tuples(st.integers(0, 1), few | odd, st.integers(0, 3)), max_size=12), st.integers(1, 6))
def test_ndcg_is_the_mean_over_all_viewers_and_all_orders_of_ties(table, k):
    def dcg(gains):
        return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains[:k]))

    values = []
    for viewer in {row[2] for row in table}:
        own = [row[:2] for row in table if row[2] == viewer][:5]
        table = [row for row in table if row[2] != viewer] + [(*row, viewer) for row in own]
        ideal = dcg(sorted((row[0] for row in own), reverse=True))
        found = np.mean([dcg(ranked) for ranked in every_order(own)])
        values.append(found / ideal if ideal else 0.0)
    assert same(
        metrics.ndcg_at(*columns(table, 3), k=k), sum(values) / len(values) if any(row[0] for row in table) else math.nan
    )


def in_every_order(own: list[tuple[int, float]]) -> dict[str, float]:
    """AUC, nDCG@5 and 1 / rank of the first positive of one request, as means over all orders of its ties."""

    def dcg(gains):
        return sum(gain / math.log2(rank + 2) for rank, gain in enumerate(gains[:5]))

    orders, ideal = every_order(own), dcg(sorted((row[0] for row in own), reverse=True))
    return {
        "gauc": slow_auc(own),
        "ndcg@5": np.mean([dcg(ranked) / ideal for ranked in orders]),
        "mrr": np.mean([1 / (ranked.index(1) + 1) for ranked in orders]),
    }


@given(st.lists(st.tuples(st.integers(0, 1), few | odd, st.integers(0, 3)), max_size=14))
def test_request_figures_are_weighted_means_over_groups_with_both_labels(table):
    values, weights = [], []
    for group in sorted({row[2] for row in table}):
        own = [row[:2] for row in table if row[2] == group][:6]
        table = [row for row in table if row[2] != group] + [(*row, group) for row in own]
        positives = sum(row[0] for row in own)
        if 0 < positives < len(own):
            values.append(in_every_order(own))
            weights.append((positives, len(own)))
    found = metrics.RequestFigures.of(*(columns(table, 3) if table else (np.zeros(0),) * 3))
    assert len(found.first) == len(values)
    assert len({columns(table, 3)[2][row] for row in found.first}) == len(values) if values else True
    for weight, suffix in enumerate(("", "_by_impressions")):
        for name in ("gauc", "ndcg@5", "mrr"):
            each = [value[name] for value in values]
            mean = np.average(each, weights=[both[weight] for both in weights]) if each else math.nan
            assert same(found.means()[f"{name}_request{suffix}"], mean)


def test_request_figures_by_hand():
    labels, scores = np.array([1, 0, 0, 1, 1, 1, 1, 0]), np.array([0.5, 0.9, 0.1, 0.2, 0.1, 0.3, 0.3, 0.4])
    groups = np.array([7, 7, 7, 8, 8, 9, 10, 10])  # 8 has one label, 9 one row
    found = metrics.RequestFigures.of(labels, scores, groups)
    assert found.figures["gauc"].tolist() == [0.5, 0.0]
    assert found.figures["mrr"].tolist() == [0.5, 0.5]
    assert found.positives.tolist() == [1, 1]
    assert found.impressions.tolist() == [3, 2]
    assert found.first.tolist() == [0, 6]
    assert found.means()["gauc_request"] == 0.25
    assert found.means()["gauc_request_by_impressions"] == pytest.approx(0.3)


@given(rows, st.randoms(use_true_random=False))
def test_row_order_changes_nothing(table, random):
    shuffled = random.sample(table, len(table))
    for k in (1, 3):
        assert same(metrics.ndcg_at(*columns(table, 3), k=k), metrics.ndcg_at(*columns(shuffled, 3), k=k))
    for metric in (metrics.auc, metrics.logloss, metrics.ece):
        probabilities = [(label, min(max(sunk(score), 0.0), 4.0) / 4) for label, score, _ in table]
        reordered = [(label, min(max(sunk(score), 0.0), 4.0) / 4) for label, score, _ in shuffled]
        assert same(metric(*columns(probabilities, 2)), metric(*columns(reordered, 2)))
    assert same(metrics.gauc(*columns(table, 3)), metrics.gauc(*columns(shuffled, 3)))


def test_a_constant_score_is_worth_a_random_order():
    """Sorted by outcome or not: one positive of four is among the first two half of the time."""
    for labels in ([1, 0, 0, 0], [0, 0, 0, 1]):
        expected = (1 / math.log2(2) + 1 / math.log2(3)) / 4
        assert metrics.ndcg_at(labels, [0.5] * 4, [0] * 4, 2) == pytest.approx(expected)


def test_groups_may_be_strings_or_large_numbers():
    labels, scores = [1, 0, 0, 1], [0.9, 0.1, 0.8, 0.2]
    assert metrics.gauc(labels, scores, ["b", "b", "a", "a"]) == 0.5
    assert metrics.gauc(labels, scores, np.array([2**60, 2**60, -1, -1])) == 0.5


@given(seconds)
def test_xauc_is_the_share_of_concordant_pairs(table):
    won = [
        0.5 if sunk(p) == sunk(q) else float((sunk(p) > sunk(q)) == (a > b))
        for (a, p), (b, q) in itertools.combinations(table, 2)
        if a != b
    ]
    assert same(metrics.xauc(*columns(table, 2)), sum(won) / len(won) if won else math.nan)


def test_xauc_of_many_rows_takes_moments_and_is_exact():
    generator = np.random.default_rng(1)
    true = generator.integers(0, 300, 3000).astype(float)
    predicted = true + generator.integers(-200, 200, 3000)
    later = np.triu(np.ones((3000, 3000), dtype=bool), 1) & (true[:, None] != true[None, :])
    agreement = np.sign(true[:, None] - true[None, :]) * np.sign(predicted[:, None] - predicted[None, :])
    assert metrics.xauc(true, predicted) == pytest.approx(((agreement[later] + 1) / 2).mean(), abs=1e-12)


@given(st.lists(st.tuples(few, few | odd, st.integers(0, 3)), max_size=25))
def test_stratified_xauc_is_the_share_of_concordant_pairs_of_one_stratum(table):
    won = [
        0.5 if sunk(p) == sunk(q) else float((sunk(p) > sunk(q)) == (a > b))
        for (a, p, s), (b, q, t) in itertools.combinations(table, 2)
        if a != b and s == t
    ]
    assert same(metrics.stratified_xauc(*columns(table, 3)), sum(won) / len(won) if won else math.nan)


def test_knowing_durations_alone_is_worth_nothing_inside_them():
    generator = np.random.default_rng(0)
    duration = np.repeat([10.0, 100.0], 500)
    watched = duration * generator.random(1000)
    assert metrics.xauc(watched, duration) > 0.7
    assert metrics.stratified_xauc(watched, duration, duration) == 0.5


@given(st.lists(st.lists(st.integers(-1, 6), max_size=6), min_size=1, max_size=5), st.integers(1, 6), st.data())
def test_recall_counts_each_relevant_row_once(ranked, k, data):
    wanted = data.draw(st.lists(st.lists(st.integers(0, 6), max_size=4), min_size=len(ranked), max_size=len(ranked)))
    shares = [len(set(row[:k]) & set(want)) / len(set(want)) for row, want in zip(ranked, wanted, strict=True) if want]
    expected = sum(shares) / len(shares) if shares else math.nan
    assert same(metrics.recall_at(ranked, wanted, k), expected)
    padded = np.full((len(ranked), 6), -1)
    for i, row in enumerate(ranked):
        padded[i, : len(row)] = row
    assert same(metrics.recall_at(padded, wanted, k), expected)


def test_calibration_by_hand():
    assert metrics.logloss([1], [0.0]) == pytest.approx(-math.log(1e-15))
    assert metrics.logloss([1], [float("nan")]) == pytest.approx(-math.log(1e-15))
    assert metrics.ece([0, 0, 0, 1], [0.25] * 4) == 0.0
    assert metrics.ece([0, 0], [1.0, 1.0]) == 1.0
    assert metrics.mean_absolute_error([1.0], [float("nan")]) == math.inf


@pytest.mark.parametrize(
    "value",
    [
        metrics.auc([], []),
        metrics.auc([1, 1], [0.1, 0.2]),
        metrics.gauc([1, 0], [0.5, 0.5], [1, 2]),
        metrics.ndcg_at([], [], [], 5),
        metrics.ndcg_at([0, 0], [0.1, 0.2], [1, 2], 5),
        metrics.logloss([], []),
        metrics.ece([], []),
        metrics.recall_at([], [], 5),
        metrics.recall_at([[1, 2]], [[]], 5),
        metrics.mean_absolute_error([], []),
        metrics.xauc([], []),
        metrics.xauc([3.0, 3.0], [1.0, 2.0]),
        metrics.stratified_xauc([], [], []),
        metrics.stratified_xauc([1.0, 2.0], [1.0, 2.0], [0, 1]),
        metrics.coverage([], 0),
    ],
)
def test_an_average_over_nobody_is_nan(value):
    assert math.isnan(value)


def test_wrong_inputs_are_named():
    with pytest.raises(ValueError, match=r"labels \(2,\), scores \(1,\)"):
        metrics.auc([0, 1], [0.5])
    with pytest.raises(ValueError, match=r"probability 2\.5 .* sigmoid"):
        metrics.logloss([1], [2.5])
    with pytest.raises(ValueError, match="got 1 and 2"):
        metrics.recall_at([[1]], [[1], [2]], 5)
    with pytest.raises(ValueError, match="finite true values"):
        metrics.xauc([float("nan"), 1.0], [1.0, 2.0])


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12))
def test_gini_is_the_mean_difference_over_twice_the_mean(counts):
    differences = [abs(a - b) for a, b in itertools.product(counts, counts)]
    mean = sum(counts) / len(counts)
    assert same(metrics.gini(counts), sum(differences) / len(counts) ** 2 / 2 / mean if mean else math.nan)


def test_popularity_lift_leaves_out_who_has_no_rows():
    popularity = np.array([8.0, 4.0, 2.0])
    assert metrics.popularity_lift([[0], [], [1, 2]], [[], [1], [2]], popularity) == pytest.approx((8 + 3) / 2 / 3 - 1)
    for ranked, watched in (([[]], [[1]]), ([[1]], [[]]), ([], [])):
        assert math.isnan(metrics.popularity_lift(ranked, watched, popularity))
    assert math.isnan(metrics.popularity_lift([[0]], [[0]], np.zeros(3)))


slates = st.lists(
    st.tuples(st.lists(st.integers(0, 7), max_size=6), st.lists(st.integers(0, 7), max_size=5), st.lists(st.integers(0, 7))),
    max_size=5,
)


def slow_figures(ranked: list[int], relevant: list[int], k: int) -> dict[str, float]:
    """The definitions, rank by rank; a repeated row counts at its first rank."""
    wanted = set(relevant)
    hits = [row in wanted and row not in ranked[:at] for at, row in enumerate(ranked[:k])]
    if not wanted:
        return dict.fromkeys(("recall", "ndcg", "map", "mrr"), math.nan)
    ideal = sum(1 / math.log2(at + 2) for at in range(min(k, len(wanted))))
    return {
        "recall": sum(hits) / len(wanted),
        "ndcg": sum(1 / math.log2(at + 2) for at, hit in enumerate(hits) if hit) / ideal,
        "map": sum(sum(hits[: at + 1]) / (at + 1) for at, hit in enumerate(hits) if hit) / len(wanted),
        "mrr": next((1 / (at + 1) for at, hit in enumerate(hits) if hit), 0.0),
    }


@given(slates, st.integers(1, 7))
def test_figures_of_lists_are_those_of_each_list(table, k):
    ranked, relevant, _ = columns_of(table)
    found = metrics.list_figures(ranked, relevant, k)
    expected = [slow_figures(*pair, k) for pair in zip(ranked, relevant, strict=True)]
    for name, values in found.items():
        assert values.tolist() == pytest.approx([each[name] for each in expected], nan_ok=True)


def columns_of(table: list[tuple]) -> tuple[list, ...]:
    return tuple([row[i] for row in table] for i in range(3))


@given(slates, st.integers(1, 7))
def test_slates_beyond_accuracy_are_measured_one_by_one(table, k):
    ranked, relevant, expected = columns_of(table)
    random = np.random.default_rng(len(table))
    popularity, prints = random.integers(0, 9, 8), np.array([0, 0, 3, 3, 4, 0, -2, -2])
    vectors = np.vstack([random.normal(size=(6, 3)), np.zeros((2, 3))])
    content = [prints[row] or 100 + row for row in range(8)]
    self_information = [-math.log2((count + 1) / (popularity.sum() + 8)) for count in popularity]
    found = zip(
        metrics.novelty(ranked, popularity),
        metrics.serendipity(ranked, relevant, expected, k),
        metrics.intra_list_distance(ranked, vectors),
        metrics.duplicates(ranked, prints),
        strict=True,
    )
    for (novel, unexpected, apart, copies), rows, wanted, obvious in zip(found, ranked, relevant, expected, strict=True):
        assert same(novel, sum(self_information[row] for row in rows) / len(rows) if rows else math.nan)
        top = rows[:k]
        useful = {row for row in top if row in wanted and row not in obvious}
        assert same(unexpected, len(useful) / len(top) if top and wanted else math.nan)
        known = [vectors[row] / np.linalg.norm(vectors[row]) for row in rows if vectors[row].any()]
        pairs = [1 - a @ b for a, b in itertools.combinations(known, 2)]
        assert same(apart, sum(pairs) / len(pairs) if pairs else math.nan)
        assert copies == len(rows) - len({content[row] for row in rows})


def test_creators_without_a_slot_count_in_the_gini_of_creators():
    assert metrics.creator_gini([[0, 1], [0]], [0, 1, 2, -1]) == metrics.gini([2, 1, 0])
    assert math.isnan(metrics.creator_gini([[3]], [0, 1, 2, -1]))
    assert math.isnan(metrics.creator_gini([], np.zeros(0)))


def test_intervals_of_columns_leave_out_what_is_undefined():
    values = np.array([[1.0, np.nan, np.nan], [3.0, 2.0, np.nan], [5.0, 2.0, np.nan]])
    low, high = metrics.intervals(values, seed=0)
    assert (low[0], high[0]) == metrics.interval(values[:, 0], seed=0)
    assert (low[1], high[1]) == (2.0, 2.0)
    assert np.isnan([low[2], high[2]]).all()
    assert np.isnan(metrics.intervals(values[:1], seed=0)).all()


def test_many_viewers_are_drawn_in_parts(monkeypatch):
    values, viewers = np.random.default_rng(2).normal(size=(90, 2)), np.arange(90) % 40
    whole = metrics.intervals(values, seed=7, viewers=viewers)
    monkeypatch.setattr(metrics, "MOST_DRAWS", 100)
    np.testing.assert_allclose(metrics.intervals(values, seed=7, viewers=viewers), whole)


def test_the_interval_of_a_mean_difference():
    """Standard error of the mean of 400 normal draws of deviation 2 is .1; the interval is 1.96 of them to either side."""
    differences = np.random.default_rng(0).normal(0.0, 2.0, 400)
    differences += 3.0 - differences.mean()
    low, high = metrics.interval(differences, seed=0)
    assert (low, high) == pytest.approx((3 - 0.196, 3 + 0.196), abs=0.02)
    assert metrics.interval(np.ones(5), seed=0) == (1.0, 1.0)
    for nobody_or_one in (np.zeros(0), np.ones(1)):
        assert all(math.isnan(end) for end in metrics.interval(nobody_or_one, seed=0))
    assert all(math.isnan(end) for end in metrics.interval(np.arange(5.0), seed=0, viewers=np.zeros(5)))


def test_a_viewer_is_drawn_with_all_of_theirs():
    """Each viewer four times over says no more than once, though there are four times as many rows."""
    differences = np.random.default_rng(0).normal(0.0, 2.0, 400)
    order = np.random.default_rng(1).permutation(1600)
    viewers, repeated = np.repeat(np.arange(400), 4)[order], np.repeat(differences, 4)[order]
    assert metrics.interval(repeated, seed=0, viewers=viewers) == pytest.approx(metrics.interval(differences, seed=0))
    low, high = metrics.interval(repeated, seed=0)
    assert high - low == pytest.approx(0.196, abs=0.02)


def test_a_report_has_null_where_a_figure_is_nan():
    assert metrics.rounded({"a": [math.nan, 0.123456], "b": {"c": 3}}, 3) == {"a": [None, 0.123], "b": {"c": 3}}


def test_a_table_is_as_wide_as_its_longest_cells():
    rows = [("", "@5", "coverage"), ("a name of twenty-four ch", "0.5", ""), ("b", "12,345,678", "1")]
    assert metrics.aligned(rows) == [
        "                                    @5  coverage",
        "  a name of twenty-four ch         0.5",
        "  b                         12,345,678         1",
    ]
    assert metrics.aligned([]) == []
