"""Group the inputs of a network by meaning, from the schema; a new feature is assigned automatically."""

from collections.abc import Iterable

from watchnext.features.encode.encodings import names_of
from watchnext.features.encode.pipeline import COUNTER_ENTITIES, FeaturePipeline
from watchnext.schema import Feature

GROUPS = {
    "user_id": "the viewer's id",
    "user_columns": "all other columns of the user",
    "context": "request context",
    "user_counters": "the viewer's recent activity",
    "gap": "the time since the viewer's last watch",
    "history": "the viewer's last watches",
    "video_id": "the video's id",
    "video_columns": "all other columns of the video, including creator and duration",
    "tags": "tags of the video",
    "content_vector": "content vector of the video",
    "age": "age of the video",
    "video_counters": "recent activity on the video",
    "creator_counters": "recent activity on its creator",
    "user_tag_counters": "the viewer's activity on its tags",
    "user_creator_counters": "the viewer's activity on its creator",
}
BlockColumns = dict[str, list[int]]  # input block > its columns


def input_groups(pipeline: FeaturePipeline) -> dict[str, BlockColumns]:
    """Return the columns of every block per group, in the order of GROUPS. Every column is in one group; empty groups are
    omitted."""
    groups: dict[str, BlockColumns] = {}
    for block, names in _columns(pipeline).items():
        for column, name in enumerate(names):
            groups.setdefault(name, {}).setdefault(block, []).append(column)
    return {name: groups[name] for name in GROUPS if name in groups}


def named_groups(pipeline: FeaturePipeline, names: Iterable[str] | None) -> dict[str, BlockColumns]:
    """Select input groups by name; None selects all. Raises ValueError for a group the data set does not have."""
    groups = input_groups(pipeline)
    for name in names or ():
        if name not in groups:
            raise ValueError(f"report.groups contains {name!r}, expected some of {', '.join(groups)}")
    return {name: groups[name] for name in names or groups}


def _columns(pipeline: FeaturePipeline) -> dict[str, list[str]]:
    """Return the group of each column of every input block."""
    schema, sizes = pipeline.schema, pipeline.sizes
    groups = {}
    for entity in ("user", "video"):
        columns, rest = schema.columns(entity), f"{entity}_columns"
        codes = [f.name for f in columns if f.kind == "categorical"]
        groups[f"{entity}_codes"] = [name if name == f"{entity}_id" else rest for name in codes]
        groups[f"{entity}_values"] = [rest] * len(names_of(_numerical(columns)))
    groups["context_codes"] = ["context"] * len(sizes.context_codes)
    groups["query_values"] = ["context"] * len(names_of(schema.of("context", "numerical")))
    groups["query_values"] += ["gap"] * len(names_of(_computed(schema.of("user", "numerical"))))
    groups["candidate_values"] = ["age"] * len(names_of(_computed(schema.of("video", "numerical"))))
    block = len(schema.state.counts) * len(schema.state.half_lives_h)
    for name, entities in (("query_values", ("user",)), ("candidate_values", COUNTER_ENTITIES)):
        for entity in entities:
            if schema.of(entity, "counter"):
                groups[name] += [f"{entity.replace(' x ', '_')}_counters"] * block
    of_video = {"codes": len(sizes.video_codes), "tags": schema.state.tags_per_video, "vector": sizes.vector}
    history = of_video | {"values": sizes.history, "mask": schema.state.history}
    groups |= {f"history_{part}": ["history"] * width for part, width in history.items()}
    groups["video_duration_s"] = ["video_columns"]
    for part, kind, group in (("tags", "sequence", "tags"), ("vector", "vector", "content_vector")):
        groups[f"video_{part}"] = [group] * of_video[part] if schema.of("video", kind) else []
    return groups


def _numerical(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    return tuple(f for f in features if f.kind == "numerical")


def _computed(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    return tuple(f for f in features if f.expression)
