"""What the Lightning modules need of training: the optimizer, a look at the loss, and the best epoch instead of the last."""

import pytorch_lightning as pl
import torch
from torch import Tensor, nn


def adam(network: nn.Module, *, learning_rate: float, weight_decay: float) -> torch.optim.Optimizer:
    """AdamW; embedding tables, gains and biases do not decay, as a rare row would shrink with every batch it is not in."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    groups: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for parameter in network.parameters():
        groups[parameter.ndim > 1 and id(parameter) not in tables].append(parameter)
    return torch.optim.AdamW(
        [{"params": groups[True], "weight_decay": weight_decay}, {"params": groups[False], "weight_decay": 0.0}],
        lr=learning_rate,
    )


def finite(loss: Tensor, place: int, *, key: str, learning_rate: float) -> Tensor:
    """The loss of batch `place`. Raises ValueError naming the batch, and the learning rate by its `key` in the configuration,
    where it is nan or infinite."""
    if not loss.isfinite():
        raise ValueError(
            f"the loss of batch {place} is {loss.item()}; look at its inputs, or lower {key}, "
            f"which is {learning_rate:g}. Nothing was written; what was trained before is as it was"
        )
    return loss


class BestWeights(pl.Callback):
    """Keeps the weights of the epoch with the best `monitor` in memory and puts them back at the end; stops after `patience`
    worse ones."""

    def __init__(self, *, monitor: str, patience: int) -> None:
        self.monitor, self.patience = monitor, patience
        self.best, self.epoch = float("-inf"), -1
        self._weights: dict[str, Tensor] = {}

    def on_validation_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        value = float(trainer.callback_metrics[self.monitor].nan_to_num(nan=float("-inf")))
        if value > self.best or not self._weights:
            self.best, self.epoch = value, trainer.current_epoch
            self._weights = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
        elif trainer.current_epoch - self.epoch >= self.patience:
            trainer.should_stop = True

    def on_fit_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self._weights:
            module.load_state_dict(self._weights)
