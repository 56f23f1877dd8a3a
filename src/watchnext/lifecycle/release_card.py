"""The page of a release in the registry: what it is made of, how it was measured, its configuration, its signature."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl
import polars.selectors as cs
import yaml

from watchnext.evaluation.report.report_text import behind
from watchnext.metrics import shown

INTENDED = "A video recommender's release; intended use and limits are in docs/model_card.md."


def release_card(
    manifest: Mapping,
    *,
    data_hash: str,
    commit: str,
    lost_to: Mapping[str, str],
    metrics: Mapping[str, float | None],
    config: Mapping,
) -> str:
    """Return Markdown: facts of the `manifest`, baselines that the slate `lost_to`, `metrics` of held-out days, and the
    composed configuration."""
    evaluated = manifest.get("evaluated")
    facts = {
        "release": manifest["id"],
        "data": f"{manifest['data']}, hash {data_hash}",
        "commit": commit,
        "schema": manifest["schema"],
        "state as of": f"{manifest['as_of_ms']} ms, regime {manifest['regime']}",
        "measured": f"as {evaluated}, with the same settings on fewer days" if evaluated else "itself, on held-out days",
        "beside baselines, on validation days": f"the slate {loses_to(lost_to)}",
    }
    lines = [f"# {manifest['id']}", "", INTENDED, "", *_table("", facts), ""]
    lines += [*_table("metric", {name: shown(value, ".4f") for name, value in metrics.items()}), ""]
    return "\n".join([*lines, "```yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True).strip(), "```", ""])


def loses_to(lost_to: Mapping[str, str]) -> str:
    """Say which baselines (name > depths of recall) a slate loses to."""
    return f"loses to {behind(lost_to) or 'no baseline'}"


def signature_rows(release: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return features and scores of the impressions in a release's reference: what its ranker takes and what it returns."""
    rows = pl.read_parquet(release / "reference" / "reference.parquet")
    scores = cs.starts_with("score ")
    return rows.select(~scores & ~cs.starts_with("outcome ")), rows.select(scores)


def _table(head: str, rows: Mapping[str, str]) -> list[str]:
    return [f"| {head} | |", "| --- | --- |", *(f"| {name} | {value} |" for name, value in rows.items())]
