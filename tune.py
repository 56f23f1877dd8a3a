"""Tune one model, tracked: `python tune.py model=ranker tune.trials=20`, and any key=value of `train.py`.

Settings are drawn from the space of conf/tune/<model>.yaml and evaluated on validation days; test days are not read. If a
search is interrupted, even by `kill -9`, run the same command again to resume; a larger budget extends a finished search. The
last line is the command that trains the best setting; it is also written to best.txt in the study folder below `runs/tuning/`.
"""

import logging
import shlex
import sys
import warnings
from functools import partial
from pathlib import Path

import pytorch_lightning as pl
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import LambdaCallback

from watchnext import tracking
from watchnext.cli import composed, plain
from watchnext.features.dataset.batches import FeatureSet
from watchnext.nn.checkpoints import described_folder
from watchnext.nn.training import NothingToLearnError, fit_network, tracked
from watchnext.ranking.models.ensemble import EnsembleModule
from watchnext.ranking.training import preset_fitting
from watchnext.schema import SchemaError
from watchnext.tuning import Study, Trial, overrides_of, space_of
from watchnext.types import TARGETS

STUDIES, MOST = Path("runs/tuning"), 20


def reached(config: DictConfig, features: FeatureSet, run: tracking.Run, trial: Trial) -> float:
    """Train like train.py; return the metric of the best epoch, or of the whole fit for models without epochs."""
    pl.seed_everything(config.seed, workers=True, verbose=False)
    module = instantiate(config.model.module)(features=features)
    settings = {"name": config.model.name, "seed": config.seed}
    trainer = partial(tracked, partial(instantiate, config.trainer), model=config.model.name, run=run)
    if isinstance(module, pl.LightningModule):
        best = instantiate(config.model.best)

        def report(trainer: pl.Trainer, _: pl.LightningModule) -> None:
            trial.report(float(trainer.callback_metrics[best.monitor]), trainer.current_epoch)

        fit_network(module, best, trainer=trainer(along=(LambdaCallback(on_validation_end=report),)), **settings)
        return best.best
    return fitted(module, config.tune.monitor, run, trial, trainer=trainer(), **settings)


def fitted(module: preset_fitting.Fitted, monitor: str, run: tracking.Run, trial: Trial, **settings) -> float:
    """Fit trees or an ensemble and return the metric `monitor`; trees report the loss of its head for pruning."""
    head = next((name for name in TARGETS if monitor.endswith(name)), None)

    def log(values: dict[str, float], step: int) -> None:
        run.log_metrics(values, step)
        loss = values.get(f"valid/loss_{head}")
        if loss is not None and not isinstance(module, EnsembleModule):
            trial.report(-loss, step)

    preset_fitting.fit(module, None, log=log, **settings)
    found = preset_fitting.held_out(module, "valid")
    if monitor not in found:
        raise ValueError(f"tune.monitor is {monitor!r}, expected one of {', '.join(found)}")
    run.log_metrics(found)
    return found[monitor]


def searched(config: DictConfig, words: list[str], features: FeatureSet, study: Study) -> None:
    """Run trials until the budget is spent; each is a child run of the study."""
    name, tags = config.model.name, {"data": config.data.name} | features.provenance
    with tracking.start_run(f"tune {name}", config=plain(config), tags=tags, continues=study.run) as parent:
        study.run = parent.id
        for trial in study.trials(config.tune.trials, config.tune.seconds):
            trial_config, number = composed([*words, *trial.overrides]), len(study.ended)
            run_of = {"config": plain(trial_config), "tags": tags, "continues": trial.run, "parent": parent}
            with tracking.start_run(f"{name} {number}", **run_of) as run:
                trial.run = run.id
                outcome = trial.ends(partial(reached, trial_config, features, run, trial))
                run.set_tag("ended", outcome)
            print(f"trial {number + 1} of {config.tune.trials}: {outcome}  {' '.join(trial.overrides)}", flush=True)
        parent.log_metrics({"best": study.best[0]})


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
    description = {key: whole[key] for key in ("model", "trainer", "seed")} | {"features": features.report}
    description["code"] = preset_fitting.code_of_preset(whole["model"])
    description["tune"] = {key: value for key, value in whole["tune"].items() if key not in ("trials", "seconds")}
    with described_folder(STUDIES, config.model.name, description, most=MOST) as folder:
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
    # One process makes the batches, so their count is right; the other warning is internal to Lightning and torch.
    warnings.filterwarnings("ignore", message=".*(IterableDataset` has `__len__`|treespec, LeafSpec).*")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    try:
        tune(sys.argv[1:])
    except (FileNotFoundError, SchemaError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
