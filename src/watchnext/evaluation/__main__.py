"""`python -m watchnext.evaluation replay | experiment`: measure the release on held-out days, or on simulated viewers."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
from omegaconf import DictConfig

from watchnext import tracking
from watchnext.cli import dispatch, plain, write_report
from watchnext.data.storage import StoredTables
from watchnext.data.tables import DataError
from watchnext.evaluation.replay.funnel_trace import funnel_metrics, loss_shares
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.evaluation.replay.replay import Replay
from watchnext.evaluation.report.losses import loss_report
from watchnext.evaluation.report.ranking_report import ranking_metrics, request_metrics, skew
from watchnext.evaluation.report.report_text import table
from watchnext.evaluation.report.retrieval_plot import retrieval_plot
from watchnext.evaluation.report.retrieval_report import popularity_before, retrieval_metrics
from watchnext.evaluation.report.slate_report import slate_report
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.dataset.freshness import REGIMES
from watchnext.metrics import flat, rounded
from watchnext.ranking.scoring import Ranker
from watchnext.schema import SchemaError
from watchnext.serving.release.release import Release, ReleaseError, last_built
from watchnext.types import TARGETS


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
        print(f"{name}: no data, as there are no test days to replay")
        return
    split, rows = np.asarray(features.columns["split"]), features.rows("test")
    targets, users = features.columns["targets"][rows], features.columns["user_rows"][rows]
    stored = StoredTables.open(outputs / "tables")
    log = HeldOutLog(stored, split, features.columns["targets"][:, TARGETS.index("long_view")])
    results = replays(config, release, log)
    traced, popularity = results[config.regime].traces, popularity_before(log, release.video_ids)
    ranker = Ranker.load(outputs / "ranker", schema=features.pipeline.schema, repair="dvc repro ranker")
    report = {
        "release": name,
        "regime": config.regime,
        "requests": len(traced),
        "impressions": len(rows),
        "funnel": funnel_metrics(traced, config.evaluation.k, len(release.catalogue)),
        "lost": loss_shares(traced),
        "losses": loss_report(traced),
        "slate": slate_report(
            traced, facts=release.catalogue, popularity=popularity, k=config.evaluation.slate, seed=config.seed
        ),
        "retrieval": retrieval_metrics(traced, k=config.evaluation.retrieval_k, popularity=popularity, seed=config.seed),
        "ranking": {regime: ranking_metrics(result.scores, targets, users) for regime, result in results.items()},
    }
    requested = request_metrics(results["request"].scores, targets, results["request"].groups)
    for name, figures in requested.items():
        report["ranking"]["request"][name] |= figures
    report |= skew(results[features.report["regime"]].scores, ranker.scored(features, rows))
    text, report = table(report), rounded(report, 6)
    plot = outputs / "evaluation" / "retrieval.png"
    if report["retrieval"]:
        retrieval_plot(report["retrieval"], plot)
    tags = {
        "data_hash": features.report["data_hash"],
        "schema_fingerprint": features.report["schema"],
        "release": name,
        "regime": config.regime,
    }
    with tracking.start_run("evaluation", config=plain(config), tags=tags) as tracked:
        tracked.log_metrics(flat(report))
        if report["retrieval"]:
            tracked.log_file(plot)
    write_report(outputs / "metrics" / "evaluation.json", report)
    print(text)


def experiment(config: DictConfig) -> None:
    """Let simulated viewers live with several policies, and compare these (policies= days= viewers= design= shares=)."""
    from watchnext.evaluation.experiment.command import run_experiment  # the stage `evaluation` does without the simulator

    run_experiment(config)


SHORT = {key: f"experiment.{key}" for key in ("policies", "days", "viewers", "design", "shares")}

if __name__ == "__main__":
    errors = (DataError, SchemaError, ReleaseError, FileNotFoundError, ValueError)
    commands = {"replay": replay, "experiment": experiment}
    dispatch("watchnext.evaluation", commands, errors, short={"experiment": SHORT})
