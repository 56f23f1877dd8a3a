"""Train one model, tracked: `python train.py model=ranker trainer.max_epochs=1`. All settings are in conf/.

If training is interrupted, run the same command again: it resumes after the last completed epoch.
"""

import sys
from functools import partial
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from watchnext.cli import composed, exits_on, instantiate, plain, write_report
from watchnext.features.dataset.batches import FeatureSet
from watchnext.metrics import aligned, rounded, shown
from watchnext.nn.trainable import NothingToLearnError, Training
from watchnext.nn.training import built, fit_and_test, tracked
from watchnext.nn.weights import written_aside
from watchnext.schema import SchemaError


def trained(preset: DictConfig, features: FeatureSet, training: Training, out: Path) -> dict[str, float | None]:
    """Write a trained model to `out`; return its metrics, rounded to six digits: further ones differ by processor."""
    module = built(instantiate(preset.module), features, seed=training.seed)
    found = fit_and_test(module, training)
    with written_aside(out) as folder:
        module.save(folder)
        found |= instantiate(preset.reliability)(features, module.network, folder) if "reliability" in preset else {}
        report = rounded(dict(sorted(found.items())), 6)
        write_report(folder / "metrics.json", report)
    return report


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    model, settings = config.model, {"seed": config.seed, "trainer": partial(instantiate, config.trainer)}
    out = Path(config.out or Path(HydraConfig.get().runtime.output_dir) / "model")
    with exits_on(FileNotFoundError, SchemaError, ValueError):
        features = FeatureSet.load(Path(config.data.outputs) / "features")
        with tracked(plain(config), features, **settings) as (run, training):
            try:
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
