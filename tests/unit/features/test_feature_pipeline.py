"""The fitted parts, and the one transform: by hand, row by row, saved and read again."""

import numpy as np
import polars as pl
import pytest

from watchnext.features.encode.encodings import (
    CLIP,
    MISSING,
    PRIOR,
    encode,
    encode_column,
    fitted_scale,
    frequent,
    joined,
    raw,
    scaled_rates,
    standardised,
)
from watchnext.features.encode.pipeline import COUNTER_ENTITIES, UNSCALED, FeaturePipeline, TrainingCounts
from watchnext.features.state import counters
from watchnext.features.state.fold import Layout, Reads
from watchnext.schema import FeatureSchema, SchemaError

DECLARED = {
    "features": {
        "city": {"kind": "categorical", "entity": "user", "nullable": True},
        "level": {"kind": "categorical", "entity": "user"},
        "age": {"kind": "numerical", "entity": "user", "nullable": True},
        "spend": {"kind": "numerical", "entity": "user", "transform": "quantile", "nullable": True},
        "flat": {"kind": "numerical", "entity": "user"},
        "language": {"kind": "categorical", "entity": "video"},
        "size": {"kind": "numerical", "entity": "video", "transform": "log1p"},
        "tags": {"kind": "sequence", "entity": "video", "nullable": True},
        "vector": {"kind": "vector", "entity": "video", "dimension": 2, "producer": "p1"},
        "age_h": {"kind": "numerical", "entity": "video", "expression": "age_h", "nullable": True, "transform": "log1p"},
        "surface": {"kind": "categorical", "entity": "context"},
        "battery": {"kind": "numerical", "entity": "context", "nullable": True},
        "hour": {"kind": "categorical", "entity": "context", "expression": "hour"},
        "gap_s": {"kind": "numerical", "entity": "user", "expression": "gap_s", "nullable": True},
        "history": {"kind": "sequence", "entity": "user"},
        **{f"{entity} counters": {"kind": "counter", "entity": entity} for entity in ("user", *COUNTER_ENTITIES)},
    },
    "state": {"counts": ["click", "impression"], "half_lives_h": [1, 24], "history": 3, "tags_per_video": 2},
}
SCHEMA = FeatureSchema.from_mapping(DECLARED)
LAYOUT = Layout.of(SCHEMA.state)
HOUR_MS = 3_600_000
USERS = pl.DataFrame(
    {
        "user_id": [1, 2, 3, 4],
        "city": ["rome", "oslo", None, "bern"],
        "level": [3, 1, 1, 7],
        "age": [20.0, None, 40.0, 90.0],
        "spend": [1.0, 5.0, 2.0, None],
        "flat": [6.0, 6.0, 6.0, 8.0],
    }
)
VIDEOS = pl.DataFrame(
    {
        "video_id": ["a", "b", "c"],
        "language": ["en", "de", "fr"],
        "size": [0.0, 9.0, 99.0],
        "tags": [["x", "y", "z"], None, ["y", "new"]],
        "upload_ms": [0, None, 50 * HOUR_MS],
        "duration_ms": [1500, None, 30_000],
    }
)
VECTORS = np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]], np.float32)
TRAIN_USERS, TRAIN_VIDEOS = (
    np.array([0, 1, 2, 0, 1, 2]),
    np.array([0, 0, 0, 1, 1, 1]),
)  # neither the last user nor the last video
READ_BUFFERS = np.array([10.0, 11.0, 12.0, 10.5, 11.5, 35.0]) * HOUR_MS
CONTEXT = {
    "surface": np.array(["home", "home", "next", "home", "next", "tv"]),
    "battery": np.array([0.5, 0.25, np.nan, 1.0, 0.75, 0.0]),
}


def reads_of(n: int, seed: int = 0) -> Reads:
    random = np.random.default_rng(seed)
    out = Reads.empty(LAYOUT, n, n)
    out.user[:], out.candidate[:] = random.gamma(1.0, 3.0, out.user.shape), random.gamma(1.0, 3.0, out.candidate.shape)
    out.history_rows[:] = random.integers(-1, len(VIDEOS), out.history_rows.shape)
    out.history[:] = random.integers(0, 8, out.history.shape) * [5_000.3, 7.1, 1.0]
    out.gap_s[:] = random.choice([-1.0, 3.0, 4_000.7], n)
    return out


def pipeline(
    min_count: int = 1, schema: FeatureSchema = SCHEMA, users: pl.DataFrame = USERS, reads: Reads | None = None
) -> FeaturePipeline:
    return FeaturePipeline.fit(
        schema=schema,
        utc_offset_h=1,
        users=users,
        videos=VIDEOS,
        training_counts=TrainingCounts(np.bincount(TRAIN_USERS, minlength=4), np.bincount(TRAIN_VIDEOS, minlength=3), {}),
        user_rows=TRAIN_USERS,
        video_rows=TRAIN_VIDEOS,
        context=CONTEXT,
        as_of_ms=READ_BUFFERS,
        reads=reads_of(6) if reads is None else reads,
        min_count=min_count,
    )


def transformed(fitted: FeaturePipeline, n: int = 40) -> dict[str, np.ndarray]:
    """Every block, of random requests."""
    random = np.random.default_rng(5)
    as_of, reads, rows = random.uniform(0, 90, n) * HOUR_MS, reads_of(n, 2), random.integers(0, 3, n)
    context = {"surface": random.choice(["home", "next", "new", ""], n), "battery": random.choice([0.3, np.nan], n)}
    blocks = {**fitted.users(USERS), **fitted.videos(VIDEOS, VECTORS), **fitted.query(context, as_of, reads)}
    return {
        **blocks,
        "candidate_values": fitted.candidates(raw(VIDEOS["upload_ms"], "numerical")[rows], as_of, reads.candidate),
    }


def test_codes_are_places_of_training_values_and_zero_is_everything_else():
    codes = pipeline().users(USERS)["user_codes"]
    assert codes.tolist() == [[2, 2], [1, 1], [0, 1], [0, 0], [0, 0]]  # city: null, unseen, unknown; level: unseen, unknown
    assert pipeline().videos(VIDEOS, VECTORS)["video_codes"].tolist() == [[2], [1], [0], [0]]


def test_a_rare_category_shares_the_code_zero():
    fitted = pipeline(min_count=2).query(CONTEXT, READ_BUFFERS, reads_of(6))
    assert fitted["context_codes"][:, 0].tolist() == [1, 1, 2, 1, 2, 0]
    assert fitted["context_codes"][:, 1].tolist() == [1, 2, 0, 1, 2, 2]  # 13 o'clock is rare


def test_an_expression_is_local_time():
    assert pipeline().fitted["vocabulary.hour"].tolist() == [11, 12, 13]  # UTC+1: 10:00 and 10:30 are 11, 35:00 is noon


def test_tags_are_cut_padded_and_unseen_ones_zero():
    fitted = pipeline()
    assert fitted.fitted["vocabulary.tags"].tolist() == ["x", "y", "z"]
    assert fitted.videos(VIDEOS, VECTORS)["video_tags"].tolist() == [[1, 2], [0, 0], [2, 0], [0, 0]]


def test_a_vector_is_of_unit_length_and_says_whether_it_is_there():
    vectors = pipeline().videos(VIDEOS, VECTORS)["video_vector"]
    np.testing.assert_allclose(vectors, [[0.6, 0.8, 1], [0, 0, 0], [0, -1, 1], [0, 0, 0]], rtol=1e-6)


def test_user_values_by_hand():
    """age, its flag, spend, its flag, flat; mean and deviation over the six training rows of users 1, 2 and 3."""
    values = pipeline().users(USERS)["user_values"]
    np.testing.assert_allclose(values[:, 0], [-1, 0, 1, 1, 0], rtol=1e-6)  # mean 30, deviation 10; null is the mean
    flag = np.array([0, 1, 0])
    np.testing.assert_allclose(values[:3, 1], (flag - flag.mean()) / flag.std(), rtol=1e-6)
    assert not values[:4, 4].any()  # constant in training: nothing is known of what it says when it starts to vary
    assert not values[4].any()


def test_values_beyond_those_of_training_are_read_as_its_bounds():
    sample = np.append(np.arange(10_000.0), [np.nan, 1e9])[:, None]
    scale = fitted_scale(sample)
    mean, deviation, low, high = scale[:, 0]
    assert (low * deviation + mean, high * deviation + mean) == pytest.approx((10, 9_991), abs=2)
    found = standardised(np.array([[-5.0], [3.0], [500.0], [np.nan], [np.inf]]), scale)[:, 0]
    np.testing.assert_allclose(found, [low, low, (500 - mean) / deviation, 0, high])
    spike = fitted_scale(np.append(np.zeros(100_000), np.full(200, 1.0))[:, None])[:, 0]
    assert spike[3] == CLIP  # where two in a thousand rows differ from all others, by 22 deviations


def test_a_quantile_transform_is_the_share_of_training_rows_below():
    fitted = pipeline()
    spend = np.array([1.0, 5.0, 2.0, 1.0, 5.0, 2.0])
    values = fitted.users(USERS)["user_values"][:4, 2]
    known = np.interp([1.0, 5.0, 2.0], np.quantile(spend, np.linspace(0, 1, 101)), np.linspace(0, 1, 101))
    expected = (known - known.mean()) / known.std()
    np.testing.assert_allclose(values, [*expected, 0.0], rtol=1e-6)
    assert values[0] < values[2] < values[1]
    beyond = fitted.users(USERS.with_columns(spend=pl.Series([-1e9, 0.0, 1e9, 5.0])))["user_values"][:4, 2]
    assert beyond[0] == beyond[1] == values[0]  # however far below
    assert beyond[2] == beyond[3] == values[1]


def test_rates_are_smoothed_towards_the_training_mean():
    fitted, reads = pipeline(), reads_of(6)
    clicks, impressions = reads.user[:, :2], reads.user[:, 2:]
    mean = clicks.sum(0) / np.maximum(clicks.sum(0), impressions.sum(0))
    behind = np.maximum(clicks, impressions)  # a click took an impression, however faded that is
    rates = np.concatenate([(clicks + PRIOR * mean) / (behind + PRIOR), np.log1p(impressions)], axis=1)
    found = fitted.query(CONTEXT, READ_BUFFERS, reads)["query_values"][:, -4:]
    np.testing.assert_allclose(found, (rates - rates.mean(0)) / rates.std(0), rtol=1e-5, atol=1e-6)


def test_no_rate_exceeds_what_an_impression_can_add_however_far_the_impressions_have_faded():
    """As where times are cut to midnight: hours later nothing is left of the impressions, and all of the outcomes."""
    state = {**DECLARED["state"], "counts": ["click", "impression", "watch_s"]}
    schema = FeatureSchema.from_mapping({**DECLARED, "state": state})
    layout = Layout.of(schema.state)
    reads = Reads.empty(layout, 6, 6)
    for values in vars(reads).values():
        values[:] = 0
    reads.user[:], reads.candidate[:] = [3, 3, 1e-7, 1e-7, 60, 60], [3, 3, 1e-7, 1e-7, 60, 60]
    fitted = pipeline(schema=schema, reads=reads).fitted
    for entity in ("user", *COUNTER_ENTITIES):
        np.testing.assert_allclose(fitted[f"rate.{entity}"], [[1, 1], [1e-7 / 3] * 2, [20, 20]], rtol=1e-5)
    out, values = np.empty((1, 3)), np.array([[0.0, 1e-9, 1e9]])
    most = counters.most(("click", "impression", "watch_s"))
    scaled_rates(values, np.zeros((3, 1)), np.repeat(UNSCALED, 3, axis=1), most, 1, out)
    assert out[0, 2] < most[2] == 86_400  # seconds alone are of a day an impression, at the most


def test_watches_are_logs_and_flags():
    reads = reads_of(1)
    reads.history[0] = [[np.expm1(10.0), np.expm1(2.5), 5.0], [0.0, 0.0, 2.0 + 8.0], [0.0, 0.0, 0.0]]
    found = pipeline().query({name: values[:1] for name, values in CONTEXT.items()}, READ_BUFFERS[:1], reads)["history_values"]
    np.testing.assert_allclose(found[0], [[1, 0.5, 1, 0, 1], [0, 0, 0, 1, 0], [0] * 5], rtol=1e-6)


def test_n_rows_and_one_by_one_give_the_same_bits():
    """Training transforms chunks of 65,536 rows, serving one viewer and some hundred candidates."""
    fitted, n = pipeline(), 67
    random = np.random.default_rng(1)
    as_of, reads, uploads = random.uniform(0, 9_000, n) * HOUR_MS, reads_of(n, 3), random.uniform(0, 5_000, n) * HOUR_MS
    context = {"surface": random.choice(["home", "tv"], n), "battery": random.random(n)}
    whole = {**fitted.query(context, as_of, reads), "candidate_values": fitted.candidates(uploads, as_of, reads.candidate)}
    for i in range(n):
        one = slice(i, i + 1)
        part = Reads(*(values[one].copy() for values in vars(reads).values()))
        single = fitted.query({name: values[one] for name, values in context.items()}, as_of[one], part)
        single["candidate_values"] = fitted.candidates(uploads[one], as_of[one], part.candidate)
        for name, values in single.items():
            np.testing.assert_array_equal(values[0], whole[name][i], err_msg=name)
    types = {name: values.dtype.name for name, values in whole.items()}
    codes = dict.fromkeys(("context_codes", "history_rows"), "int32")
    assert types == codes | dict.fromkeys(("query_values", "history_values", "candidate_values"), "float32")


def test_saved_and_read_again_transforms_to_the_same_bits(tmp_path):
    fitted = pipeline()
    fitted.save(tmp_path)
    again = FeaturePipeline.load(tmp_path)
    assert again.sizes == fitted.sizes
    for name, values in transformed(fitted).items():
        np.testing.assert_array_equal(values, transformed(again)[name], err_msg=name)


def test_a_folder_that_disagrees_with_itself_or_holds_nothing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no feature pipeline; run `dvc repro features`"):
        FeaturePipeline.load(tmp_path)
    pipeline().save(tmp_path)
    FeatureSchema.from_mapping({}).save(tmp_path / "schema.json")
    with pytest.raises(SchemaError, match="run `dvc repro features`"):
        FeaturePipeline.load(tmp_path)


def test_row_minus_one_is_an_unknown_entity():
    blocks = transformed(pipeline(), 2)
    static = {name: values for name, values in blocks.items() if name.startswith(("user_", "video_"))}
    users = {name: values for name, values in static.items() if name.startswith("user_")}
    videos = {name: values for name, values in static.items() if name.startswith("video_")}
    inputs = joined({"history_rows": np.array([[1, -1], [-1, -1]])}, users, videos, np.array([-1, 1]), np.array([0, -1]))
    assert not any(inputs[name][0].any() for name in users)
    assert not any(inputs[name][1].any() for name in videos)
    assert inputs["history_mask"].tolist() == [[1, 0], [0, 0]]
    np.testing.assert_array_equal(inputs["history_codes"], videos["video_codes"][[[1, -1], [-1, -1]]])
    assert not inputs["history_vector"][:, 1].any()
    assert "history_rows" not in inputs


@pytest.mark.parametrize("regular", [True, False])
def test_every_column_has_a_name(regular):
    schema = SCHEMA if regular else FeatureSchema.from_mapping({"features": {"age": DECLARED["features"]["age"]}})
    fitted = pipeline(schema=schema)
    for block in ("query_values", "candidate_values"):
        names = fitted.value_names(block)
        assert len(names) == len(set(names)) == getattr(fitted.sizes, block)
    if regular:
        assert fitted.value_names("query_values")[:4] == ["battery", "battery missing", "gap_s", "gap_s missing"]
        assert fitted.value_names("candidate_values")[:3] == ["age_h", "age_h missing", "video click 1h"]


def test_sizes_are_those_of_the_blocks():
    fitted = pipeline()
    sizes, blocks = fitted.sizes, transformed(fitted)
    for block in ("user_values", "query_values", "video_values", "candidate_values"):
        assert blocks[block].shape[1] == getattr(sizes, block)
    for block in ("user_codes", "context_codes", "video_codes"):
        assert blocks[block].shape[1] == len(getattr(sizes, block))
        assert (blocks[block].max(0) < getattr(sizes, block)).all()
    assert blocks["video_tags"].max() < sizes.tags == 4
    assert blocks["video_vector"].shape[1] == sizes.vector == 3
    assert blocks["history_values"].shape[2] == sizes.history


def test_columns_that_training_never_saw_become_zero():
    """All missing: no mean to take, no vocabulary to look into."""
    users = USERS.with_columns(age=pl.lit(None, pl.Float64), spend=pl.lit(None, pl.Float64), city=pl.lit(None, pl.String))
    blocks = pipeline(users=users).users(users)
    assert not blocks["user_values"][:3].any()
    assert not blocks["user_codes"][:, 0].any()
    assert np.isfinite(pipeline(users=users).users(USERS)["user_values"]).all()


def test_infinite_and_negative_values_stay_finite():
    uploads, as_of = np.array([np.nan, np.inf, -np.inf, 1e18]), np.full(4, 10.0 * HOUR_MS)
    assert np.isfinite(pipeline().candidates(uploads, as_of, reads_of(4).candidate)).all()


def test_an_unknown_expression_is_named():
    schema = FeatureSchema.from_mapping(
        {"features": {"era": {"kind": "categorical", "entity": "context", "expression": "ear"}}}
    )
    with pytest.raises(KeyError, match="feature 'era' has the expression 'ear', expected one of hour"):
        FeaturePipeline(schema=schema, utc_offset_h=0, fitted={})


@pytest.mark.parametrize(
    ("values", "vocabulary", "codes"),
    [
        (["b", "", "a", "ab", "zz"], ["a", "b"], [2, 0, 1, 0, 0]),
        ([5, MISSING, 2, 9], [2, 5], [2, 0, 1, 0]),
        ([5, 2], ["2", "5"], [2, 1]),
        (["5", "2", "7"], [2, 5], [2, 1, 0]),
        (["a"], [], [0]),
        ([], ["a"], []),
    ],
)
def test_encode(values, vocabulary, codes):
    found = encode(np.array(values), np.array(vocabulary))
    assert found.tolist() == codes
    assert found.dtype == np.int32


def test_raw_columns_name_their_missing_values():
    assert raw(pl.Series([1, None]), "categorical").tolist() == [1, MISSING]
    assert raw(pl.Series([True, None, False]), "categorical").tolist() == [1, MISSING, 0]
    assert raw(pl.Series(["a", None]), "categorical").tolist() == ["a", ""]
    np.testing.assert_array_equal(raw(pl.Series([1, None]), "numerical"), [1.0, np.nan])


def test_a_frequent_value_has_a_code_and_a_missing_one_never():
    assert frequent(pl.Series([None, 4, 2, 4, 9]), np.array([7, 1, 1, 1, 0]), 2).tolist() == [4]
    assert frequent(pl.Series(["", None, "b", "é"]), np.array([5, 5, 1, 1]), 1).tolist() == ["b", "é"]
    assert frequent(pl.Series([], dtype=pl.String), np.zeros(0, np.int64), 1).tolist() == []


@pytest.mark.parametrize(
    ("values", "vocabulary"), [(["b", None, "", "c"], ["a", "b"]), ([4, None, 1, 9], [1, 4]), ([True, None, False, True], [1])]
)
def test_a_column_is_encoded_as_an_array_is(values, vocabulary):
    series, vocabulary = pl.Series(values), np.array(vocabulary)
    np.testing.assert_array_equal(encode_column(series, vocabulary), encode(raw(series, "categorical"), vocabulary))
