"""`python -m watchnext.features build | tripwire`: canonical tables > model inputs, and the proof that they know no future."""

import json
import sys
from pathlib import Path

from omegaconf import DictConfig

from watchnext.data.tables import DataError, read_tables
from watchnext.dispatch import dispatch, instantiate, write_report
from watchnext.features.build import FeatureBuilder
from watchnext.schema import FeatureSchema, SchemaError


def builder_of(config: DictConfig, schema: FeatureSchema, regime: str) -> FeatureBuilder:
    return FeatureBuilder(
        schema=schema,
        labels=instantiate(config.labels),
        utc_offset_h=config.data.utc_offset_h,
        regime=regime,
        min_count=config.min_count,
        data_hash=json.loads((Path(config.data.outputs) / "tables" / "report.json").read_text())["hash"],
    )


def build(config: DictConfig) -> None:
    """Fold the log, fit the pipeline on training days, encode every impression as of its time."""
    outputs = Path(config.data.outputs)
    tables = read_tables(outputs / "tables", repair="dvc repro tables")
    split = instantiate(config.data.split).assign(tables.impressions["day"])
    schema = FeatureSchema.load(f"conf/features/{config.data.features}.yaml")
    builder = builder_of(config, schema, config.regime)
    report = builder.build(tables, split, outputs / "features")
    print(
        f"{outputs / 'features'}: {report['impressions']}, regime {report['regime']}, "
        f"{report['viewer_state_bytes']} bytes a viewer"
    )


def tripwire(config: DictConfig) -> int:
    """Fail where a feature knows what it cannot know: 1, naming feature, figure, threshold and what to do."""
    # They bring torch, without which `build` starts sooner.
    from watchnext.features.batches import FeatureSet
    from watchnext.features.tripwire import Tripwire

    outputs = Path(config.data.outputs)
    tables = read_tables(outputs / "tables", repair="dvc repro tables")
    features = FeatureSet.load(outputs / "features")
    builder = builder_of(config, features.pipeline.schema, features.report["regime"])
    report, leaks = Tripwire(**config.tripwire).check(tables, features, builder)
    path = outputs / "metrics" / "tripwire.json"
    write_report(path, report)
    for target, highest in report["checks"]["single_feature"]["highest"].items():
        print(f"{target}: best alone is {highest['feature']}, AUC {highest['auc']} of at most {config.tripwire.ceiling}")
    for leak in leaks:
        print(leak, file=sys.stderr)
    print(f"{path}: {len(leaks) or 'no'} leaks")
    return int(bool(leaks))


if __name__ == "__main__":
    errors = (DataError, SchemaError, FileNotFoundError, ValueError, KeyError)
    dispatch("watchnext.features", {"build": build, "tripwire": tripwire}, errors)
