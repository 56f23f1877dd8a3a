"""Train one model, tracked: `python train.py model=ranker trainer.max_epochs=1`. All settings are in conf/.

If training is interrupted, run the same command again: it resumes after the last completed epoch.
"""

import json
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from watchnext.cli import composed, exits_on, instantiate, plain, write_report
from watchnext.features.dataset.batches import FeatureSet
from watchnext.metrics import aligned, rounded, shown
from watchnext.nn.trainable import NothingToLearnError, Training
from watchnext.nn.training import built, fit_and_test, following, is_first, tracked
from watchnext.nn.weights import written_aside
from watchnext.schema import SchemaError

MEASURED = ("valid/", "test/", "uncalibrated/")  # prefixes of figures that say nothing of the fit itself


def trained(preset: DictConfig, features: FeatureSet, training: Training, out: Path) -> dict[str, float | None]:
    """Write a trained model to `out`; return its metrics, rounded to six digits: further ones differ by processor.

    A model that repeats an evaluated one is not measured: it has seen all days.
    """
    module = built(instantiate(preset.module), features, seed=training.seed)
    found = fit_and_test(module, training)
    with written_aside(out) as folder:
        module.save(folder)
        if "reliability" in preset and training.evaluated is None:
            found |= instantiate(preset.reliability)(features, module.network, folder)
        report = rounded(dict(sorted(found.items())), 6)
        write_report(folder / "metrics.json", report)
    return report


def evaluated_figures(folder: str | None, name: str) -> dict[str, float] | None:
    """Return the figures of the evaluated model `name` in a folder, whose fit is repeated; None without a folder."""
    if folder is None:
        return None
    path = Path(folder) / name / "metrics.json"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing, expected the figures of an evaluated model; run `dvc repro` first")
    return json.loads(path.read_text())


def follow(preset: DictConfig, features: FeatureSet, training: Training) -> None:
    """Train and measure a part of every batch beside the first process, which writes the model."""
    with suppress(NothingToLearnError):  # the first process says so
        fit_and_test(built(instantiate(preset.module), features, seed=training.seed), training)


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    model, settings = config.model, {"seed": config.seed, "trainer": partial(instantiate, config.trainer)}
    out = Path(config.out or Path(HydraConfig.get().runtime.output_dir) / "model")
    with exits_on(FileNotFoundError, SchemaError, ValueError):
        features = FeatureSet.load(Path(config.data.outputs) / "features")
        evaluated = evaluated_figures(config.evaluated, model.name)
        if not is_first():
            follow(model, features, replace(following(plain(config), features, **settings), evaluated=evaluated))
            return
        with tracked(plain(config), features, **settings) as (run, training):
            training = replace(training, evaluated=evaluated)
            try:
                if evaluated is not None and all(figure.startswith(MEASURED) for figure in evaluated):
                    raise NothingToLearnError(f"{model.cold.name} stood in for it when it was evaluated")
                report = trained(model, features, training, out)
            except NothingToLearnError as error:
                if "cold" not in model:
                    raise
                print(f"WARNING: {model.name} is not trained, {model.cold.name} stands in for it: {error}", file=sys.stderr)
                run.set_tag("stood_in_by", model.cold.name)
                report = trained(model.cold, features, training, out)
            if config.metrics:
                write_report(Path(config.metrics), report)
            run.log_result(report, out, folder="model")
    print("\n".join([f"{model.name} > {out}", *aligned([(key, shown(value, ".4f")) for key, value in report.items()])]))


if __name__ == "__main__":
    if not any(argument.startswith("-") for argument in sys.argv[1:]):
        composed(sys.argv[1:])  # reports misspelt keys with the correct ones, unlike Hydra
    main()
