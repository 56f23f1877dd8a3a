"""`python -m watchnext.lifecycle COMMAND`: choose settings, build a release, let one serve, try one on a share of viewers, roll
back, run all stages, run a pass of the loop, find what disagrees, erase a user, or plan machines."""

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from watchnext import tracking
from watchnext.cli import dispatch, instantiate, overrides_from, plain, write_report
from watchnext.evaluation.report.report_text import selection_table
from watchnext.lifecycle import release_registry
from watchnext.lifecycle.dvc_stages import run_stages
from watchnext.lifecycle.loop.loop_state import LoopError
from watchnext.lifecycle.promote import let_first_serve, model_name, promote, register, serving_id
from watchnext.lifecycle.release_card import loses_to, release_card, signature_rows
from watchnext.lifecycle.release_registry import tag_release
from watchnext.metrics import flat, rounded
from watchnext.schema import FeatureSchema, SchemaError
from watchnext.serving.release.manifest import read_manifest
from watchnext.serving.release.only_one import HeldError
from watchnext.serving.release.release import ReleaseError, verdict_of
from watchnext.serving.store.engines.engine import StoreError

if TYPE_CHECKING:
    from watchnext.features.dataset.batches import FeatureSet
    from watchnext.lifecycle.release_builder import BuiltRelease, ReleaseBuilder


def _builder(config: DictConfig) -> "ReleaseBuilder":
    from watchnext.features.dataset.batches import FeatureSet
    from watchnext.lifecycle.release_builder import ReleaseBuilder

    outputs = Path(config.data.outputs)
    return ReleaseBuilder(
        data=config.data.name,
        features=FeatureSet.load(outputs / "features"),
        outputs=outputs,
        releases=Path(config.data.releases),
        clock=config.data.clock,
        reranking=plain(config.reranking),
        retrieval=plain(config.retrieval),
        surfaces=plain(config.surfaces),
    )


def select(config: DictConfig) -> None:
    """Choose merge weights and the order of candidates on the validation days, and compare the slate with every baseline."""
    builder = _builder(config)
    options = {"regime": config.regime, "slate": config.slate_size, "seed": config.seed}
    with tracking.start_run("selection", config=plain(config), tags=builder.features.provenance, stage="lifecycle") as run:
        report = builder.select(requests=config.selection.requests, **options).report
        run.log_metrics(flat(report))
        run.log_text(table := selection_table(report), "selection.txt")
        if report["requests"]:
            from watchnext.evaluation.report.selection_plot import selection_plot  # other commands do without matplotlib

            selection_plot(report, drawn := builder.outputs / "selection" / "orders.png")
            run.log_file(drawn)
    write_report(builder.outputs / "metrics" / "selection.json", rounded(report, 6))
    print(table)


def release(config: DictConfig) -> None:
    """Assemble a release from the trained parts and register it as challenger; the first one serves at once (refit=true)."""
    builder = _builder(config)
    built, names = _registered(config, builder, builder.build), {}
    names["release"] = built.folder.name
    if _learns_from_all_days(config, builder.features):
        from watchnext.lifecycle.refit import refit

        given = [word for word in overrides_from(sys.argv[2:]) if word.partition("=")[0] not in ("data", "refit")]
        refit(Path.cwd(), _parameters(config), given)
        built = _registered(config, builder, partial(builder.build_refitted, names["release"]))
        names["refitted"] = built.folder.name
    serves = let_first_serve(built.folder, data=config.data.name)
    (builder.outputs / "release.json").write_text(json.dumps(names, indent=1))
    command = f"python -m watchnext.lifecycle promote data={config.data.name}"
    print(f"{built.folder}: {'serves' if serves else f'challenger; run `{command}` to let it serve'}")
    if lost_to := verdict_of(built.folder):
        print(
            f"on the validation days its slate {loses_to(lost_to)}; add `release={built.folder.name} force=true` to promote it"
        )


def _registered(config: DictConfig, builder: "ReleaseBuilder", build: Callable[[], "BuiltRelease"]) -> "BuiltRelease":
    """Build a release in a tracked run, and register it."""
    with tracking.start_run("release", config=plain(config), tags=builder.features.provenance, stage="lifecycle") as run:
        metrics = json.loads((builder.outputs / "ranker" / "metrics.json").read_text())
        built = build()
        measured = {name: metrics[name] for name in sorted(metrics) if "test/" in name}
        about = {"data_hash": builder.features.provenance["data_hash"], "commit": tracking.commit(), "metrics": measured}
        about["lost_to"] = verdict_of(built.folder)
        card = release_card(read_manifest(built.folder), config=plain(config), **about)
        run.log_signature(f"releases/{built.folder.name}", *signature_rows(built.folder))
        register(built.folder, new=built.new, data=config.data.name, run=run, metrics=measured, card=card)
        tag_release(built.folder.name, {"slate": loses_to(about["lost_to"])}, name=model_name(config.data.name))
        run.log_metrics({f"agreement/{name}": value for name, value in built.parity.items()})
    return built


def _learns_from_all_days(config: DictConfig, features: "FeatureSet") -> bool:
    """Return True if a release of all days is to be built, and some were held out."""
    wanted = config.data.clock == "wall" if config.refit is None else config.refit
    return bool(wanted and len(features.rows("test")))


def promote_release(config: DictConfig) -> int:
    """Compare the candidate (candidate=ID) with the champion; it serves if it won, exit 2 if not. release=ID serves at once."""
    name, releases = model_name(config.data.name), Path(config.data.releases)
    previous, chosen = serving_id(releases), config.release
    if chosen is not None:
        promote(releases, chosen, data=config.data.name, force=config.force)
    else:
        from watchnext.lifecycle.promotion.promotion import run_promotion  # the other commands need no comparison

        chosen = config.candidate or release_registry.release_of("challenger", name=name)
        if chosen is None:
            raise LookupError(f"there is no challenger of {name!r}; choose a release with candidate=ID, or run `dvc repro`")
        decision = run_promotion(config, chosen)
        print(f"{chosen} is {decision.verdict}: {decision.reason}")
        print(f"report: {config.data.outputs}/promotion/promotion.html")
        if not decision.serves:
            return 2
    print(f"{chosen} serves instead of {previous or 'none'}; a running server follows within seconds")
    return 0


def canary(config: DictConfig) -> None:
    """Let running servers try the challenger (or candidate=ID) on a share of the viewers, and score other requests aside."""
    from watchnext.lifecycle.canary_command import begin_canary  # the stages need no server

    name = model_name(config.data.name)
    chosen = config.candidate or release_registry.release_of("challenger", name=name)
    if chosen is None:
        raise LookupError(f"there is no challenger of {name!r}; choose a release with candidate=ID, or run `dvc repro`")
    shares = {"share": config.share, "shadow": config.shadow}
    begin_canary(Path(config.data.releases), chosen, data=config.data.name, **shares)
    print(
        f"{chosen} is tried on {config.share:g} of the viewers, and scores {config.shadow:g} of the other requests; a running "
        "server follows within seconds, and `python -m watchnext.lifecycle rollback` ends it"
    )


def rollback(config: DictConfig) -> None:
    """End the canary, or let the release serve again that did before: a running server follows within seconds."""
    from watchnext.lifecycle.canary_command import roll_back

    print(roll_back(Path(config.data.releases), Path(config.monitoring.served), data=config.data.name))


def pipeline(config: DictConfig) -> None:
    """Run every stage of dvc.yaml on other data without DVC, e.g. data=kuairand; other overrides go to every stage."""
    overrides = [word for word in overrides_from(sys.argv[2:]) if not word.startswith("data=")]
    run_stages(Path.cwd(), _parameters(config), overrides)


def _parameters(config: DictConfig) -> dict[str, str]:
    """Return the values of params.yaml for the data set."""
    return {"data": config.data.name, "features": config.data.features, "outputs": config.data.outputs}


def erase(config: DictConfig) -> None:
    """Erase the user=ID from store, served log, slates and tables; print a JSON receipt for each place, and what stays."""
    from watchnext.lifecycle.erase_user import erase_everywhere  # the other commands need no store

    if config.user is None:
        raise ValueError("user is null, expected an id; run `python -m watchnext.data erase user=ID`")
    folders = {name: Path(config.data[name]) for name in ("outputs", "releases")}
    folders["store"] = config.data.store  # or an address
    folders["served"] = Path(config.monitoring.served)
    for receipt in erase_everywhere(str(config.user), source=config.data.loader.get("root"), **folders):
        print(json.dumps(asdict(receipt)))


def capacity(config: DictConfig) -> None:
    """Plan machines, storage and cost: `capacity viewers=500e6 videos=1e9`, from the records in benchmarks/results."""
    from watchnext.lifecycle.capacity import capacity_report as tables
    from watchnext.lifecycle.capacity.scaling_curves import ScalingCurves
    from watchnext.lifecycle.capacity.stage_needs import VIDEOS_A_VIEWER, scenarios_of

    curves, chosen = ScalingCurves.load(), plain(config.capacity)
    viewers, videos, assumed = chosen["viewers"], chosen["videos"], chosen["assumptions"]
    sizes = tables.published_sizes() if viewers is None else [(viewers, videos or VIDEOS_A_VIEWER * viewers)]
    planned = scenarios_of(*sizes[-1], assumed, curves)["mid"]
    heading = f"{tables.count(planned.viewers)} viewers a day, {tables.count(planned.videos)} videos, mid:"
    print(tables.text(heading, tables.needs(planned)))
    for title, rows in {
        "low / mid / high:": tables.totals(sizes, assumed, curves),
        "one machine of the mid scenario:": tables.limits(assumed, curves),
        "largest measured size, predicted from the smaller ones:": tables.checks(curves),
        "others:": tables.peers(assumed, curves),
        "assumptions; their sources stand in conf/config.yaml:": [row[:-1] for row in tables.assumptions(assumed)],
    }.items():
        print(tables.text(title, rows))
    if chosen["picture"]:
        from watchnext.lifecycle.capacity.cost_plot import cost_plot

        cost_plot(assumed, curves, Path(chosen["picture"]))
        print(chosen["picture"])


def loop(config: DictConfig) -> None:
    """Run a pass of the loop: add served days to the log, check drift, decide, train, judge; one that was killed goes on."""
    from watchnext.lifecycle.loop.daily_log import DailyLog  # the stages run none of this
    from watchnext.lifecycle.loop.decision import Costs
    from watchnext.lifecycle.loop.loop_pass import LoopPass, Project

    overrides = [word for word in overrides_from(sys.argv[2:]) if not word.startswith(("data=", "loop."))]
    project = Project(
        root=Path.cwd(),
        overrides=overrides,
        **{name: config.data[as_name] for name, as_name in PROJECT.items()},
        **{name: Path(config.data[name]) for name in ("outputs", "releases")},
        served=Path(config.monitoring.served),
    )
    schema = FeatureSchema.load(Path(f"conf/features/{config.data.features}.yaml"))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    LoopPass(
        project,
        open_log=lambda work: DailyLog(instantiate(config.data.loader), schema, work=work),
        costs=Costs.of(plain(config.loop)),
        share=config.share,
        serves=config.loop.serves,
        patience=config.loop.patience_days,
        webhook=config.loop.webhook,
    ).run()


def demo(config: DictConfig) -> None:
    """Show the loop at work: simulated viewers whose tastes shift, and five ways to retrain (days=14); one killed goes on."""
    from watchnext.lifecycle.demo.demo_command import run_demo  # the stages need no simulator
    from watchnext.lifecycle.demo.demo_report import table_rows
    from watchnext.metrics import aligned

    report = run_demo(config)
    print(*aligned(table_rows(report["figures"])), sep="\n")
    print(", ".join(f"{config.demo.folder}/demo.{kind}" for kind in ("md", "png", "json")))


def doctor(config: DictConfig) -> int:
    """Find what disagrees: releases, registry, store, outputs, leftovers, old caches; fix=true repairs what it can."""
    from watchnext.lifecycle.doctor import Doctor  # the stages run none of this

    folders = {name: Path(config.data[name]) for name in ("outputs", "releases")}
    troubles = Doctor(data=config.data.name, store=config.data.store, **folders).examine()
    left = 0
    for trouble in troubles:
        repaired = config.fix and trouble.repair is not None
        if repaired:
            trouble.repair()
        left += not repaired
        print(f"{'repaired' if repaired else 'wrong'}  {trouble.where}: {trouble.what}")
        if not repaired:
            print(f"       {trouble.command}" + ("  (or fix=true)" if trouble.repair else ""))
    print(f"{len(troubles)} found, {len(troubles) - left} repaired" if troubles else "nothing disagrees")
    return int(left > 0)


PROJECT = {"data": "name", **{name: name for name in ("features", "store", "clock", "utc_offset_h")}}
COMMANDS = {
    "select": select,
    "release": release,
    "promote": promote_release,
    "canary": canary,
    "rollback": rollback,
    "pipeline": pipeline,
    "run": loop,
    "demo": demo,
    "doctor": doctor,
    "erase": erase,
    "capacity": capacity,
}
SHORT = {
    "capacity": {name: f"capacity.{name}" for name in ("viewers", "videos", "picture")},
    "demo": {name: f"demo.{name}" for name in ("days", "arms", "folder")},
    "promote": {"simulate": "promotion.simulate"},
}
ERRORS = (
    SchemaError, ReleaseError, StoreError, LoopError, HeldError, ValueError, OSError, LookupError,
    subprocess.CalledProcessError,
)  # fmt: skip

if __name__ == "__main__":
    dispatch("watchnext.lifecycle", COMMANDS, ERRORS, short=SHORT)
