"""Real networks under `fastest_precision` as on a processor that has bf16: slow where it has not, but the same arithmetic."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from safetensors.torch import load_file

from watchnext.nn import training
from watchnext.nn.trainable import Training
from watchnext.nn.training import built

CONF = Path(__file__).resolve().parents[3] / "conf"


@pytest.mark.parametrize("model", ["two_tower", "dcn"])
def test_an_epoch_in_bf16_is_finite_and_saved_in_f32(model, world_features, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "has_amx", lambda: True)
    precision = "trainer.plugins=[{_target_: watchnext.nn.training.fastest_precision}]"
    overrides = [f"model={model}", precision, "trainer.max_epochs=1"]
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        config = compose("config", overrides)
    seen = set()

    module = built(instantiate(config.model.module), world_features, seed=0)
    for linear in (layer for layer in module.modules() if isinstance(layer, torch.nn.Linear)):
        linear.register_forward_hook(lambda _, inputs, output: seen.add((module.training, output.dtype)))
    found = module.fit(Training(0, partial(instantiate, config.trainer)))
    assert (True, torch.bfloat16) in seen
    assert {dtype for training, dtype in seen if not training} == {torch.float32}  # what is measured is what serves
    assert np.isfinite(found[module.monitor])
    module.save(tmp_path)
    saved = load_file(tmp_path / "weights.safetensors")
    assert all(values.isfinite().all() and values.dtype != torch.bfloat16 for values in saved.values())
