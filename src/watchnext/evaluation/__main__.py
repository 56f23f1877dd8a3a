"""`python -m watchnext.evaluation replay | compare | off-policy | experiment`: measure a release on held-out days, beside
another recommender, by the propensities of the log, or on simulated viewers."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from omegaconf import DictConfig

from watchnext import tracking
from watchnext.cli import dispatch, plain, write_report
from watchnext.data.tables import DataError
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.evaluation.replay.replay import Replay
from watchnext.evaluation.report.evaluation_page import evaluation_page
from watchnext.evaluation.report.losses import loss_rows
from watchnext.evaluation.report.ranking_report import gauc_intervals, ranking_metrics, request_metrics, skew
from watchnext.evaluation.report.report_text import table
from watchnext.evaluation.report.retrieval_plot import retrieval_plot
from watchnext.evaluation.report.retrieval_report import popularity_before
from watchnext.evaluation.report.traced_report import traced_report
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.freshness import REGIMES
from watchnext.metrics import flat, rounded
from watchnext.ranking.scoring import Ranker
from watchnext.schema import SchemaError
from watchnext.serving.release.release import Release, ReleaseError, last_built
from watchnext.serving.store.engines.engine import StoreError


def replay_under(regime: str, config: DictConfig, release: Release) -> Replay:
    """Make the replay under a regime. Only the configured regime traces the funnel; the others score impressions."""
    requests = config.evaluation.requests if regime == config.regime else 0
    options = config.evaluation
    return Replay(release=release, regime=regime, slate=options.slate, requests=requests, depth=max(options.retrieval_k))


def replays(config: DictConfig, release: Release, log: HeldOutLog) -> dict:
    """Return regime > ReplayResult; the replays run side by side. Where every impression is scored with its own request,
    `request` and `streaming` are one replay."""
    kept = {regime: replay_under(regime, config, release) for regime in REGIMES}
    left_out, serves = ("streaming", "request") if config.regime == "request" else ("request", "streaming")
    tests = (part.impressions.filter(pl.Series(part.held_out)) for part in log.parts())
    if same := all(np.array_equal(kept[left_out].groups(test), kept[serves].groups(test)) for test in tests):
        del kept[left_out]
    with ThreadPoolExecutor() as pool:
        results = dict(zip(kept, pool.map(lambda each: each.run(log), kept.values()), strict=True))
    return results | {left_out: results[serves]} if same else results


def empty_report(release: str, regime: str) -> dict:
    """Make the report for a log without held-out days."""
    return {
        "release": release,
        "regime": regime,
        "requests": 0,
        "impressions": 0,
        "funnel": {},
        "lost": {},
        "losses": {},
        "slate": {},
        "retrieval": {},
        "ranking": {},
        "gauc": {},
        "skew": None,
        "skew_watch_s": None,
    }


def replay(config: DictConfig) -> None:
    """Replay the test days through the release that the pipeline built, and report metrics beside baselines."""
    if config.regime not in REGIMES:
        raise ValueError(f"regime is {config.regime!r}, expected one of {', '.join(REGIMES)}")
    outputs = Path(config.data.outputs)
    release, features = Release.load(last_built(config.data.releases, outputs)), FeatureSet.load(outputs / "features")
    name = release.id
    if not len(features.rows("test")):
        write_report(outputs / "metrics" / "evaluation.json", empty_report(name, config.regime))
        write_report(outputs / "evaluation" / "losses.json", [])
        print(f"{name}: no data, as there are no test days to replay")
        return
    rows = features.rows("test")
    targets, users = features.columns["targets"][rows], features.columns["user_rows"][rows]
    log = HeldOutLog.of_outputs(outputs, features)
    results = replays(config, release, log)
    traced = results[config.regime].traces
    ranker = Ranker.load(outputs / "ranker", schema=features.pipeline.schema, repair="dvc repro ranker")
    report = {
        "release": name,
        "regime": config.regime,
        "requests": len(traced),
        "impressions": len(rows),
        **traced_report(
            traced,
            release,
            popularity_before(log, release.video_ids),
            k=config.evaluation.k,
            retrieval_k=config.evaluation.retrieval_k,
            slate=config.evaluation.slate,
            seed=config.seed,
        ),
        "ranking": {regime: ranking_metrics(result.scores, targets, users) for regime, result in results.items()},
    }
    report["gauc"] = gauc_intervals(results[config.regime].scores, targets, users, config.seed)
    requested = request_metrics(results["request"].scores, targets, results["request"].groups)
    for name, figures in requested.items():
        report["ranking"]["request"][name] |= figures
    report |= skew(results[features.report["regime"]].scores, ranker.scored(features, rows))
    text, report = table(report), rounded(report, 6)
    files = write_pictures(report, outputs / "evaluation")
    tags = {
        "data_hash": features.report["data_hash"],
        "schema_fingerprint": features.report["schema"],
        "release": name,
        "regime": config.regime,
    }
    with tracking.start_run("evaluation", config=plain(config), tags=tags, stage="evaluation") as tracked:
        tracked.log_metrics(flat(report))
        for path in files:
            tracked.log_file(path)
    write_report(outputs / "metrics" / "evaluation.json", report)
    write_report(outputs / "evaluation" / "losses.json", loss_rows(report["losses"]))
    print(text)
    print(f"report: {files[0]}")


def write_pictures(report: Mapping, folder: Path) -> list[Path]:
    """Write the page of the evaluation, and the picture of retrieval if any request was traced; return their paths."""
    plot, page = folder / "retrieval.png", folder / "evaluation.html"
    if report["retrieval"]:
        retrieval_plot(report["retrieval"], plot)
    pictures = [plot] if report["retrieval"] else []
    folder.mkdir(parents=True, exist_ok=True)
    page.write_text(evaluation_page(report, plot=plot.read_bytes() if pictures else None), encoding="utf-8")
    return [page, *pictures]


def compare(config: DictConfig) -> None:
    """Compare releases: ONE OTHER [TWIN], by default the last built and the serving one; or ONE with incumbent=LOG."""
    # Imported here, as this and what follows need nothing of the replay's reports.
    from watchnext.evaluation.comparison.comparison_command import run_comparison

    run_comparison(config)


def experiment(config: DictConfig) -> None:
    """Let simulated viewers live with several policies, and compare these (policies= days= viewers= design= shares=)."""
    from watchnext.evaluation.experiment.command import run_experiment  # the stage `evaluation` does without the simulator

    run_experiment(config)


def off_policy(config: DictConfig) -> None:
    """Value the release's slates on the logged slates of the test days, or of a served log (served=FOLDER)."""
    from watchnext.evaluation.off_policy.off_policy_command import run_off_policy

    run_off_policy(config)


EXPERIMENT = {key: f"experiment.{key}" for key in ("policies", "days", "viewers", "design", "shares")}
SHORT = {"experiment": EXPERIMENT, "off-policy": {"served": "off_policy.served"}}

if __name__ == "__main__":
    errors = (DataError, SchemaError, ReleaseError, StoreError, FileNotFoundError, ValueError)
    commands = {"replay": replay, "compare": compare, "experiment": experiment, "off-policy": off_policy}
    dispatch("watchnext.evaluation", commands, errors, leading={"compare": "releases..."}, short=SHORT)
