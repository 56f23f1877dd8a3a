"""`python -m watchnext.features build`: canonical tables > model inputs."""

import json
from pathlib import Path

from omegaconf import DictConfig

from watchnext.data.tables import DataError, read_tables
from watchnext.dispatch import dispatch, instantiate
from watchnext.features.build import FeatureBuilder
from watchnext.schema import FeatureSchema, SchemaError


def build(config: DictConfig) -> None:
    """Fold the log, fit the pipeline on training days, encode every impression as of its time."""
    outputs = Path(config.data.outputs)
    tables = read_tables(outputs / "tables", repair="dvc repro tables")
    split = instantiate(config.data.split).assign(tables.impressions["day"])
    schema = FeatureSchema.load(f"conf/features/{config.data.features}.yaml")
    builder = FeatureBuilder(
        schema=schema,
        utc_offset_h=config.data.utc_offset_h,
        regime=config.regime,
        min_count=config.min_count,
        data_hash=json.loads((outputs / "tables" / "report.json").read_text())["hash"],
    )
    report = builder.build(tables, split, outputs / "features")
    print(
        f"{outputs / 'features'}: {report['impressions']}, regime {report['regime']}, "
        f"{report['viewer_state_bytes']} bytes a viewer"
    )


if __name__ == "__main__":
    dispatch("watchnext.features", {"build": build}, (DataError, SchemaError, ValueError, KeyError))
