"""Train one model, tracked: `python train.py model=ranker trainer.max_epochs=1`. Every choice stands in conf/."""

import sys
import warnings
from pathlib import Path

import hydra
import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.loggers import MLFlowLogger

from watchnext import tracking
from watchnext.dispatch import composed, plain, write_report
from watchnext.features.batches import FeatureSet
from watchnext.nn.weights import written_aside
from watchnext.ranking.fitting import Fitted, held_out
from watchnext.ranking.fitting import fit as fit_ranker
from watchnext.ranking.trust import trust
from watchnext.schema import SchemaError


def trained(config: DictConfig, run: tracking.Run, module: pl.LightningModule) -> dict[str, float]:
    """Fit one network and measure its best epoch; Lightning keeps the figures of every epoch in the run."""
    best, logger = instantiate(config.model.best), MLFlowLogger(run_id=run.id, tracking_uri=run.tracking_uri)
    trainer: pl.Trainer = instantiate(config.trainer, callbacks=[best, TQDMProgressBar(refresh_rate=10)], logger=logger)
    trainer.fit(module, module.loader("train", seed=config.seed), module.loader("valid", seed=config.seed))
    found = {"best_epoch": float(best.epoch)}
    for split, measure in (("valid", trainer.validate), ("test", trainer.test)):
        measure(module, module.loader(split, seed=config.seed), verbose=False)
        found |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    return found


def fitted(config: DictConfig, run: tracking.Run, module: Fitted) -> dict[str, float]:
    """Fit trees or a committee, and measure them."""

    def trainer(name: str, best: pl.Callback) -> pl.Trainer:
        logger = MLFlowLogger(run_id=run.id, tracking_uri=run.tracking_uri, prefix=name)
        return instantiate(config.trainer, callbacks=[best, TQDMProgressBar(refresh_rate=10)], logger=logger)

    fit_ranker(module, None, name=config.model.name, seed=config.seed, trainer=trainer, log=run.log_metrics)
    return held_out(module, "valid") | held_out(module, "test") | module.figures


def fit(config: DictConfig, run: tracking.Run, features: FeatureSet, out: Path) -> dict[str, float]:
    """Fit, measure, and write the model to `out`; returns its figures on held-out days."""
    module = instantiate(config.model.module)(features=features)
    found = (trained if isinstance(module, pl.LightningModule) else fitted)(config, run, module)
    with written_aside(out) as folder:
        module.save(folder)
        if "calibration" in config.model:
            found |= trust(features, module.network, plain(config.model.calibration), folder)
        write_metrics(folder / "metrics.json", found)
    if config.metrics:
        write_metrics(Path(config.metrics), found)
    run.log_metrics(found)
    for path in sorted(out.iterdir()):
        run.log_file(path, folder="model")
    return found


def write_metrics(path: Path, found: dict[str, float]) -> None:
    """Six digits: what lies behind them differs between processors."""
    write_report(path, {name: round(value, 6) for name, value in sorted(found.items())})


@hydra.main(version_base=None, config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    out = Path(config.out or Path(HydraConfig.get().runtime.output_dir) / "model")
    # Batches are made in this process, so their count is right; the other is Lightning's own affair with torch.
    warnings.filterwarnings("ignore", message=".*(IterableDataset` has `__len__`|treespec, LeafSpec).*")
    try:
        features = FeatureSet.load(Path(config.data.outputs) / "features")
        pl.seed_everything(config.seed, workers=True, verbose=False)
        report = features.report
        facts = {
            "data": config.data.name,
            "data_hash": report["data_hash"],
            "schema_fingerprint": report["schema"],
            "regime": report["regime"],
        }
        with tracking.start_run(config.model.name, config=plain(config), tags=facts) as run:
            found = fit(config, run, features, out)
    except (FileNotFoundError, SchemaError, ValueError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print(f"{config.model.name} > {out}\n" + "\n".join(f"  {name:<28}{value:.4f}" for name, value in sorted(found.items())))


if __name__ == "__main__":
    if not any(argument.startswith("-") for argument in sys.argv[1:]):
        composed(sys.argv[1:])  # names a misspelt key together with the right ones, which Hydra's own door does not
    main()
