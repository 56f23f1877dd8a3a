"""`python -m watchnext.features build | tripwire | card`: canonical tables > model inputs, and what there is to say of both."""

import json
import sys
from pathlib import Path

import polars as pl
from omegaconf import DictConfig

from watchnext.cli import dispatch, instantiate, write_report
from watchnext.data.storage import StoredTables
from watchnext.data.tables import DataError
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.dataset.labels import Labels
from watchnext.features.state.fold import Layout
from watchnext.schema import FeatureSchema, SchemaError


def builder_of(config: DictConfig, schema: FeatureSchema, regime: str) -> FeatureBuilder:
    return FeatureBuilder(
        schema=schema,
        labels=instantiate(config.labels),
        utc_offset_h=config.data.utc_offset_h,
        regime=regime,
        min_count=config.min_count,
        snapshots=config.snapshots,
    )


def build(config: DictConfig) -> None:
    """Fold the log from where the last build ended: every impression as of its time; fit the pipeline on training days."""
    outputs = Path(config.data.outputs)
    stored = StoredTables.open(outputs / "tables")
    schema = FeatureSchema.load(f"conf/features/{config.data.features}.yaml")
    _require_long_views(outputs / "tables" / "report.json", instantiate(config.labels))
    split, days = instantiate(config.data.split), pl.Series([day.day for day in stored.days], dtype=pl.String).str.to_date()
    built = builder_of(config, schema, config.regime).build(stored, split, outputs / "features")
    print(
        f"{outputs / 'features'}: {built.report['impressions']}, regime {built.report['regime']}, "
        f"{built.report['viewer_state_bytes']} bytes a viewer; {built.kept} days were there, {built.folded} folded"
    )
    if not len(days):
        print("nothing is learned: there are no impressions")
    elif split.is_too_long_for(days):
        print(f"nothing is learned: {len(days)} days of log are fewer than {split} take; lower one of them (data.split.*)")
    elif moved := split.moved(days):
        print(moved)


def _require_long_views(path: Path, labels: Labels) -> None:
    """Raise DataError where a long view is what the log flags, and it has no such column."""
    report = json.loads(path.read_text()) if path.exists() else {"impressions": 0}
    rows = report["impressions"]
    if (
        rows
        and labels.by_flag
        and not report["rates"]["long_view"]
        and report["filled"].get("impressions.long_view", 0) >= rows
    ):
        raise DataError(
            "the log has no long_view, so no model would learn what is watched for long; say when a view is long: "
            "labels.long_view_s=SECONDS or labels.long_view_ratio=PART (conf/labels/default.yaml keeps it)"
        )


def tripwire(config: DictConfig) -> int:
    """Fail where a feature knows what it cannot know: 1, naming feature, figure, threshold and what to do."""
    # They bring torch, without which `build` starts sooner.
    from watchnext.features.dataset.batches import FeatureSet
    from watchnext.features.leakage.checks import Tripwire

    outputs = Path(config.data.outputs)
    stored = StoredTables.open(outputs / "tables")
    features = FeatureSet.load(outputs / "features")
    builder = builder_of(config, features.pipeline.schema, features.report["regime"])
    report, leaks = Tripwire(**config.tripwire).check(stored, features, builder)
    path = outputs / "metrics" / "tripwire.json"
    write_report(path, report)
    if not report["checks"]:
        print("no impression is learned from: there is nothing to check")
    single = report["checks"].get("single_feature", {})
    for viewer, share in single.get("bots", {}).items():
        print(f"user_id {viewer} has {share:.1%} of the impressions: a bot, or an id that many share? Judged without it")
    for target, highest in single.get("highest", {}).items():
        print(f"{target}: best alone is {highest['feature']}, AUC {highest['auc']} of at most {config.tripwire.ceiling}")
    for leak in leaks:
        print(leak, file=sys.stderr)
    print(f"{path}: {len(leaks) or 'no'} leaks")
    return int(bool(leaks))


def card(config: DictConfig) -> None:
    """Describe the tables, and how full viewers' records are, in OUT/data_card.md with plots (out=docs)."""
    # They bring matplotlib, without which the other commands start sooner.
    from watchnext.data.card.card import Occupancy, write_card
    from watchnext.data.card.figures import DataSet
    from watchnext.features.state.size import used_bytes_of

    if not config.out:
        raise DataError(f"out is {config.out}; run `python -m watchnext.features card data={config.data.name} out=docs`")
    outputs = Path(config.data.outputs)
    schema = FeatureSchema.load(f"conf/features/{config.data.features}.yaml")
    layout = Layout.of(schema.state)
    used = used_bytes_of(outputs / "features", layout)
    written = write_card(
        Path(config.out),
        DataSet.read(outputs / "tables", name=config.data.name, repair="dvc repro tables"),
        schema=schema,
        split=instantiate(config.data.split),
        utc_offset_h=config.data.utc_offset_h,
        occupancy=Occupancy(used=used, limit=8 * layout.viewer, when="when the test days begin"),
        command=f"python -m watchnext.features card data={config.data.name} out={config.out}",
    )
    print(written)


if __name__ == "__main__":
    errors = (DataError, SchemaError, FileNotFoundError, ValueError, KeyError)
    dispatch("watchnext.features", {"build": build, "tripwire": tripwire, "card": card}, errors)
