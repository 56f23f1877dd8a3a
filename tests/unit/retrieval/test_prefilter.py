import numpy as np
import pytest

from watchnext.retrieval.index.prefilter import PreFilter, StaticMask, clear_bits, count_bits, pack_bits, set_positions


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 500])
def test_bits_by_hand(n):
    mask = np.random.default_rng(n).random(n) < 0.4
    words = pack_bits(mask)
    assert len(words) == -(-n // 64)
    assert count_bits(words) == mask.sum()
    assert [p for p in range(n) if int(words[p // 64]) >> p % 64 & 1] == np.flatnonzero(mask).tolist()
    assert set_positions(words, n).tolist() == np.flatnonzero(mask).tolist()


def test_cleared_bits_are_gone_and_negative_positions_ignored():
    words = pack_bits(np.ones(130, bool))
    clear_bits(words, np.array([0, 63, 64, 129, 64, -1]))
    assert np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little", count=130) == 0).tolist() == [0, 63, 64, 129]


def test_rows_behind_the_mask_and_hidden_ones_are_not_allowed():
    allowed = PreFilter(StaticMask(np.array([True, False, True])), np.array([2]))
    assert allowed.of(np.array([0, 1, 2, 3, 90])).tolist() == [True, False, False, False, False]
