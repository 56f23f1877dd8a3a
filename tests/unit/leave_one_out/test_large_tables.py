"""Towers on tables with sparse gradients: through Lightning, clipped, saved, and as right as on a full table."""

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

from watchnext.nn.id_tables import FullTable, HashedTable, QuotientRemainderTable
from watchnext.retrieval.towers.negatives import Negatives
from watchnext.retrieval.towers.objectives import SampledSoftmax

VIDEOS = 70
TABLES = {
    "full": partial(FullTable),
    "quotient_remainder": partial(QuotientRemainderTable, collisions=3),
    "hashed": partial(HashedTable, buckets=40),
}
START = SpectralStart(window=5, distance_power=0.5, degree_power=0.35, shift=5.0, noise=0.05, rounds=3, seed=0)


pytestmark = pytest.mark.usefixtures("one_thread")


every_table = pytest.mark.parametrize("kind", TABLES)


def walks(viewers: int = 60) -> list[list[int]]:
    """Each viewer walks on from one video to the next."""
    random = np.random.default_rng(0)
    starts, sizes = random.integers(0, VIDEOS, viewers), random.integers(4, 9, viewers)
    return [[int((start + j) % VIDEOS) for j in range(size)] for start, size in zip(starts, sizes, strict=True)]


def module_of(table: partial, *, start: SpectralStart | None = None) -> SequenceModule:
    pl.seed_everything(0, verbose=False)
    sizes = {"dimension": 16, "encoder": "transformer", "heads": 2, "blocks": 1, "places": 10, "gain": 0.3, "dropout": 0.0}
    return SequenceModule(
        split=leave_one_out(Sequences.of(walks(), VIDEOS)),
        network=partial(SequenceTowers, **sizes, table=table, sparse=True),
        loss=SampledSoftmax(temperature=0.1),
        negatives=partial(Negatives, in_batch=False, uniform=40),
        start=start,
        learning_rate=0.01,
        table_learning_rate=0.1,
        positions=128,
        batches=100,
        ranked=10,
        monitor="valid/ndcg_at_10",
        patience=4,
    )


def trained(module: SequenceModule, epochs: int) -> SequenceModule:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = pl.Trainer(accelerator="cpu", max_epochs=epochs, deterministic=True, gradient_clip_val=1.0, **quiet)
    trainer.fit(module, module.loader("train", seed=0))
    return module


@every_table
def test_towers_learn_the_next_video(kind):
    module = trained(module_of(TABLES[kind]), 20)
    train = module.split.train
    asking = train.without_last(np.ones(len(train), np.int64))
    viewers = np.flatnonzero(asking.lengths > 0)
    found = best(module.scores, asking, viewers, 1)[:, 0]
    assert (found == train.rows[train.starts[viewers + 1] - 1]).mean() > 0.9


@every_table
def test_padding_changes_nothing(kind):
    module = trained(module_of(TABLES[kind]), 1)
    histories, viewers = module.split.train, np.arange(20)
    alone = np.concatenate([module.scores(histories, viewers[i : i + 1]) for i in viewers])
    np.testing.assert_allclose(module.scores(histories, viewers), alone, rtol=1e-4, atol=1e-4)


@every_table
def test_a_sparse_gradient_is_the_dense_one(kind):
    found, wanted = (module_of(TABLES[kind]).network, module_of(TABLES[kind]).network)
    for embedding in wanted.table.modules():
        embedding.sparse = False
    for network in (found, wanted):
        network.video(torch.tensor([[1, 2], [1, 69]])).square().mul(torch.arange(16)).sum().backward()
    for mine, other in zip(found.table.parameters(), wanted.table.parameters(), strict=True):
        assert mine.grad.is_sparse
        torch.testing.assert_close(mine.grad.to_dense(), other.grad)


def test_the_padding_row_of_a_full_table_learns_nothing():
    module = module_of(TABLES["full"])
    before = module.network.table.weight.detach().clone()
    trained(module, 2)
    assert torch.equal(module.network.table.weight[VIDEOS], before[VIDEOS])
    assert not torch.equal(module.network.table.weight[:VIDEOS], before[:VIDEOS])


@every_table
def test_one_seed_gives_one_result(kind):
    first, again = (trained(module_of(TABLES[kind]), 2).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_start_is_for_full_tables():
    module = module_of(TABLES["full"], start=START)
    wanted = torch.from_numpy(START.vectors(module.split.train, 16))
    assert torch.equal(module.network.table.weight[:VIDEOS], wanted)
    with pytest.raises(ValueError, match="start=null"):
        module_of(TABLES["hashed"], start=START)
