"""Numbers in pieces."""

import torch

from watchnext.nn.piecewise_linear import BORDERS, PiecewiseLinear


def test_a_piece_is_the_share_of_it_below_the_value_and_their_lengths_add_up():
    pieces = PiecewiseLinear(values=2)
    values = torch.tensor([[-7.0, 0.2], [6.5, -0.4], [-1.65, 2.0]])
    found = pieces(values)
    assert found.shape == (3, pieces.width) == (3, 2 * (len(BORDERS) - 1))
    assert found[0, ::2].tolist() == [0.0] * 10
    assert found[1, ::2].tolist() == [1.0] * 10
    torch.testing.assert_close(found[2, 0:6:2], torch.tensor([1.0, 0.5, 0.0]))
    torch.testing.assert_close(found[0, 1::2], torch.tensor([1.0] * 5 + [0.5] + [0.0] * 4))
    lengths = torch.tensor(BORDERS).diff()
    torch.testing.assert_close((found[:, 1::2] * lengths).sum(-1) + BORDERS[0], values[:, 1])


def test_a_line_in_pieces_can_bend():
    """|x| is no line in x, and one in its pieces, as 0 is a border."""
    x = torch.linspace(-2, 2, 81).unsqueeze(1)
    design = torch.cat([PiecewiseLinear(values=1)(x), torch.ones(81, 1)], dim=1)
    weights = torch.linalg.lstsq(design, x.abs(), driver="gelsd").solution
    torch.testing.assert_close(design @ weights, x.abs(), atol=1e-4, rtol=0)
