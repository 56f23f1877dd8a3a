"""`python -m watchnext.evaluation compare`: replay two recommenders on the same held-out days, and print their differences."""

from pathlib import Path

import polars as pl
from omegaconf import DictConfig

from watchnext import tracking
from watchnext.cli import plain, write_report
from watchnext.evaluation.comparison.comparison_text import comparison_table
from watchnext.evaluation.comparison.incumbent import incumbent_slates
from watchnext.evaluation.comparison.side_by_side import Replayed, compare_incumbent, compare_releases
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.evaluation.replay.replay import Given
from watchnext.features.dataset.batches import FeatureSet
from watchnext.metrics import flat, rounded
from watchnext.serving.release.release import Release, current, last_built

COMPARED = 3  # releases: one, the other, and the first trained with another seed


def run_comparison(config: DictConfig) -> None:
    """Compare the releases of a configuration, or one with an incumbent's log; write the report, track it, and print it."""
    outputs = Path(config.data.outputs)
    features = FeatureSet.load(outputs / "features")
    log = HeldOutLog.of_outputs(outputs, features)
    compared = _releases(config, features, log) if config.incumbent is None else _incumbent(config, log)
    report = rounded({**compared, "regime": config.regime}, 6)
    tags = {**features.provenance, "release": report["release"], "other": report["other"]}
    with tracking.start_run("comparison", config=plain(config), tags=tags, stage="evaluation") as tracked:
        tracked.log_metrics(flat(report))
    write_report(outputs / "evaluation" / "comparison.json", report)
    print(comparison_table(report))


def _releases(config: DictConfig, features: FeatureSet, log: HeldOutLog) -> dict:
    releases, names = Path(config.data.releases), list(config.releases)
    if len(names) > COMPARED:
        raise ValueError(
            f"releases are {', '.join(names)}, expected at most {COMPARED}: one, the other beside it, and the first as trained "
            "with another seed"
        )
    second = releases / names[1] if names[1:] else current(releases)
    folders = [_first(config), second, *(releases / each for each in names[2:])]
    if not names and folders[0].name == second.name:
        raise ValueError(f"{second.name} is the last built release and the one that serves; name two, or give incumbent=LOG")
    one, other, *retrained = (_replayed(folder, config, log, {}) for folder in folders)
    rows, settings = features.rows("test"), {"k": config.evaluation.slate, "seed": config.seed}
    labels = features.columns["targets"][rows], features.columns["user_rows"][rows]
    report = compare_releases(one, other, *labels, retrained=retrained[0] if retrained else None, **settings)
    return {"release": one.release.id, "other": other.release.id, **report}


def _incumbent(config: DictConfig, log: HeldOutLog) -> dict:
    """Compare a release with the slates of an incumbent on the held-out days."""
    days = {day for part in log.parts() for day in part.impressions.filter(pl.Series(part.held_out))["day"].unique()}
    features = Path(f"conf/features/{config.data.features}.yaml")
    given = incumbent_slates(Path(config.incumbent), days, features=features, most=config.evaluation.slate)
    one = _replayed(_first(config), config, log, given)
    report = compare_incumbent(one, k=config.evaluation.slate, seed=config.seed)
    return {"release": one.release.id, "other": "incumbent", **report}


def _first(config: DictConfig) -> Path:
    """Return the folder of the first release that is named, or else of the last built one."""
    releases, names = Path(config.data.releases), list(config.releases)
    return releases / names[0] if names else last_built(releases, Path(config.data.outputs))


def _replayed(folder: Path, config: DictConfig, log: HeldOutLog, given: Given) -> Replayed:
    """Replay the held-out days through a release. Raises ReleaseError if it knows them already."""
    release, options = Release.load(folder), config.evaluation
    settings = {"regime": config.regime, "slate": options.slate, "requests": options.requests}
    return Replayed.of(release, log, given=given, **settings)
