"""The history of the feature stage, latest first, through encoders that read oldest first."""

import pytest
import torch

from watchnext.nn.encoders import ENCODERS, encoder_of
from watchnext.retrieval.two_tower import InOrder


@pytest.mark.parametrize("name", ENCODERS)
def test_the_state_is_that_of_the_watches_in_order(name):
    torch.manual_seed(0)
    encoder = encoder_of(name, dimension=4, heads=2, blocks=1, places=10, dropout=0.0).eval()
    reader, history = InOrder(encoder), torch.randn(3, 5, 4)
    mask = torch.tensor([[1.0, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
    with torch.no_grad():
        found = reader(torch.zeros(3, 1), history * mask.unsqueeze(-1), mask)
        for row, count in ((0, 3), (1, 5)):
            wanted = encoder(history[row, :count].flip(0).unsqueeze(0))[0, -1]
            torch.testing.assert_close(found[row], wanted, rtol=1e-5, atol=1e-6)
    assert not found[2].any()
