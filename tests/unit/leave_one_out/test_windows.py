"""Training batches: every watch but a viewer's first is a target once, after the watches before it."""

import numpy as np
import pytest
import torch
from benchmarks.leave_one_out.protocol import Sequences
from benchmarks.leave_one_out.windows import Windows

VIDEOS = 500


@pytest.fixture
def viewers() -> list[list[int]]:
    """Every row occurs once, so that a row says where it stood."""
    rows, sizes = iter(np.random.default_rng(0).permutation(VIDEOS).tolist()), [0, 1, 2, 2, 3, 5, 6, 7, 11, 40] * 3
    return [[next(rows) for _ in range(size)] for size in sizes]


def windows(viewers, seed: int = 0, batches: int = 1000) -> Windows:
    return Windows(Sequences.of(viewers, VIDEOS), places=5, positions=20, batches=batches, seed=seed)


def test_every_watch_but_the_first_is_a_target_once(viewers):
    before = {rows[i]: rows[i - 1] for rows in viewers for i in range(1, len(rows))}
    seen = []
    for batch in windows(viewers):
        assert batch["histories"].shape == batch["targets"].shape
        assert batch["targets"].shape[1] <= 5
        assert batch["targets"].numel() <= 20
        for histories, targets in zip(batch["histories"].tolist(), batch["targets"].tolist(), strict=True):
            there = [target for target in targets if target < VIDEOS]
            assert targets == there + [VIDEOS] * (len(targets) - len(there))
            assert [before[target] for target in there] == histories[: len(there)]
            assert set(histories[len(there) :]) <= {VIDEOS}
            seen += there
    assert sorted(seen) == sorted(before)


def test_a_long_history_is_cut_from_its_end(viewers):
    """The last window is full; what is left over stands at the beginning."""
    ends = {rows[-1]: rows for rows in viewers if len(rows) > 6}
    for batch in windows(viewers):
        for histories, targets in zip(batch["histories"].tolist(), batch["targets"].tolist(), strict=True):
            if targets[-1] in ends:
                assert histories == ends[targets[-1]][-6:-1]


def test_epochs_differ_and_a_seed_repeats_them(viewers):
    def epochs(seed: int) -> list[list[torch.Tensor]]:
        made, found = windows(viewers, seed), []
        for epoch in (0, 1):
            made.set_epoch(epoch)
            found.append([batch["targets"] for batch in made])
            assert len(found[-1]) == len(made)
        return found

    first, again, other = epochs(0), epochs(0), epochs(1)
    assert all(torch.equal(a, b) for x, y in zip(first, again, strict=True) for a, b in zip(x, y, strict=True))
    assert [len(batch) for batch in first[0]] != [len(batch) for batch in first[1]] or not torch.equal(first[0][0], first[1][0])
    assert [batch.tolist() for batch in first[0]] != [batch.tolist() for batch in other[0]]


def test_without_two_watches_there_is_nothing_to_predict():
    with pytest.raises(ValueError, match="no history has two watches"):
        windows([[1], [], [2]])


def test_a_short_epoch_holds_other_batches_each_time(viewers):
    made = windows(viewers, batches=3)
    found = []
    for epoch in (0, 1, 0):
        made.set_epoch(epoch)
        found.append({row for batch in made for row in batch["targets"].flatten().tolist()})
    assert len(list(made)) == 3
    assert found[0] == found[2] != found[1]
