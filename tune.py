"""Tune one model, tracked: `python tune.py model=ranker tune.trials=20`, and any key=value of `train.py`.

Settings are drawn from the space of conf/tune/<model>.yaml and evaluated on validation days; test days are not read. If a
search is interrupted, even by `kill -9`, run the same command again to resume; a larger budget extends a finished search. The
last line is the command that trains the best setting; it is also written to best.txt in the study folder below `runs/tuning/`.
"""

import shlex
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from watchnext import tracking
from watchnext.cli import composed, exits_on, instantiate, plain
from watchnext.features.dataset.batches import FeatureSet
from watchnext.nn.checkpoints import described_folder, settings_of
from watchnext.nn.trainable import NothingToLearnError, Training
from watchnext.nn.training import built, stage_of
from watchnext.schema import SchemaError
from watchnext.tuning import Study, Trial, overrides_of, space_of
from watchnext.types import TARGETS

STUDIES, MOST = Path("runs/tuning"), 20


def reached(config: DictConfig, features: FeatureSet, run: tracking.Run, trial: Trial) -> float:
    """Train like train.py; return `tune.monitor` of validation days. Epochs report it for pruning, and trees the loss of its
    head."""
    monitor = config.tune.monitor
    loss = next((f"valid/loss_{name}" for name in TARGETS if monitor.endswith(name)), None)

    def log(values: Mapping[str, float], step: int) -> None:
        run.log_metrics(values, step)
        if monitor in values:
            trial.report(values[monitor], int(values["epoch"]))
        elif loss in values:
            trial.report(-values[loss], step)

    training = Training(config.seed, partial(instantiate, config.trainer), config.model.name, log=log)
    found = built(instantiate(config.model.module), features, seed=config.seed).fit(training)
    if monitor not in found:
        measured = ", ".join(name for name in found if name.startswith("valid/"))
        raise ValueError(f"tune.monitor is {monitor!r}, expected one of {measured}")
    run.log_metrics(found)
    return found[monitor]


def searched(config: DictConfig, words: list[str], features: FeatureSet, study: Study) -> None:
    """Run trials until the budget is spent; each is a child run of the study."""
    name, tags = config.model.name, {"data": config.data.name} | features.provenance
    whole = plain(config)
    with tracking.start_run(f"tune {name}", config=whole, tags=tags, stage=stage_of(whole), continues=study.run) as parent:
        study.run = parent.id
        for trial in study.trials(config.tune.trials, config.tune.seconds):
            trial_config, number = composed([*words, *trial.overrides]), len(study.ended)
            told = {"config": plain(trial_config), "tags": tags, "stage": stage_of(whole)}
            run_of = {**told, "continues": trial.run, "parent": parent}
            with tracking.start_run(f"{name} {number}", **run_of) as run:
                trial.run = run.id
                outcome = trial.ends(partial(reached, trial_config, features, run, trial))
                run.set_tag("ended", outcome)
            print(f"trial {number + 1} of {config.tune.trials}: {outcome}  {' '.join(trial.overrides)}", flush=True)
        parent.log_metrics({"best": study.best[0]})


@exits_on(FileNotFoundError, SchemaError, ValueError)
def tune(words: list[str]) -> None:
    config = composed(words)
    if "space" not in config.get("tune", {}):
        spaces = sorted(path.stem for path in Path("conf/tune").glob("*.yaml") if path.stem != "default")
        raise ValueError(f"conf/tune has no search space for {config.model.name}, only for {', '.join(spaces)}; add a file")
    whole, features = plain(config), FeatureSet.load(Path(config.data.outputs) / "features")
    for split in ("train", "valid"):
        if not len(features.rows(split)):
            raise NothingToLearnError(f"there are no {split} impressions; check data.split")
    space = space_of(whole["tune"]["space"])
    composed([*words, *overrides_of(dict.fromkeys(space))])  # reports misspelt keys with the correct ones
    first = {key: plain_of(config, key) for key in space}
    rest = {key: value for key, value in whole["tune"].items() if key not in ("trials", "seconds")}
    settings = settings_of(whole, features.report) | {"tune": rest}
    with described_folder(STUDIES, config.model.name, settings, most=MOST) as folder:
        rules = {key: config.tune[key] for key in ("startup", "warmup")}
        study = Study(folder, space=space, first=first, seed=config.seed, **rules)
        searched(config, words, features, study)
        value, best = study.best
        kept = [word for word in words if not word.lstrip("+~").startswith(("tune.", "tune="))]
        line = shlex.join(["python", "train.py", *kept, *best])
        (folder / "best.txt").write_text(f"{line}\n")
        print(f"{value:.5f} is the best of {len(study.ended)} trials, {study.spent_s:.0f} s, see {folder}\n{line}")


def plain_of(config: DictConfig, key: str) -> object:
    found = OmegaConf.select(config, key)
    return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found


if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        sys.exit(print(__doc__))
    tune(sys.argv[1:])
