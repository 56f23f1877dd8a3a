"""The inputs of a network in groups that people speak of, named from the schema: a new feature falls into one by itself."""

from collections.abc import Iterable

from watchnext.features.encode.encodings import names_of
from watchnext.features.encode.pipeline import COUNTER_ENTITIES, FeaturePipeline
from watchnext.schema import Feature

GROUPS = {
    "user_id": "who it is",
    "user_columns": "all other columns of the user",
    "context": "what is known of the request",
    "user_counters": "what the viewer did lately",
    "gap": "the time since the viewer's last watch",
    "history": "the viewer's last watches",
    "video_id": "which video it is",
    "video_columns": "all other columns of the video, creator and duration among them",
    "tags": "the video's",
    "content_vector": "the video's",
    "age": "of the video",
    "video_counters": "what everybody did with the video",
    "creator_counters": "what everybody did with its creator",
    "user_tag_counters": "what the viewer did with its tags",
    "user_creator_counters": "what the viewer did with its creator",
}
BlockColumns = dict[str, list[int]]  # input block > its columns


def input_groups(pipeline: FeaturePipeline) -> dict[str, BlockColumns]:
    """Group > its columns of every block, in the order of GROUPS; each column is in one, and a group that the schema gives no
    column is left out."""
    found: dict[str, BlockColumns] = {}
    for block, names in _columns(pipeline).items():
        for place, name in enumerate(names):
            found.setdefault(name, {}).setdefault(block, []).append(place)
    return {name: found[name] for name in GROUPS if name in found}


def named_groups(pipeline: FeaturePipeline, names: Iterable[str] | None) -> dict[str, BlockColumns]:
    """Those of `input_groups` that are named, None is all. Raises ValueError for one that the data set does not have."""
    found = input_groups(pipeline)
    for name in names or ():
        if name not in found:
            raise ValueError(f"report.groups names {name!r}, expected some of {', '.join(found)}")
    return {name: found[name] for name in names or found}


def _columns(pipeline: FeaturePipeline) -> dict[str, list[str]]:
    """Input block > the group of each of its columns."""
    schema, sizes = pipeline.schema, pipeline.sizes
    found = {}
    for entity in ("user", "video"):
        columns, rest = schema.columns(entity), f"{entity}_columns"
        codes = [f.name for f in columns if f.kind == "categorical"]
        found[f"{entity}_codes"] = [name if name == f"{entity}_id" else rest for name in codes]
        found[f"{entity}_values"] = [rest] * len(names_of(_numerical(columns)))
    found["context_codes"] = ["context"] * len(sizes.context_codes)
    found["query_values"] = ["context"] * len(names_of(schema.of("context", "numerical")))
    found["query_values"] += ["gap"] * len(names_of(_computed(schema.of("user", "numerical"))))
    found["candidate_values"] = ["age"] * len(names_of(_computed(schema.of("video", "numerical"))))
    block = len(schema.state.counts) * len(schema.state.half_lives_h)
    for name, entities in (("query_values", ("user",)), ("candidate_values", COUNTER_ENTITIES)):
        for entity in entities:
            if schema.of(entity, "counter"):
                found[name] += [f"{entity.replace(' x ', '_')}_counters"] * block
    of_video = {"codes": len(sizes.video_codes), "tags": schema.state.tags_per_video, "vector": sizes.vector}
    history = of_video | {"values": sizes.history, "mask": schema.state.history}
    found |= {f"history_{what}": ["history"] * width for what, width in history.items()}
    found["video_duration_s"] = ["video_columns"]
    for what, kind, group in (("tags", "sequence", "tags"), ("vector", "vector", "content_vector")):
        found[f"video_{what}"] = [group] * of_video[what] if schema.of("video", kind) else []
    return found


def _numerical(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    return tuple(f for f in features if f.kind == "numerical")


def _computed(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    return tuple(f for f in features if f.expression)
