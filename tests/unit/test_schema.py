from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from watchnext.schema import Feature, FeatureSchema, SchemaError, StateSpec

FEATURES = Path(__file__).resolve().parents[2] / "conf" / "features"
AGE = {"kind": "numerical", "entity": "user", "unit": "days", "bounds": [0, None], "transform": "log1p"}
DECLARED = {"features": {"age": AGE, "city": {"kind": "categorical", "entity": "user"}}, "state": {"history": 5}}


def declared(**changes) -> FeatureSchema:
    """DECLARED with other entries for the feature `age`."""
    return FeatureSchema.from_mapping({**DECLARED, "features": {**DECLARED["features"], "age": {**AGE, **changes}}})


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (
            {"feature": {}},
            r"the feature schema has the unknown key 'feature'; did you mean 'features'\? Known keys: features, state$",
        ),
        (
            {"features": {"age": {**AGE, "unti": "s"}}},
            r"feature 'age' has the unknown key 'unti'; did you mean 'unit'\? Known keys: kind,",
        ),
        ({"features": {"age": {**AGE, "zzz": 1}}}, r"feature 'age' has the unknown key 'zzz'\. Known keys: kind,"),
        ({"features": {"age": {**AGE, "name": "x"}}}, r"unknown key 'name'"),
        ({"state": {"histroy": 3}}, r"state has the unknown key 'histroy'; did you mean 'history'\?"),
        ({"features": {"age": {"unit": "s"}}}, r"feature 'age' lacks kind and entity"),
        ({"features": {"age": {"kind": "numerical"}}}, r"feature 'age' lacks entity$"),
    ],
)
def test_a_misspelt_or_missing_key_is_named(mapping, message):
    with pytest.raises(SchemaError, match=message):
        FeatureSchema.from_mapping(mapping)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "number"}, "feature 'age': kind is 'number', expected one of categorical, numerical"),
        ({"entity": "viewer"}, "entity is 'viewer', expected one of user, video"),
        ({"transform": "log"}, "transform is 'log', expected one of none, log1p"),
        ({"drift": "t-test"}, "drift is 't-test', expected one of auto"),
        ({"bounds": [2, 1]}, r"lower bound 2 exceeds upper bound 1"),
        ({"bounds": [2]}, r"bounds are \[2\], expected \[low, high\]"),
        ({"kind": "vector", "producer": "v1"}, "dimension of at least 1 and a producer"),
        ({"kind": "vector", "dimension": 3}, "dimension of at least 1 and a producer"),
    ],
)
def test_a_wrong_value_is_named_with_the_right_ones(changes, message):
    with pytest.raises(SchemaError, match=message):
        declared(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entity": "creator"}, "it is a numerical of entity 'creator', expected one of counter$"),
        ({"entity": "user x tag", "kind": "categorical"}, "it is a categorical of entity 'user x tag', expected one of c"),
        ({"kind": "vector", "dimension": 2, "producer": "v1"}, "it is a vector of entity 'user', expected one of categorical"),
        ({"entity": "context", "kind": "counter"}, "it is a counter of entity 'context', expected one of categorical, numer"),
        ({"entity": "video", "kind": "sequence"}, "the only sequence of a video is 'tags'; name it so"),
        (
            {"entity": "video", "kind": "vector", "dimension": 2, "producer": "v1"},
            "the only vector of a video is 'vector'; name it so",
        ),
        (
            {"kind": "categorical", "expression": "gap_s"},
            "it is a categorical of entity 'user' with an expression, which only a numerical has",
        ),
        (
            {"kind": "categorical", "entity": "video", "expression": "age_h"},
            "it is a categorical of entity 'video' with an expression, which only a numerical has",
        ),
        ({"kind": "counter", "expression": "gap_s"}, "it is a counter of entity 'user' with an expression"),
        ({"expression": "hour"}, "its expression is 'hour', expected 'gap_s', the only one of a user"),
        ({"entity": "video", "expression": "hour"}, "its expression is 'hour', expected 'age_h', the only one of a video"),
        ({"entity": "context", "expression": "gap_s"}, "the expression 'gap_s' reads no request; its entity is 'context'"),
    ],
)
def test_a_key_that_would_never_be_read_is_refused(changes, message):
    with pytest.raises(SchemaError, match=f"feature 'age' would never be read: {message}"):
        declared(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"expression": "gap_s"},
        {"entity": "video", "expression": "age_h"},
        {"entity": "context", "expression": "hour"},
        {"entity": "context", "kind": "categorical", "expression": "weekday"},
        {"entity": "creator", "kind": "counter"},
    ],
)
def test_a_key_that_is_read_is_accepted(changes):
    assert declared(**changes).features[0].name == "age"


@pytest.mark.parametrize("bounds", [(1, 1), (None, 1), (1, None), (None, None)])
def test_equal_and_open_bounds_are_legal(bounds):
    assert declared(bounds=bounds).features[0].bounds == bounds


@pytest.mark.parametrize(
    "state",
    [{"half_lives_h": []}, {"half_lives_h": [1.0, 0.0]}, {"half_lives_h": [-1.0]}]
    + [{name: value} for name in ("tags_kept", "creators_kept", "history", "seen", "tags_per_video") for value in (0, 4097)],
)
def test_a_state_out_of_bounds_is_named(state):
    with pytest.raises(SchemaError, match=next(iter(state))):
        FeatureSchema.from_mapping({"state": state})


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "categorical"},
        {"entity": "video"},
        {"unit": "h"},
        {"bounds": [0, 9]},
        {"nullable": True},
        {"transform": "quantile"},
        {"expression": "gap_s"},
        {"producer": "v2"},
        {"dimension": 3},
    ],
)
def test_the_fingerprint_changes_with_what_a_model_reads(changes):
    assert declared(**changes).fingerprint != declared().fingerprint


@pytest.mark.parametrize(
    "state", [{"counts": ["click"]}, {"half_lives_h": [2.0]}, {"history": 6}, {"seen": 1}, {"tags_kept": 3}]
)
def test_the_fingerprint_changes_with_the_state(state):
    assert (
        FeatureSchema.from_mapping({**DECLARED, "state": {**DECLARED["state"], **state}}).fingerprint != declared().fingerprint
    )


def test_the_fingerprint_changes_with_a_feature_and_with_their_order():
    swapped = {**DECLARED, "features": dict(reversed(DECLARED["features"].items()))}  # columns of the model's inputs follow it
    fewer = {**DECLARED, "features": {"age": AGE}}
    assert len({FeatureSchema.from_mapping(each).fingerprint for each in (DECLARED, swapped, fewer)}) == 3


def test_the_drift_test_and_the_order_of_keys_leave_the_fingerprint():
    assert declared(drift="ks").fingerprint == declared().fingerprint
    turned = {**DECLARED, "features": {**DECLARED["features"], "age": dict(reversed(AGE.items()))}}
    assert FeatureSchema.from_mapping(turned).fingerprint == declared().fingerprint


@pytest.mark.parametrize("path", sorted(FEATURES.glob("*.yaml")), ids=lambda path: path.stem)
def test_declared_saved_and_read_again_is_the_same(path, tmp_path):
    schema = FeatureSchema.load(path)
    schema.save(tmp_path / "schema.json")
    again = FeatureSchema.load(tmp_path / "schema.json")
    assert again == schema
    assert again.fingerprint == schema.fingerprint
    assert list(again.to_mapping()["features"]) == list(yaml.safe_load(path.read_text())["features"])


def test_require_names_artefact_both_fingerprints_and_the_repair():
    schema = declared()
    schema.require(schema.fingerprint, artefact="outputs/ranker", repair="dvc repro ranker")
    with pytest.raises(
        SchemaError, match=f"outputs/ranker was built under .* abc, but .* {schema.fingerprint}; run `dvc repro ranker`"
    ):
        schema.require("abc", artefact="outputs/ranker", repair="dvc repro ranker")


def test_columns_are_neither_computed_nor_folded():
    history = Feature(name="history", kind="sequence", entity="user")
    counters = Feature(name="counters", kind="counter", entity="user")
    gap = Feature(name="gap_s", kind="numerical", entity="user", expression="gap_s")
    tags = Feature(name="tags", kind="sequence", entity="video")
    schema = replace(declared(), features=(*declared().features, history, counters, gap, tags))
    assert [f.name for f in schema.columns("user")] == ["age", "city"]
    assert [f.name for f in schema.columns("video")] == ["tags"]
    assert schema.of("user", "counter") == (counters,)


def test_nothing_declared_is_a_schema_of_the_default_state():
    assert FeatureSchema.from_mapping({}) == FeatureSchema((), StateSpec())
