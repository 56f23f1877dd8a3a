"""The feature schema: declared once in YAML, frozen here, and stored as a fingerprint in every artefact.

`conf/features/<data>.yaml` > `FeatureSchema`. Declared (this file), fitted (`FeaturePipeline`) and learned (weights) are three
types. If two programs disagree about the declared part, they stop with the command that repairs it.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path

import yaml

KINDS = ("categorical", "numerical", "sequence", "counter", "vector")
ENTITIES = ("user", "video", "creator", "context", "user x tag", "user x creator")
TRANSFORMS = ("none", "log1p", "standard", "quantile")
# Kinds that are read per entity. Any other kind would be declared and checked in the log, but never reach a model.
READ_OF = {
    "user": ("categorical", "numerical", "sequence", "counter"),
    "video": KINDS,
    "creator": ("counter",),
    "context": ("categorical", "numerical"),
    "user x tag": ("counter",),
    "user x creator": ("counter",),
}
# These two kinds have one column each, the structural one of `data.tables`.
COLUMN_OF = {("video", "sequence"): "tags", ("video", "vector"): "vector"}
# Expressions on an entity's state or table belong to that entity; all others read only the request.
EXPRESSION_OF = {"user": "gap_s", "video": "age_h"}
DRIFT_TESTS = ("auto", "none", "ks", "psi", "wasserstein", "jensenshannon", "chisquare")


class SchemaError(ValueError):
    """An invalid declaration, or an artefact that was built under another one."""


def _checked(owner: str, given: Mapping, allowed: tuple[str, ...]) -> None:
    """Raise SchemaError for an unknown key, with the nearest known one."""
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, 1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise SchemaError(f"{owner} has the unknown key {key!r}{hint} Known keys: {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One declared feature.

    name         column of the entity's table, unless `expression` computes it
    kind         one of KINDS
    entity       owner of the property, one of ENTITIES
    unit         of the raw value, for readers and reports ("ms", "ratio", ...)
    bounds       inclusive (low, high) of the raw value; None is open
    nullable     true if values may be missing
    transform    of a numerical value, before standardising: one of TRANSFORMS
    drift        statistical test for the drift report, one of DRIFT_TESTS
    expression   name in `features/encode/expressions.py`, for a computed column
    dimension    length of a vector
    producer     version of the encoder of a vector; two producers never mix in one release
    """

    name: str
    kind: str
    entity: str
    unit: str = ""
    bounds: tuple[float | None, float | None] = (None, None)
    nullable: bool = False
    transform: str = "none"
    drift: str = "auto"
    expression: str | None = None
    dimension: int = 0
    producer: str = ""

    def __post_init__(self) -> None:
        for value, choices, field in (
            (self.kind, KINDS, "kind"),
            (self.entity, ENTITIES, "entity"),
            (self.transform, TRANSFORMS, "transform"),
            (self.drift, DRIFT_TESTS, "drift"),
        ):
            if value not in choices:
                raise SchemaError(f"feature {self.name!r}: {field} is {value!r}, expected one of {', '.join(choices)}")
        if len(self.bounds) != 2:
            raise SchemaError(f"feature {self.name!r}: bounds are {list(self.bounds)}, expected [low, high], null where open")
        low, high = self.bounds
        if low is not None and high is not None and low > high:
            raise SchemaError(f"feature {self.name!r}: lower bound {low:g} exceeds upper bound {high:g}; swap them")
        if self.kind == "vector" and (self.dimension < 1 or not self.producer):
            raise SchemaError(f"feature {self.name!r}: a vector needs a dimension of at least 1 and a producer")
        if unread := self._unread():
            raise SchemaError(f"feature {self.name!r} would never be read: {unread}")

    def _unread(self) -> str | None:
        """Return the reason why no model would read this feature, or None."""
        if self.kind not in READ_OF[self.entity]:
            return f"it is a {self.kind} of entity {self.entity!r}, expected one of {', '.join(READ_OF[self.entity])}"
        if (column := COLUMN_OF.get((self.entity, self.kind), self.name)) != self.name:
            return f"the only {self.kind} of a video is {column!r}; name it so"
        return self._unread_expression() if self.expression is not None else None

    def _unread_expression(self) -> str | None:
        computed = ("categorical", "numerical") if self.entity == "context" else ("numerical",)
        if self.kind not in computed:
            return f"it is a {self.kind} of entity {self.entity!r} with an expression, which only a {' or '.join(computed)} has"
        expected = EXPRESSION_OF.get(self.entity)
        if expected is not None and self.expression != expected:
            return f"its expression is {self.expression!r}, expected {expected!r}, the only one of a {self.entity}"
        if expected is None and self.expression in EXPRESSION_OF.values():
            return f"the expression {self.expression!r} reads no request; its entity is {self.entity!r}, expected user or video"
        return None  # `features/encode/expressions.py` checks expressions of the request


@dataclass(frozen=True, kw_only=True)
class StateSpec:
    """The shape of the online state of viewers, videos and creators.

    counts           names of the decayed counters, in this order (`features/state/counters.py` lists them)
    half_lives_h     hours after which a count weighs half; every counter is kept at each of them
    tags_kept        tags in a viewer's record; the least recently updated is evicted first
    creators_kept    the same for creators
    history          watches with outcomes in a viewer's record
    seen             video rows in a viewer's record, for the seen filter
    tags_per_video   first tags of a video that are read
    """

    counts: tuple[str, ...] = ("impression", "click", "long_view", "watch_s")
    half_lives_h: tuple[float, ...] = (1.0, 24.0, 168.0)
    tags_kept: int = 10
    creators_kept: int = 8
    history: int = 30
    seen: int = 120
    tags_per_video: int = 4

    def __post_init__(self) -> None:
        if not self.half_lives_h or min(self.half_lives_h) <= 0:
            raise SchemaError(f"state: half_lives_h is {list(self.half_lives_h)}, expected positive hours")
        for name in ("tags_kept", "creators_kept", "history", "seen", "tags_per_video"):
            if not 1 <= getattr(self, name) <= 4096:
                raise SchemaError(f"state: {name} is {getattr(self, name)}, expected 1 to 4096")


@dataclass(frozen=True)
class FeatureSchema:
    """All features of a data set, and the shape of the state."""

    features: tuple[Feature, ...]
    state: StateSpec

    @classmethod
    def from_mapping(cls, declared: Mapping) -> "FeatureSchema":
        """Build from parsed YAML: `{"features": {name: {...}}, "state": {...}}`. Raises SchemaError naming the error."""
        _checked("the feature schema", declared, ("features", "state"))
        known = tuple(field.name for field in fields(Feature) if field.name != "name")
        features = []
        for name, entry in declared.get("features", {}).items():
            _checked(f"feature {name!r}", entry, known)
            if missing := [key for key in ("kind", "entity") if key not in entry]:
                raise SchemaError(f"feature {name!r} lacks {' and '.join(missing)}")
            features.append(Feature(name=name, **{**entry, "bounds": tuple(entry.get("bounds", (None, None)))}))
        state = declared.get("state", {})
        _checked("state", state, tuple(field.name for field in fields(StateSpec)))
        state = {key: tuple(value) if isinstance(value, list | tuple) else value for key, value in state.items()}
        return cls(tuple(features), StateSpec(**state))

    @classmethod
    def load(cls, path: Path) -> "FeatureSchema":
        """Read a declaration: YAML, or the JSON of an artefact."""
        return cls.from_mapping(yaml.safe_load(Path(path).read_text()))

    def to_mapping(self) -> dict:
        """Convert to the input of `from_mapping`, JSON-ready."""
        features = {feature.name: {k: v for k, v in asdict(feature).items() if k != "name"} for feature in self.features}
        return json.loads(json.dumps({"features": features, "state": asdict(self.state)}))

    def save(self, path: Path) -> None:
        Path(path).write_text(json.dumps(self.to_mapping(), indent=1))

    def of(self, entity: str, kind: str | None = None) -> tuple[Feature, ...]:
        """Return the features of one entity, in declared order, optionally of one kind."""
        if (entity, kind) not in self._chosen:  # a request asks fifty times
            self._chosen[entity, kind] = tuple(f for f in self.features if f.entity == entity and kind in (None, f.kind))
        return self._chosen[entity, kind]

    @cached_property
    def _chosen(self) -> dict[tuple[str, str | None], tuple[Feature, ...]]:
        """Answers of `of`, kept."""
        return {}

    def columns(self, entity: str) -> tuple[Feature, ...]:
        """Return the features of an entity that are logged columns of its table, neither computed nor folded."""
        folded = [f for f in self.of(entity) if f.kind == "counter" or (f.entity, f.kind) == ("user", "sequence")]
        return tuple(f for f in self.of(entity) if f.expression is None and f not in folded)

    @property
    def fingerprint(self) -> str:
        """Digest of everything that changes a model input, including the order of features but not `drift`: 16 hex digits."""
        declared = self.to_mapping()
        for feature in declared["features"].values():
            del feature["drift"]
        return hashlib.sha256(json.dumps(declared).encode()).hexdigest()[:16]

    def require(self, fingerprint: str, *, artefact: str, repair: str) -> None:
        """Raise SchemaError unless `artefact` was built under this schema; `repair` is the command that rebuilds it."""
        if fingerprint != self.fingerprint:
            raise SchemaError(
                f"{artefact} was built under the feature schema {fingerprint}, "
                f"but this program expects {self.fingerprint}; run `{repair}`"
            )
