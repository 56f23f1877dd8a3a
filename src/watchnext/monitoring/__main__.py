"""`python -m watchnext.monitoring drift | skew`: compare traffic with the release; exit 0 none, 2 drift or skew, 3 no data."""

import json
from contextlib import closing
from pathlib import Path

import polars as pl
from omegaconf import DictConfig

from watchnext import tracking
from watchnext.cli import dispatch, plain, write_report
from watchnext.features.dataset.batches import FeatureSet
from watchnext.metrics import rounded
from watchnext.monitoring.drift import Drift, drift_report
from watchnext.monitoring.reference import reference
from watchnext.ranking.scoring import Ranker
from watchnext.schema import FeatureSchema, SchemaError
from watchnext.serving.funnel.served.served_log import answers_in, shown_videos
from watchnext.serving.release.manifest import ReleaseError
from watchnext.serving.release.release import Release, current, last_built
from watchnext.serving.store.engines.engine import StoreError


def tests_of(columns: list[str], schema: FeatureSchema) -> dict[str, str]:
    """Return column > drift test, which the feature may declare. Ids are left out, as new ids are not drift."""
    declared = {f.name: f.drift for f in schema.features}
    ids = {"user_id", "video_id", "creator_id"}
    return {name: declared.get(name, "auto") for name in columns if name not in ids}


def served(folder: Path) -> pl.DataFrame:
    """Read features and scores of the served slates, one row a video; empty where nothing was served."""
    answers = answers_in(folder)
    return shown_videos(answers) if len(answers) else pl.DataFrame()


def held_out(config: DictConfig) -> pl.DataFrame:
    """Read the test days of the feature stage, scored by the pipeline's ranker."""
    outputs = Path(config.data.outputs)
    features = FeatureSet.load(outputs / "features")
    ranker = Ranker.load(outputs / "ranker", schema=features.pipeline.schema, repair="dvc repro ranker")
    return reference(features, ranker, "test")


def compared(config: DictConfig, release: Path) -> Drift:
    """Compare the configured window with the reference sample of the release."""
    schema = FeatureSchema.load(release / "pipeline" / "schema.json")
    before = pl.read_parquet(release / "reference" / "reference.parquet")
    now = held_out(config) if config.monitoring.window == "held_out" else served(Path(config.monitoring.served))
    options = {"threshold": config.monitoring.threshold, "score_column": config.monitoring.score_column, "seed": config.seed}
    return drift_report(before, now, tests=tests_of(before.columns, schema), **options)


def drift(config: DictConfig) -> int:
    """Compare served (or held-out) features and scores with the release's reference; write HTML, JSON, MLflow."""
    outputs = Path(config.data.outputs)
    as_stage = config.monitoring.window == "held_out"
    releases = Path(config.data.releases)
    release = last_built(releases, outputs) if as_stage else current(releases)
    result = compared(config, release)
    folder = outputs / "drift" / ("" if as_stage else "served")
    result.write(folder)
    drifted = sorted(name for name, column in result.columns.items() if column["drifted"])
    summary = {
        "verdict": result.verdict,
        "columns": len(result.columns),
        "drifted": len(drifted),
        "share": rounded(result.share, 6),
    }
    manifest = json.loads((release / "manifest.json").read_text())
    tags = {
        "data_hash": manifest["id"],
        "schema_fingerprint": manifest["schema"],
        "release": release.name,
        "verdict": result.verdict,
    }
    with tracking.start_run("drift", config=plain(config), tags=tags) as run:
        run.log_metrics({"drift/share": result.share, "drift/exit_code": float(result.exit_code)})
        run.log_file(folder / "drift.html")
        run.log_file(folder / "drift.json")
    if as_stage:
        write_report(outputs / "metrics" / "drift.json", summary)
    print(
        f"drift: {result.verdict}; {len(drifted)} of {len(result.columns)} columns drifted"
        + "".join(f"\n  {name}" for name in drifted)
    )
    print(f"report: {folder / 'drift.html'}")
    return 0 if as_stage else result.exit_code  # a pipeline that stopped here would leave its later stages without figures


def skew(config: DictConfig) -> int:
    """Recompute features and scores of the last served requests from release and journal; print and write what differs."""
    from watchnext.monitoring.skew import skew_of  # the other command needs no store
    from watchnext.serving.store.store import Store

    release = Release.load(current(Path(config.data.releases)))
    answers = answers_in(Path(config.monitoring.served)).filter(pl.col("release") == release.id)
    with closing(Store.reader(Path(config.data.store), release)) as store:
        found = skew_of(answers, release, store)
    path = Path(config.data.outputs) / "skew.json"
    write_report(path, found.report)
    print(found)
    print(f"report: {path}")
    return found.exit_code


if __name__ == "__main__":
    commands = {"drift": drift, "skew": skew}
    dispatch("watchnext.monitoring", commands, (SchemaError, ReleaseError, StoreError, FileNotFoundError, ValueError))
