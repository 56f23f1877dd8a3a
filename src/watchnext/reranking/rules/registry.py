"""The rules of re-ranking by name: name and options > a rule.

A filter removes candidates for good. The other rules are soft, but for the limit of `safety`: where no candidate satisfies them
all, the last one in the config bends first, for that slot, and the slate names it.
"""

from collections.abc import Mapping

from watchnext.reranking.rules.caps import CreatorCap, CreatorWindow, LanguageCap, TagCap, TagWindow
from watchnext.reranking.rules.copies import DuplicateFilter, NearDuplicateRule
from watchnext.reranking.rules.filters import RegionFilter, SeenFilter, UnavailableFilter
from watchnext.reranking.rules.floors import FreshnessFloor, NewCreatorFloor
from watchnext.reranking.rules.hidden import HiddenDemotion
from watchnext.reranking.rules.rule import Cap, Demotion, Filter, Floor
from watchnext.reranking.rules.safety import SafetyFilter
from watchnext.reranking.value import require_known

Rule = Filter | Cap | Floor | Demotion | NearDuplicateRule
RULES: Mapping[str, type[Rule]] = {
    rule.name: rule
    for rule in (
        UnavailableFilter,
        SafetyFilter,
        RegionFilter,
        SeenFilter,
        DuplicateFilter,
        HiddenDemotion,
        NearDuplicateRule,
        CreatorCap,
        TagCap,
        CreatorWindow,
        TagWindow,
        LanguageCap,
        FreshnessFloor,
        NewCreatorFloor,
    )
}


def rule(name: str, options: Mapping) -> Rule:
    """Build a rule by name. Raises RerankingError for a misspelt rule or option."""
    require_known("rules", [name], RULES)
    require_known(f"rules.{name}", options, RULES[name].__dataclass_fields__)
    return RULES[name](**options)
