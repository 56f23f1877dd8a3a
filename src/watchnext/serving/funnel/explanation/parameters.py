"""State the main parameters of a release in plain words: a release and its sources > what weighs how much, and why."""

import inspect
from collections.abc import Mapping
from dataclasses import asdict

from watchnext.reranking.value import Value
from watchnext.retrieval.sources.source import CandidateSource
from watchnext.serving.release.release import Release


def parameters(release: Release, sources: Mapping[str, CandidateSource], surface: str | None) -> dict:
    """Return what decides a slate on a surface: value, diversity, exploration, sources, rules. Sentences are those of the code
    itself."""
    reranker, settings, own = release.reranker_of(surface), release.retrieval_of(surface), release.surfaces.overrides
    ranked = release.ranker is not None
    return {
        "release": release.id,
        "surface": surface if surface in own else None,
        "surfaces": sorted(own),
        "ranked_by": (reranker.value.source or "value") if ranked else "merge",
        "value": {**_value(reranker.value, has_engage=release.engage is not None), "about": about(reranker.value)},
        "diversity": {"dial": 1.0 - reranker.diversity.trade_off, "about": about(reranker.diversity)},
        "exploration": {"share": reranker.exploration.epsilon, "about": about(reranker.exploration)},
        "sources": [
            {
                "name": name,
                "weight": settings["merge"]["weights"][name],
                "quota": quota,
                "settings": settings.get(name, {}),
                "about": about(sources[name]),
            }
            for name, quota in settings["quotas"].items()
        ],
        "candidates": settings["merge"]["most"],
        "rules": [{"name": each.name, "settings": asdict(each), "about": about(each)} for each in reranker.rules],
    }


def _value(value: Value, *, has_engage: bool) -> dict:
    weights = {target: weight for target, weight in value.weights.items() if weight}
    terms = {target: f"{weight:g} × {target}" for target, weight in weights.items()}
    if "watch_s" in terms:
        terms["watch_s"] = f"{weights['watch_s']:g} × watch_s / (watch_s + {value.watch_half_s:g})"
    engage = value.engage if has_engage else None
    total = " + ".join(terms.values())
    formula = f"({total}) × engage^{engage:g}" if engage else total
    return {"weights": dict(value.weights), "watch_half_s": value.watch_half_s, "engage": engage, "formula": formula}


def about(part: object) -> str:
    """Return the first sentence of the documentation of a part's class."""
    paragraph = " ".join((inspect.getdoc(type(part)) or "").partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + stop.strip()
