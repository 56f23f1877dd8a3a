"""Real networks under `trainer=fast` as on a processor that has bf16: slow where it has not, but the same arithmetic."""

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import load_file

from watchnext.nn import training
from watchnext.nn.training import fit_network

CONF = Path(__file__).resolve().parents[3] / "conf"


@pytest.mark.parametrize("model", ["two_tower", "dcn"])
def test_an_epoch_in_bf16_is_finite_and_saved_in_f32(model, world_features, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "has_amx", lambda: True)
    overrides = [f"model={model}", "trainer=fast", "trainer.max_epochs=1", "+trainer.enable_progress_bar=false"]
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        config = compose("config", overrides)
    seen = set()

    def trainer(name: str, callbacks: list[pl.Callback]) -> pl.Trainer:
        return instantiate(config.trainer, callbacks=callbacks, logger=False)

    pl.seed_everything(0, verbose=False)
    module = instantiate(config.model.module)(features=world_features)
    for linear in (layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)):
        linear.register_forward_hook(lambda _, inputs, output: seen.add((module.training, output.dtype)))
    best = instantiate(config.model.best)
    fit_network(module, best, name=model, seed=0, trainer=trainer)
    assert (True, torch.bfloat16) in seen
    assert {dtype for training, dtype in seen if not training} == {torch.float32}  # what is measured is what serves
    assert np.isfinite(best.best)
    module.save(tmp_path)
    saved = load_file(tmp_path / "weights.safetensors")
    assert all(values.isfinite().all() and values.dtype != torch.bfloat16 for values in saved.values())
