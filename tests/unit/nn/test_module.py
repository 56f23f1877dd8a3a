"""The optimizer's groups; epochs that repeat, the best one's weights, and going on after an interruption, in a real, tiny
training."""

import math

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, IterableDataset

from watchnext.nn import training
from watchnext.nn.callbacks import NamedBar
from watchnext.nn.checkpoints import Checkpoints
from watchnext.nn.id_tables import FullTable
from watchnext.nn.trainable import Training
from watchnext.nn.training import Bf16Training, TrainableModule, adam, finite


class Rows(IterableDataset):
    """Two batches of two rows, which the epoch decides."""

    epoch = -1

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return 2

    def __iter__(self):
        yield from torch.rand(2, 2, 3, generator=torch.Generator().manual_seed(self.epoch))


class Scripted(TrainableModule):
    """Counts its epochs, draws, and learns; validation answers from a list."""

    def __init__(self, scores, patience: int = 9) -> None:
        super().__init__(monitor="valid/score", patience=patience)
        torch.manual_seed(0)
        self.scores, self.layer = scores, torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.5))
        self.register_buffer("trained_in", torch.tensor(-1))

    def loader(self, split: str, *, seed: int) -> DataLoader:
        return DataLoader(Rows(), batch_size=None)

    def training_step(self, batch, _):
        self.trained_in.fill_(self.current_epoch)
        return (self.layer(batch) - torch.rand(2)).square().mean() * 100.0

    def validation_step(self, batch, _):
        self.log("valid/score", torch.tensor(self.scores[self.current_epoch]), batch_size=2)

    def configure_optimizers(self):
        return adam(self, learning_rate=0.01, weight_decay=0.1)


class Cut(pl.Callback):
    """An interruption in the middle of an epoch."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.current_epoch == self.epoch:
            raise InterruptedError


def trained(scores, patience: int, *, seed: int = 0, cut: int = -1, kept=None, clip: float = 0.5, plugins=None, of=Scripted):
    """The module at the end, the best epoch, epochs run."""

    def trainer(callbacks, **quiet) -> pl.Trainer:
        return pl.Trainer(
            max_epochs=len(scores), callbacks=[*callbacks, Cut(cut)], accelerator="cpu", num_sanity_val_steps=0,
            enable_checkpointing=False, enable_model_summary=False, gradient_clip_val=clip, plugins=plugins,
            **quiet)  # fmt: skip

    module = of(scores, patience)
    found = module.fit(Training(seed, trainer, "scripted", kept))
    assert found["valid/score"] == pytest.approx(scores[int(found["best_epoch"])], nan_ok=True)
    return module, found["best_epoch"], module.trainer.current_epoch


def test_the_bar_has_the_name_of_the_network_and_its_epoch_of_all(capsys):
    bar, quiet = NamedBar("mlp_no_history"), {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = pl.Trainer(max_epochs=2, callbacks=[bar], accelerator="cpu", limit_val_batches=0, **quiet)
    trainer.fit(Scripted([0.0]), DataLoader(Rows(), batch_size=None))
    printed = capsys.readouterr()
    assert "mlp_no_history epoch 2/2: 100%" in printed.out + printed.err


RUNS = [
    ([0.1, 0.5, 0.4, 0.3], 9, (1, 1, 4)),  # put back at the end
    ([0.5, 0.4, 0.3, 0.9], 2, (0, 0, 3)),  # stopped before the last one
    ([0.5, 0.4, 0.6, 0.5, 0.4, 0.9], 2, (2, 2, 5)),
    ([math.nan, 0.2, 0.1], 9, (1, 1, 3)),  # nothing to measure at first is worse than anything
    ([0.3, math.nan, math.nan, 0.9], 2, (0, 0, 3)),
]


@pytest.mark.parametrize(("scores", "patience", "expected"), RUNS)
def test_the_best_epoch_is_kept_and_patience_ends_it(scores, patience, expected):
    module, *rest = trained(scores, patience)
    assert (int(module.trained_in), *rest) == expected


def same(first: pl.LightningModule, second: pl.LightningModule) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, two) for one, two in pairs)


@pytest.mark.parametrize(("scores", "patience", "expected"), RUNS)
def test_an_interrupted_training_ends_as_an_undisturbed_one(scores, patience, expected, tmp_path, capsys):
    """Cut once in every epoch, and once more after the end."""
    whole, kept = trained(scores, patience)[0], Checkpoints(tmp_path)
    epochs = expected[2]
    for epoch in range(epochs):
        with pytest.raises(InterruptedError):
            trained(scores, patience, cut=epoch, kept=kept)
        assert len(list(tmp_path.glob("*.ckpt"))) == (epoch > 0)
    for _ in range(2):
        module, *rest = trained(scores, patience, kept=kept)
        assert (int(module.trained_in), *rest) == expected
        assert same(module, whole)
    printed = capsys.readouterr().out
    assert [f"resumed after epoch {epoch} " in printed for epoch in range(epochs)] == [True] * epochs


class Broken(Scripted):
    """Loses its numbers in its third epoch."""

    def training_step(self, batch, place):
        loss = super().training_step(batch, place)
        broken = self.current_epoch == 2
        return finite(loss * math.nan if broken else loss, place, key="rate", learning_rate=0.01)


def test_a_nan_loss_stops_and_the_epoch_before_it_stays(tmp_path, capsys):
    scores, kept = [0.1, 0.2, 0.3, 0.4], Checkpoints(tmp_path)
    whole = trained(scores, 9)[0]
    with pytest.raises(ValueError, match=r"the loss of batch 0 is nan; .*lower rate"):
        trained(scores, 9, kept=kept, of=Broken)
    assert same(trained(scores, 9, kept=kept)[0], whole)  # and from there another may go on
    assert "resumed after epoch 1 " in capsys.readouterr().out


def test_a_seed_decides_the_weights_and_clipping_changes_them(tmp_path):
    scores = [0.1, 0.2, 0.3]
    first, again, other, free = (
        trained(scores, 9, seed=seed, clip=clip)[0] for seed, clip in ((0, 0.5), (0, 0.5), (1, 0.5), (0, 0.0))
    )
    assert same(first, again)
    assert not same(first, other)
    assert not same(first, free)


def test_bf16_is_chosen_by_what_the_processor_has(monkeypatch):
    for tiles, expected in ((True, Bf16Training), (False, pl.plugins.Precision)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda tiles=tiles: tiles)
        assert type(training.fastest_precision()) is expected


def test_bf16_trains_other_weights_in_f32():
    scores = [0.1, 0.2]
    plain, half = trained(scores, 9)[0], trained(scores, 9, plugins=[Bf16Training()])[0]
    assert not same(plain, half)
    assert {tensor.dtype for tensor in half.state_dict().values()} == {torch.float32, torch.int64}
    torch.testing.assert_close(half.layer[0].weight, plain.layer[0].weight, rtol=0.05, atol=0.02)


def test_tables_and_biases_do_not_decay():
    parts = {"table": torch.nn.Embedding(3, 2), "ids": FullTable(rows=3, dimension=2, std=1.0), "layer": torch.nn.Linear(2, 2)}
    network = torch.nn.ModuleDict(parts)
    decayed, free, of_ids = adam(network, learning_rate=0.1, weight_decay=0.3).param_groups
    assert (decayed["weight_decay"], free["weight_decay"], of_ids["weight_decay"]) == (0.3, 0.0, 0.0)
    assert [id(p) for p in of_ids["params"]] == [id(network["ids"].weight)]
    assert [id(p) for p in decayed["params"]] == [id(network["layer"].weight)]
    assert {id(p) for p in free["params"]} == {id(network["layer"].bias), id(network["table"].weight)}
