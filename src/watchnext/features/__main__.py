"""`python -m watchnext.features build | tripwire | card`: build model inputs, check them for leaks, describe the data."""

import json
import sys
from pathlib import Path

import polars as pl
from omegaconf import DictConfig

from watchnext.cli import dispatch, instantiate, write_report
from watchnext.data.storage import StoredTables
from watchnext.data.tables import DataError
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.build import FeatureBuilder
from watchnext.features.dataset.labels import Labels
from watchnext.features.state.fold import Layout
from watchnext.features.state.fold_log import replay
from watchnext.features.state.spark_fold import SparkFold
from watchnext.schema import FeatureSchema, SchemaError
from watchnext.spark import SparkError, engine


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
    """Fold the log from the end of the last build, and fit the pipeline on training days."""
    outputs = Path(config.data.outputs)
    stored = StoredTables.open(outputs / "tables")
    schema = FeatureSchema.load(f"conf/features/{config.data.features}.yaml")
    _require_long_views(outputs / "tables" / "report.json", instantiate(config.labels))
    split, days = instantiate(config.data.split), pl.Series([day.day for day in stored.days], dtype=pl.String).str.to_date()
    builder = builder_of(config, schema, config.regime)
    with engine(config.engine, config.master) as spark:
        fold = SparkFold(spark, outputs / "features" / "state" / "spark").replay if spark else replay
        built = builder.build(stored, split, outputs / "features", fold)
    print(
        f"{outputs / 'features'}: {built.report['impressions']}, regime {built.report['regime']}, "
        f"{built.report['viewer_state_bytes']} bytes per viewer; {built.kept} days kept, {built.folded} folded"
    )
    if not len(days):
        print("no model can be trained: there are no impressions")
    elif split.is_too_long_for(days):
        print(f"no model can be trained: {len(days)} days of log are fewer than {split} need; lower one of them (data.split.*)")
    elif moved_message := split.moved_message(days):
        print(moved_message)


def _require_long_views(path: Path, labels: Labels) -> None:
    """Raise DataError if long views come from the log's flag, but the log has no such column."""
    report = json.loads(path.read_text()) if path.exists() else {"impressions": 0}
    rows = report["impressions"]
    if (
        rows
        and labels.by_flag
        and not report["rates"]["long_view"]
        and report["filled"].get("impressions.long_view", 0) >= rows
    ):
        raise DataError(
            "the log has no long_view, so no model would learn long views; define one: "
            "labels.long_view_s=SECONDS or labels.long_view_ratio=PART (conf/config.yaml keeps it)"
        )


def tripwire(config: DictConfig) -> int:
    """Check features for leakage; exit 1 naming feature, figure, threshold and remedy of each leak."""
    # Imported here, as the stage that builds features does not depend on its checks.
    from watchnext.features.leakage.checks import LeakageChecks

    outputs = Path(config.data.outputs)
    stored = StoredTables.open(outputs / "tables")
    features = FeatureSet.load(outputs / "features")
    builder = builder_of(config, features.pipeline.schema, features.report["regime"])
    report, leaks = LeakageChecks(**config.tripwire).check(stored, features, builder)
    path = outputs / "metrics" / "tripwire.json"
    write_report(path, report)
    if not report["checks"]:
        print("there are no training rows: nothing to check")
    single = report["checks"].get("single_feature", {})
    for viewer, share in single.get("bots", {}).items():
        print(f"user_id {viewer} has {share:.1%} of the impressions: a bot, or a shared id? It is excluded from the check")
    for target, highest in single.get("highest", {}).items():
        print(
            f"{target}: best single feature is {highest['feature']}, AUC {highest['auc']} of at most {config.tripwire.ceiling}"
        )
    for leak in leaks:
        print(leak, file=sys.stderr)
    print(f"{path}: {len(leaks) or 'no'} leaks")
    return int(bool(leaks))


def card(config: DictConfig) -> None:
    """Write the data card OUT/data_card.md: tables, plots and state size (out=docs)."""
    # Imported here because matplotlib slows the start of the other commands.
    from watchnext.data.card.card import StateSize, write_card
    from watchnext.data.card.log_figures import DataSet
    from watchnext.features.state.size import used_bytes_of

    if not config.out:
        raise DataError(
            f"out is {config.out}, expected a folder; run `python -m watchnext.features card data={config.data.name} out=docs`"
        )
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
        state_size=StateSize(used=used, limit=8 * layout.viewer, when="at the start of the test days"),
        command=f"python -m watchnext.features card data={config.data.name} out={config.out}",
    )
    print(written)


if __name__ == "__main__":
    errors = (DataError, SchemaError, FileNotFoundError, ValueError, KeyError, SparkError)
    dispatch("watchnext.features", {"build": build, "tripwire": tripwire, "card": card}, errors)
