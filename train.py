"""Train one model, tracked: `python train.py model=ranker trainer.max_epochs=1`. All settings are in conf/.

If training is interrupted, run the same command again: it resumes after the last completed epoch.
"""

import sys
import warnings
from functools import partial
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from watchnext import tracking
from watchnext.cli import composed, plain, write_report
from watchnext.features.dataset.batches import FeatureSet
from watchnext.metrics import aligned, rounded, shown
from watchnext.nn.checkpoints import Checkpoints, unfinished
from watchnext.nn.training import NothingToLearnError, fit_and_measure, tracked
from watchnext.nn.weights import written_aside
from watchnext.ranking.analysis.reliability_report import write_reliability_report
from watchnext.ranking.models.unranked import UnrankedModule
from watchnext.ranking.training import preset_fitting
from watchnext.retrieval.towers.content import ContentModule
from watchnext.schema import SchemaError

Untrained = ContentModule | UnrankedModule  # models without fitting
UNFINISHED = Path("runs/checkpoints")


def fit(
    config: DictConfig, run: tracking.Run, module: pl.LightningModule | preset_fitting.Fitted, kept: Checkpoints
) -> dict[str, float]:
    """Fit and evaluate on held-out days; Lightning logs the metrics of every epoch to the run."""
    trainer = tracked(partial(instantiate, config.trainer), model=config.model.name, run=run)
    settings = {"name": config.model.name, "seed": config.seed, "trainer": trainer, "checkpoints": kept}
    if isinstance(module, pl.LightningModule):
        return fit_and_measure(module, instantiate(config.model.best), **settings)
    return preset_fitting.fit_and_measure(module, log=run.log_metrics, **settings)


def learned(
    config: DictConfig, run: tracking.Run, features: FeatureSet, kept: Checkpoints
) -> tuple[pl.LightningModule | preset_fitting.Fitted | Untrained, dict[str, float]]:
    """Train the model and return it with its metrics. Without usable data, the preset's `cold` model replaces it, if any."""
    try:
        module = instantiate(config.model.module)(features=features)
        return module, module.figures if isinstance(module, Untrained) else fit(config, run, module, kept)
    except NothingToLearnError as error:
        if "cold" not in config.model:
            raise
        cold = config.model.cold
        print(f"WARNING: {config.model.name} is not trained, {cold.name} stands in for it: {error}", file=sys.stderr)
        run.set_tag("stood_in_by", cold.name)
        module = instantiate(cold.module)(features=features)
        return module, module.figures


def write(
    config: DictConfig,
    run: tracking.Run,
    module: pl.LightningModule | preset_fitting.Fitted | Untrained,
    found: dict,
    out: Path,
) -> None:
    """Write the model and its metrics to `out` and to the run, rounded to six digits: further ones differ by processor."""
    with written_aside(out) as folder:
        module.save(folder)
        if "calibration" in config.model and not isinstance(module, Untrained):
            found |= write_reliability_report(module.features, module.network, plain(config.model.calibration), folder)
        report = rounded(dict(sorted(found.items())), 6)
        write_report(folder / "metrics.json", report)
    if config.metrics:
        write_report(Path(config.metrics), report)
    run.log_metrics(found)
    for path in sorted(out.iterdir()):
        run.log_file(path, folder="model")


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    name, whole = config.model.name, plain(config)
    out = Path(config.out or Path(HydraConfig.get().runtime.output_dir) / "model")
    # One process makes the batches, so their count is right; the other warning is internal to Lightning and torch.
    warnings.filterwarnings("ignore", message=".*(IterableDataset` has `__len__`|treespec, LeafSpec).*")
    try:
        features = FeatureSet.load(Path(config.data.outputs) / "features")
        pl.seed_everything(config.seed, workers=True, verbose=False)
        description = {key: whole[key] for key in ("model", "trainer", "seed")} | {"features": features.report}
        description["code"] = preset_fitting.code_of_preset(whole["model"])
        tags = {"data": config.data.name} | features.provenance
        with (
            unfinished(UNFINISHED, name, description) as kept,
            tracking.start_run(name, config=whole, tags=tags, continues=kept.run) as run,
        ):
            kept.run = run.id
            module, found = learned(config, run, features, kept)
            write(config, run, module, found, out)
    except (FileNotFoundError, SchemaError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print("\n".join([f"{name} > {out}", *aligned([(key, shown(value, ".4f")) for key, value in sorted(found.items())])]))


if __name__ == "__main__":
    if not any(argument.startswith("-") for argument in sys.argv[1:]):
        composed(sys.argv[1:])  # reports misspelt keys with the correct ones, unlike Hydra
    main()
