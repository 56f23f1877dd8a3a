"""Towers of a log of ids: what they learn, keep, and may not see."""

from functools import partial

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from benchmarks.leave_one_out.catalogue import best
from benchmarks.leave_one_out.module import SequenceModule
from benchmarks.leave_one_out.protocol import Sequences, leave_one_out
from benchmarks.leave_one_out.spectral import SpectralStart
from benchmarks.leave_one_out.towers import SequenceTowers
from tests.fake_device import ELSEWHERE, FakeDevice

from watchnext.nn.checkpoints import Checkpoints
from watchnext.nn.trainable import Training
from watchnext.retrieval.towers.negatives import Negatives
from watchnext.retrieval.towers.objectives import SampledSoftmax

SIZES = {"dimension": 16, "encoder": "transformer", "heads": 2, "blocks": 1, "places": 10, "gain": 0.3}
START = {"window": 5, "distance_power": 0.5, "degree_power": 0.35, "shift": 5.0, "noise": 0.05, "rounds": 3}
VIDEOS = 70


def sequences(seed: int = 0, viewers: int = 32) -> list[list[int]]:
    """Sequences of 4 to 9 different videos, no two starting alike."""
    random = np.random.default_rng(seed)
    return [[v, *(32 + random.permutation(VIDEOS - 32)[: random.integers(3, 9)])] for v in range(viewers)]


def module_of(viewers: list[list[int]], *, seed: int = 0, dropout: float = 0.1, **sizes) -> SequenceModule:
    pl.seed_everything(seed, verbose=False)
    return SequenceModule(
        split=leave_one_out(Sequences.of(viewers, VIDEOS)),
        network=partial(SequenceTowers, **{**SIZES, **sizes, "dropout": dropout}),
        loss=SampledSoftmax(temperature=0.1),
        negatives=partial(Negatives, in_batch=False, uniform=40),
        start=SpectralStart(**START, seed=seed),
        learning_rate=0.003,
        table_learning_rate=0.003,
        positions=64,
        batches=100,
        ranked=10,
        monitor="valid/ndcg_at_10",
        patience=100,
    )


class Cut(pl.Callback):
    """An interruption in the second batch of an epoch."""

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch

    def on_train_batch_end(self, trainer, module, outputs, batch, place) -> None:
        if (trainer.current_epoch, place) == (self.epoch, 1):
            raise InterruptedError


def trained(
    module: SequenceModule, epochs: int, seed: int = 0, *, cut: int | None = None, kept: Checkpoints | None = None
) -> SequenceModule:
    def trainer(callbacks: list[pl.Callback], **quiet) -> pl.Trainer:
        return pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[*callbacks, Cut(cut)],
            enable_checkpointing=False,
            enable_model_summary=False,
            deterministic=True,
            num_sanity_val_steps=0,
            **quiet,
        )

    module.fit(Training(seed, trainer, "towers", kept))
    return module


def test_towers_on_a_device_learn_what_they_learn_on_the_processor(monkeypatch):
    found = []
    monkeypatch.setattr(SequenceModule, "log_dict", lambda _, figures, **__: found.append(figures))
    for device in ("cpu", ELSEWHERE):
        module = module_of(sequences(), dropout=0.0)
        with FakeDevice():
            module.to(device)
            batch = {name: values.to(device) for name, values in next(iter(module.loader("train", seed=0))).items()}
            torch.manual_seed(1)
            loss = module.training_step(batch, 0)
            loss.backward()
            module.validation_step(torch.arange(len(module.split.viewers)).to(device), 0)
            module.on_validation_epoch_end()
            found[-1] |= {"loss": loss.item(), "slope": module.loss.log_temperature.grad.item()}
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("encoder", ["transformer", "recurrent"])
def test_towers_overfit_32_sequences(encoder):
    """After training, the last training video of each viewer is the best answer to those before it."""
    module = module_of(sequences(), dropout=0.0, encoder=encoder)
    optimizer, losses = torch.optim.Adam(module.parameters(), lr=0.01), []
    for _ in range(120):
        for batch in module.loader("train", seed=0):
            loss = module.training_step(batch, 0)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    train = module.split.train
    asking = train.without_last(np.ones(len(train), np.int64))
    long = np.flatnonzero(asking.lengths > 0)
    found = best(module.scores, asking, long, 1)[:, 0]
    wanted = train.rows[train.starts[long + 1] - 1]
    assert np.mean(losses[-3:]) < 0.1 * losses[0]
    assert (found == wanted).mean() > 0.95


def test_a_batch_is_its_viewers_one_by_one_and_padding_changes_nothing():
    module = module_of(sequences())
    histories, viewers = module.split.train, np.arange(32)
    together = module.scores(histories, viewers)
    alone = np.concatenate([module.scores(histories, viewers[i : i + 1]) for i in viewers])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-4)
    assert together.shape == (32, VIDEOS)
    assert module.network.training  # scoring does not leave it in evaluation mode


def test_vectors_have_unit_length_and_an_empty_history_has_an_answer():
    network = module_of(sequences()).network.eval()
    with torch.no_grad():
        torch.testing.assert_close(network.video(torch.arange(VIDEOS)).norm(dim=1), torch.ones(VIDEOS))
        query = network.query(torch.full((1, 1), VIDEOS), torch.zeros(1, dtype=torch.int64))
    assert query.norm() == pytest.approx(1.0, abs=1e-5)


def test_only_the_last_places_are_read():
    network = module_of(sequences()).network
    long = Sequences.of([list(range(30))], VIDEOS)
    rows, lengths = long.padded(np.array([0]), network.places)
    assert rows.tolist() == [list(range(20, 30))]
    assert lengths.tolist() == [10]


def weights(module: SequenceModule) -> list[torch.Tensor]:
    return list(module.state_dict().values())


def test_one_seed_gives_one_result():
    first, again, other = (trained(module_of(sequences(), seed=seed), 2, seed) for seed in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(again), strict=True))
    assert not torch.equal(first.network.table.weight, other.network.table.weight)


def test_an_interrupted_training_ends_with_the_very_weights(tmp_path):
    whole, kept = trained(module_of(sequences()), 4), Checkpoints(tmp_path)
    for epoch in (2, 3):
        with pytest.raises(InterruptedError):
            trained(module_of(sequences()), 4, cut=epoch, kept=kept)
    again = trained(module_of(sequences()), 4, kept=kept)
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(again), strict=True))
    assert not torch.equal(whole.network.table.weight, module_of(sequences()).network.table.weight)


def test_held_out_videos_train_nothing():
    """Other validation and test videos give the same weights after an epoch; other training videos do not."""
    plain = sequences()
    held = [[*rows[:-2], *np.random.default_rng(rows[0]).permutation(VIDEOS)[:2]] for rows in plain]
    learned = [[*rows[:-3], *rows[-4:-3], *rows[-2:]] for rows in plain]
    first, same, other = (weights(trained(module_of(viewers), 1)) for viewers in (plain, held, learned))
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_validation_asks_with_training_videos_alone():
    module = trained(module_of(sequences()), 1)
    found = best(module.scores, module.split.train, module.split.viewers, 10)
    recall = float((found == module.split.valid[:, None]).any(axis=1).mean())
    assert float(module.trainer.callback_metrics["valid/recall_at_10"]) == pytest.approx(recall)


def test_many_viewers_are_validated_in_part(monkeypatch):
    module = module_of(sequences())
    everyone = torch.cat(list(module.loader("valid", seed=0))).tolist()
    assert everyone == list(range(32))
    monkeypatch.setattr("benchmarks.leave_one_out.module.VALIDATED", 10)
    assert torch.cat(list(module.loader("valid", seed=0))).tolist() == everyone[::4]


def test_negatives_are_counted_from_what_comes_next():
    """The targets of 1 2 3 2 (| 4 5 held out) are 2 3 2; the second viewer has nothing held out."""
    module = module_of([[1, 2, 3, 2, 4, 5], [6, 1]])
    assert module.negatives.counts.nonzero().squeeze(1).tolist() == [1, 2, 3]
    assert module.negatives.counts[[1, 2, 3]].tolist() == [1, 2, 1]


def test_a_loss_that_is_no_number_stops_and_names_the_batch():
    module = module_of(sequences())
    with torch.no_grad():
        module.network.table.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"the loss of batch 3 is nan; .* lower module\.learning_rate \(0\.003\)"):
        module.training_step(next(iter(module.loader("train", seed=0))), 3)
