"""The optimizer's groups, and the best epoch's weights in a real, tiny training."""

import math
import warnings

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from watchnext.nn.module import BestWeights, adam


class Scripted(pl.LightningModule):
    """Its weight is the number of the epoch it was last trained in; validation answers from a list."""

    def __init__(self, scores) -> None:
        super().__init__()
        self.scores = scores
        self.layer = torch.nn.Linear(1, 1, bias=False)

    def training_step(self, batch, _):
        with torch.no_grad():
            self.layer.weight.fill_(self.current_epoch)
        return self.layer(batch).sum() * 0.0

    def validation_step(self, batch, _):
        self.log("valid/score", torch.tensor(self.scores[self.current_epoch]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.0)


def trained(scores, patience: int) -> tuple[float, int, int]:
    """Weight at the end, the best epoch, epochs run."""
    best, module = BestWeights(monitor="valid/score", patience=patience), Scripted(scores)
    trainer = pl.Trainer(max_epochs=len(scores), callbacks=[best], logger=False, accelerator="cpu", num_sanity_val_steps=0,
                         enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    rows = DataLoader(torch.ones(2, 1), batch_size=2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning would rather have more workers
        trainer.fit(module, rows, rows)
    return float(module.layer.weight.detach()), best.epoch, trainer.current_epoch


@pytest.mark.parametrize(
    ("scores", "patience", "expected"),
    [
        ([0.1, 0.5, 0.4, 0.3], 9, (1.0, 1, 4)),  # put back at the end
        ([0.5, 0.4, 0.3, 0.9], 2, (0.0, 0, 3)),  # stopped before the last one
        ([0.5, 0.4, 0.6, 0.5, 0.4, 0.9], 2, (2.0, 2, 5)),
        ([math.nan, 0.2, 0.1], 9, (1.0, 1, 3)),  # nothing to measure at first is worse than anything
        ([0.3, math.nan, math.nan, 0.9], 2, (0.0, 0, 3)),
    ],
)
def test_the_best_epoch_is_kept_and_patience_ends_it(scores, patience, expected):
    assert trained(scores, patience) == expected


def test_tables_and_biases_do_not_decay():
    network = torch.nn.ModuleDict({"table": torch.nn.Embedding(3, 2), "layer": torch.nn.Linear(2, 2)})
    decayed, free = adam(network, learning_rate=0.1, weight_decay=0.3).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.3, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(network["layer"].weight)]
    assert {id(p) for p in free["params"]} == {id(network["layer"].bias), id(network["table"].weight)}
