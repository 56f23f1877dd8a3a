"""Every input column is in one group, named by the schema."""

from dataclasses import replace

import numpy as np

from watchnext.features.dataset.batches import NO_INPUTS
from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.ranking.feature_mask import masked_columns
from watchnext.ranking.input_groups import GROUPS, input_groups
from watchnext.schema import Feature

PREFIXES = {
    "user_counters": "user ",
    "gap": "gap_s",
    "age": "age_h",
    "video_counters": "video ",
    "creator_counters": "creator ",
    "user_tag_counters": "user x tag ",
    "user_creator_counters": "user x creator ",
}


def test_every_column_of_a_batch_is_in_one_group(world_features):
    groups = input_groups(world_features.pipeline)
    assert list(groups) == list(GROUPS)
    batch = world_features.batch(world_features.rows("valid")[:5])
    for block in batch.keys() - set(NO_INPUTS):
        places = sorted(place for blocks in groups.values() for place in blocks.get(block, []))
        assert places == list(range(batch[block].shape[-1])), block
    assert {block for blocks in groups.values() for block in blocks} <= batch.keys()


def test_computed_columns_are_where_their_names_say(world_features):
    groups = input_groups(world_features.pipeline)
    for block in ("query_values", "candidate_values"):
        for place, name in enumerate(world_features.pipeline.value_names(block)):
            (group,) = [group for group, blocks in groups.items() if place in blocks.get(block, [])]
            assert name.startswith(PREFIXES[group])


def test_a_new_feature_falls_into_a_group_by_itself(world_features):
    pipeline, schema = world_features.pipeline, world_features.pipeline.schema
    new = (
        Feature(name="mood", kind="categorical", entity="user"),
        Feature(name="loudness", kind="numerical", entity="video", nullable=True),
    )
    more = replace(schema, features=(*schema.features, *new))
    fitted = {**pipeline.fitted, "vocabulary.mood": np.array(["fine"])}
    before, after = (input_groups(each) for each in (pipeline, FeaturePipeline(schema=more, utc_offset_h=0.0, fitted=fitted)))
    codes = before["user_columns"]["user_codes"]
    assert after["user_columns"]["user_codes"] == [*codes, max(codes) + 1]
    assert len(after["video_columns"]["video_values"]) == len(before["video_columns"]["video_values"]) + 2  # and its flag


def test_a_group_that_a_schema_lacks_is_none_and_can_be_excluded_all_the_same(world_features):
    pipeline, schema = world_features.pipeline, world_features.pipeline.schema
    gone = ("user_id", "vector", "tags", "user_tag_counters", "gap_s")
    less = replace(schema, features=tuple(f for f in schema.features if f.name not in gone))
    fewer = FeaturePipeline(schema=less, utc_offset_h=0.0, fitted=pipeline.fitted)
    missing = {"user_id", "content_vector", "tags", "user_tag_counters", "gap"}
    assert set(input_groups(fewer)) == set(GROUPS) - missing
    assert masked_columns(fewer, tuple(missing)) == {}


def test_own_state_is_what_the_viewers_own_outcomes_change(world_features):
    pipeline = world_features.pipeline
    found = masked_columns(pipeline, ("own_state",))
    assert set(found) == {"query_values", "candidate_values", "history_values", "history_mask"}
    assert found["query_values"] == list(range(len(pipeline.value_names("query_values"))))
    names = pipeline.value_names("candidate_values")
    assert found["candidate_values"] == [place for place, name in enumerate(names) if name.startswith("user x")]
