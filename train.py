"""Train one model, tracked: `python train.py model=ranker trainer.max_epochs=1`. All settings are in conf/.

If training is interrupted, run the same command again: it resumes after the last completed epoch.
"""

import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from watchnext.cli import composed, exits_on, instantiate, plain, write_report
from watchnext.features.dataset.batches import FeatureSet
from watchnext.metrics import aligned, rounded, shown
from watchnext.nn.trainable import NothingToLearnError, Training
from watchnext.nn.training import built, evaluated_figures, example, fit_and_test, following, is_first, stage_of, swept, tracked
from watchnext.nn.weights import written_aside
from watchnext.schema import SchemaError
from watchnext.tracking import Run

MEASURED = ("valid/", "test/", "uncalibrated/")  # prefixes of figures that say nothing of the fit itself


def trained(preset: DictConfig, features: FeatureSet, training: Training, out: Path, run: Run) -> dict[str, float | None]:
    """Write a trained model to `out`; return its metrics, rounded to six digits: further ones differ by processor.

    The run gets what the model takes and returns, and the model the curves of the run.
    A model that repeats an evaluated one is not measured: it has seen all days.
    """
    module = built(instantiate(preset.module), features, seed=training.seed)
    found = fit_and_test(module, training)
    with written_aside(out) as folder:
        module.save(folder)
        if "reliability" in preset and training.evaluated is None:
            found |= instantiate(preset.reliability)(features, module.network, folder)
        run.write_curves(folder / "curves", monitor=preset.module.get("monitor"))
        report = rounded(dict(sorted(found.items())), 6)
        write_report(folder / "metrics.json", report)
    if len(features.rows("train")):
        run.log_signature("model", *example(module, features, stage_of({"model": preset})))
    return report


def sweep_folder() -> Path | None:
    """Return the folder of the sweep (`-m`) that this training belongs to, None for a training by itself."""
    settings = HydraConfig.get()
    return Path(settings.sweep.dir) if settings.mode == RunMode.MULTIRUN else None


def follow(preset: DictConfig, features: FeatureSet, training: Training) -> None:
    """Train and measure a part of every batch beside the first process, which writes the model."""
    with suppress(NothingToLearnError):  # the first process says so
        fit_and_test(built(instantiate(preset.module), features, seed=training.seed), training)


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    model, settings = config.model, plain(config)
    out = Path(config.out or Path(HydraConfig.get().runtime.output_dir) / "model")
    with exits_on(FileNotFoundError, SchemaError, ValueError):
        features = FeatureSet.load(Path(config.data.outputs) / "features")
        evaluated = evaluated_figures(config.evaluated, model.name)
        fit = {"seed": config.seed, "trainer": partial(instantiate, config.trainer), "evaluated": evaluated}
        if not is_first():
            follow(model, features, following(settings, features, **fit))
            return
        with (
            swept(settings, features, sweep_folder(), sys.argv[1:]) as sweep,
            tracked(settings, features, **fit, parent=sweep) as (run, training),
        ):
            try:
                if evaluated is not None and all(figure.startswith(MEASURED) for figure in evaluated):
                    raise NothingToLearnError(f"{model.cold.name} stood in for it when it was evaluated")
                report = trained(model, features, training, out, run)
            except NothingToLearnError as error:
                if "cold" not in model:
                    raise
                print(f"WARNING: {model.name} is not trained, {model.cold.name} stands in for it: {error}", file=sys.stderr)
                run.set_tag("stood_in_by", model.cold.name)
                report = trained(model.cold, features, training, out, run)
            if config.metrics:
                write_report(Path(config.metrics), report)
            run.log_result(report, out, folder="model")
            if sweep:
                sweep.log_metrics(report, HydraConfig.get().job.num)
    print("\n".join([f"{model.name} > {out}", *aligned([(key, shown(value, ".4f")) for key, value in report.items()])]))


if __name__ == "__main__":
    if not any(argument.startswith("-") for argument in sys.argv[1:]):
        composed(sys.argv[1:])  # reports misspelt keys with the correct ones, unlike Hydra
    main()
