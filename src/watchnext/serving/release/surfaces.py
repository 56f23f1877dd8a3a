"""Settings of surfaces that differ from the release's own: surface > overrides of re-ranking and retrieval, by name."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from watchnext.reranking.rules.rule import HARD
from watchnext.reranking.slate import Reranker
from watchnext.reranking.value import RerankingError, Value, require_known, require_number

SHARED = (*HARD, "duplicate")  # rules that the search of vectors applies, for all surfaces alike


@dataclass(frozen=True)
class Surfaces:
    """Overrides by surface, like {home: {reranking: {value: {weights: {like: 1.0}}}, retrieval: {quotas: {fresh: 50}}}}.

    Each names only what differs from the release's own settings. A surface without overrides has the release's own.
    """

    overrides: Mapping[str, Mapping] = field(default_factory=dict)

    def require(self, reranker: Reranker, retrieval: Mapping) -> None:
        """Check all overrides against the release's own settings. Raises RerankingError naming the one that is wrong."""
        for surface, given in _mapping("surfaces", self.overrides).items():
            where = f"surfaces.{surface}"
            require_known(where, _mapping(where, given), ("reranking", "retrieval"))
            rules = _mapping(f"{where}.reranking", given.get("reranking", {})).get("rules", {})
            if shared := sorted({*_mapping(f"{where}.reranking.rules", rules)} & {*SHARED}):
                raise RerankingError(f"{where}.reranking.rules has {shared[0]!r}, expected none of {', '.join(SHARED)}: "
                                     "they hold on every surface; set them in reranking.rules")  # fmt: skip
            self.reranker(surface, reranker)
            sources = _mapping(f"{where}.retrieval", given.get("retrieval", {}))
            own = {name: retrieval[name] for name in ("quotas", "merge")}
            _require_numbers(f"{where}.retrieval", own, sources)

    def reranker(self, surface: str | None, own: Reranker) -> Reranker:
        """Return the re-ranker of a surface. Raises RerankingError."""
        changes = self._of(surface, "reranking")
        if not changes:
            return own
        where = f"surfaces.{surface}.reranking"
        try:
            return Reranker.from_config(overridden(where, own.to_config(), changes))
        except RerankingError as error:
            raise RerankingError(f"{where}: {error}") from error

    def value(self, surface: str | None, own: Value) -> Value:
        """Return the value by which a surface orders candidates."""
        changes = self._of(surface, "reranking").get("value", {})
        return Value(**overridden("value", asdict(own), changes)) if changes else own

    def retrieval(self, surface: str | None, own: Mapping) -> Mapping:
        """Return the settings of retrieval of a surface."""
        return overridden("retrieval", own, self._of(surface, "retrieval"))

    def merge(self, surface: str | None, own: Mapping) -> Mapping:
        """Return the settings of the merge of a surface."""
        return overridden("merge", own, self._of(surface, "retrieval").get("merge", {}))

    def _of(self, surface: str | None, part: str) -> Mapping:
        return self.overrides.get(surface, {}).get(part, {})


def overridden(where: str, own: Mapping, changes: Mapping) -> dict:
    """Return settings with changes, name by name at every level. Raises RerankingError where a mapping is replaced."""
    changed = dict(own)
    for name, change in changes.items():
        path, before = f"{where}.{name}", own.get(name)
        changed[name] = overridden(path, before, _mapping(path, change)) if isinstance(before, Mapping) else change
    return changed


def _mapping(where: str, given: object) -> Mapping:
    if not isinstance(given, Mapping):
        raise RerankingError(f"{where} is {given!r}, expected a mapping, as in conf/config.yaml")
    return given


def _require_numbers(where: str, own: Mapping, changes: Mapping) -> None:
    """Raise RerankingError for a name that `own` lacks, and for what is no number where it has one."""
    require_known(where, changes, own)
    for name, change in changes.items():
        path = f"{where}.{name}"
        if isinstance(own[name], Mapping):
            _require_numbers(path, own[name], _mapping(path, change))
            continue
        require_number(path, change, low=0)
        if isinstance(own[name], int) and not isinstance(change, int):
            raise RerankingError(f"{path} is {change!r}, expected a whole number")
