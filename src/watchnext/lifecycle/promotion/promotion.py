"""`python -m watchnext.lifecycle promote`: compare, decide, switch, and record last."""

import os
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from watchnext import tracking
from watchnext.cli import instantiate, plain, write_report
from watchnext.features.arrays import load_arrays
from watchnext.features.catalogue import Ids
from watchnext.features.dataset.batches import FeatureSet, data_hash_in
from watchnext.files import replaced
from watchnext.lifecycle import release_registry
from watchnext.lifecycle.promote import model_name, promotable, serving_id, switched, uploaded
from watchnext.lifecycle.promotion.live_result import LiveResult, live_result, simulated_result
from watchnext.lifecycle.promotion.promotion_decision import (
    FORCED,
    PROMOTED,
    WITHOUT_CHAMPION,
    PromotionDecision,
    decide,
    guards,
)
from watchnext.lifecycle.promotion.promotion_report import markdown, page
from watchnext.lifecycle.promotion.replay_comparison import ReplayComparison
from watchnext.metrics import flat, rounded
from watchnext.monitoring.windows.served_rows import outcomes_in
from watchnext.serving.release.canary_plan import read_plan
from watchnext.serving.release.manifest import read_manifest
from watchnext.serving.release.only_one import moving, only_one
from watchnext.serving.release.release import ReleaseError, current


def run_promotion(config: DictConfig, candidate: str) -> PromotionDecision:
    """Decide whether a candidate serves, write outputs/promotion/, switch if it does, and record the decision in MLflow.

    Without a champion, a candidate serves whose slate lost to no baseline. With `force`, it serves whatever is measured. Raises
    ReleaseError for a candidate that is damaged, missing, of another data set or schema, behind a baseline, or serves already,
    for a champion that is gone, and where the champion changed meanwhile; HeldError while another process compares, or moves
    what serves; LookupError if the candidate was never registered.
    """
    releases, folder = Path(config.data.releases), Path(config.data.outputs) / "promotion"
    with only_one(folder / "lock", f"compares releases in {folder}"):
        champion = current(releases).name if os.path.lexists(releases / "current") else None
        promotable(releases, candidate, data=config.data.name, force=config.force)
        if candidate == champion:
            raise ReleaseError(f"{candidate!r} serves already; build another candidate with `dvc repro`")
        report, decision = {"candidate": candidate, "champion": champion}, PromotionDecision(PROMOTED, WITHOUT_CHAMPION)
        if champion is not None and not config.force:
            measured, decision = _compared(config, candidate, champion)
            report |= measured
        if config.force:
            decision = PromotionDecision(FORCED, "force=true")
        report = rounded({**report, **asdict(decision)}, 6)
        if not decision.serves:
            _record(config, report, folder)
            return decision
        uploaded(releases / candidate)
        with moving(releases):
            if (now := serving_id(releases)) != champion:
                raise ReleaseError(f"{now} serves now instead of {champion}; compare with it: run this again")
            switched(releases, candidate, data=config.data.name)
            _record(config, report, folder)  # last: what is on record as promoted serves
    return decision


def require_one_schema(config: DictConfig, candidate: str, champion: str) -> None:
    """Raise ReleaseError unless both releases and the features have one schema, without which nothing can be compared."""
    releases = Path(config.data.releases)
    built = FeatureSet.load(Path(config.data.outputs) / "features").report["schema"]
    schemas = {name: read_manifest(releases / name)["schema"] for name in (candidate, champion)}
    for name, schema in schemas.items():
        if schema != built:
            raise ReleaseError(
                f"{name} has the schema {schema}, the features have {built}: the log cannot be replayed through both "
                f"{candidate} and {champion}; build the candidate with `dvc repro`, or let it serve without a comparison: "
                f"`python -m watchnext.lifecycle promote data={config.data.name} candidate={candidate} force=true`"
            )


def _compared(config: DictConfig, candidate: str, champion: str) -> tuple[dict, PromotionDecision]:
    """Replay both releases, hold the guards, and read live traffic; return the report and the decision."""
    require_one_schema(config, candidate, champion)
    options, releases, outputs = config.promotion, Path(config.data.releases), Path(config.data.outputs)
    figure = f"{options.figure}@{config.evaluation.slate}"
    comparison = ReplayComparison.of(
        (releases / candidate, releases / champion),
        outputs,
        figure=figure,
        regime=config.regime,
        slate=config.evaluation.slate,
        requests=config.evaluation.requests,
        check=instantiate(config.index.guard),
        seed=config.seed,
    )
    live = _live(config, candidate, champion)
    checked = guards(comparison, plain(options.guards))
    decision = decide(comparison.compared["slate"][figure], checked, live, least=options.least)
    return {
        "replayed": list(comparison.replayed),
        "requests": comparison.compared["requests"],
        "live": live and live.report(),
        "guards": [asdict(each) for each in checked],
        "slate": comparison.compared["slate"],
        "slices": comparison.slices,
    }, decision


def _live(config: DictConfig, candidate: str, champion: str) -> LiveResult | None:
    options = config.promotion
    if options.simulate:
        return simulated_result(config, candidate, champion)
    releases, served = Path(config.data.releases), Path(config.monitoring.served)
    plan = read_plan(releases)
    if plan is None or plan.release != candidate or not plan.share:
        return None
    ids = Ids(load_arrays(releases / champion / "user_table")["user_ids"])
    outcomes = outcomes_in(config.data.store, releases / champion)
    settings = {"planned": options.requests, "since_ms": options.since_ms}
    return live_result(served, outcomes, plan=plan, champion=champion, ids=ids, **settings)


def _written(report: dict, folder: Path) -> None:
    write_report(folder / "promotion.json", report)
    replaced(folder / "promotion.md", markdown(report))
    replaced(folder / "promotion.html", page(report))


def _record(config: DictConfig, report: dict, folder: Path) -> None:
    """Write the report, track the decision as a run, and name it on the page of the candidate's version."""
    _written(report, folder)
    candidate = report["candidate"]
    manifest = read_manifest(Path(config.data.releases) / candidate)
    tags = {
        "data_hash": data_hash_in(Path(config.data.outputs) / "features"),
        "schema_fingerprint": manifest["schema"],
        "release": candidate,
    }
    tags |= {"champion": report["champion"] or "none", "verdict": report["verdict"], "reason": report["reason"]}
    with tracking.start_run("promotion", config=plain(config), tags=tags, stage="lifecycle") as run:
        run.log_metrics(flat(_values(report)))
        for name in ("promotion.json", "promotion.md", "promotion.html"):
            run.log_file(folder / name)
    about = {"decision": report["verdict"], "reason": report["reason"], "decided_by_run": run.id}
    release_registry.tag_release(candidate, about, name=model_name(config.data.name))


def _values(report: dict) -> dict:
    """Return the figures of a report."""
    guards = {each["name"]: {name: each[name] for name in ("candidate", "champion")} for each in report.get("guards", [])}
    differences = {name: each["difference"] for name, each in report.get("slate", {}).items()}
    live = report.get("live")
    return {"guards": guards, "difference": differences, **({"live": live["relative"][0]} if live else {})}
