"""`python -m watchnext.monitoring drift | skew`: compare traffic with the release; exit 0 none, 2 drift or skew, 3 no data."""

from contextlib import closing
from pathlib import Path

import polars as pl
from omegaconf import DictConfig

from watchnext import tracking
from watchnext.cli import dispatch, instantiate, plain, write_report
from watchnext.features.dataset.batches import FeatureSet, data_hash_in
from watchnext.files import removed
from watchnext.monitoring.drift_check import DriftCheck
from watchnext.monitoring.report.drift_report import DriftReport
from watchnext.monitoring.verdict.verdict_history import read_history, write_history
from watchnext.monitoring.windows.reference import Reference, drift_tests, held_out, vectors_of
from watchnext.monitoring.windows.served_rows import ServedLogReader, outcomes_in
from watchnext.ranking.scoring import Ranker
from watchnext.schema import FeatureSchema, SchemaError
from watchnext.serving.funnel.served.served_log import answers_in
from watchnext.serving.release.manifest import ReleaseError, read_manifest
from watchnext.serving.release.release import Release, current, last_built, release_in
from watchnext.serving.store.engines.engine import StoreError


def _check(config: DictConfig, release: Path) -> DriftCheck:
    """Load the reference of a release, with the settings of the configuration."""
    reference = Reference.load(release / "reference")
    tests = drift_tests(FeatureSchema.load(release / "pipeline" / "schema.json"), reference.sample.columns)
    settings = {name: config.monitoring[name] for name in ("alpha", "hours", "settling", "in_a_row", "margin")}
    return DriftCheck(reference=reference, tests=tests, **settings)


def _held_out(config: DictConfig, release: Path) -> DriftReport:
    """Compare the test days of the feature stage, scored by the pipeline's ranker, with the reference of the release."""
    outputs = Path(config.data.outputs)
    features = FeatureSet.load(outputs / "features")
    schema, built = features.pipeline.schema, read_manifest(release)["schema"]
    if schema.fingerprint != built:
        raise SchemaError(
            f"{outputs / 'features'} has the schema {schema.fingerprint}, {release} has {built}; run `dvc repro release`"
        )
    ranker = Ranker.load(outputs / "ranker", schema=schema, repair="dvc repro ranker")
    return _check(config, release).held_out(held_out(features, ranker, "test"), vectors_of(features.videos))


def _served(config: DictConfig, release: Path, folder: Path) -> DriftReport:
    """Compare the served log with the reference of the release, window by window, and add the windows to the history."""
    past, check = read_history(folder), _check(config, release)
    log = ServedLogReader(
        Path(config.monitoring.served), release, outcomes_in(config.data.store, release), instantiate(config.labels)
    )
    references = folder / "references"  # of the first windows of each release
    report = check.served(log, past, references / release.name)
    history = [*(each for each in past if each.release != release.name), *report.history]
    write_history(folder, history)
    for old in {path.name for path in references.glob("*")} - {each.release for each in history} - {release.name}:
        removed(references / old)
    return report


def drift(config: DictConfig) -> int:
    """Compare served (or held-out) features, scores and outcomes with the release's reference; write HTML, JSON, MLflow."""
    outputs, releases = Path(config.data.outputs), Path(config.data.releases)
    as_stage = config.monitoring.window == "held_out"
    folder = outputs / "drift" / ("" if as_stage else "served")
    if as_stage:
        release = last_built(releases, outputs)
        report = _held_out(config, release)
    else:
        release = release_in(releases, config.release) if config.release else current(releases)
        report = _served(config, release, folder)
    report.write(folder)
    _track(config, release, report, folder)
    if as_stage:
        drifted, checks = len(report.window.drifted), len(report.window.columns)
        write_report(outputs / "metrics" / "drift.json", {"verdict": report.verdict, "columns": checks, "drifted": drifted})
    print(report)
    print(f"report: {folder / 'drift.html'}")
    return 0 if as_stage else report.exit_code  # a pipeline that stopped here would leave its later stages without figures


def _track(config: DictConfig, release: Path, report: DriftReport, folder: Path) -> None:
    manifest = read_manifest(release)
    tags = {
        "data_hash": data_hash_in(Path(config.data.outputs) / "features"),
        "schema_fingerprint": manifest["schema"],
        "release": release.name,
        "verdict": report.verdict,
    }
    with tracking.start_run("drift", config=plain(config), tags=tags, stage="monitoring") as run:
        run.log_metrics({"drift/drifted": float(len(report.window.drifted)), "drift/exit_code": float(report.exit_code)})
        for name in report.files:
            run.log_file(folder / name)


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
