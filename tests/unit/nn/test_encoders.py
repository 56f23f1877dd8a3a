"""Promises of every encoder of a history, and attention against a loop."""

import math

import pytest
import torch

from watchnext.nn.encoders import ENCODERS, CausalTransformer, encoder_of

SIZES = {"dimension": 8, "heads": 2, "blocks": 2, "places": 4, "dropout": 0.5}


@pytest.fixture(params=ENCODERS)
def encoder(request):
    torch.manual_seed(0)
    made = encoder_of(request.param, **SIZES).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # what starts at zero must take part too
    return torch.no_grad()(made)


def vectors(rows: int, places: int) -> torch.Tensor:
    return torch.randn(rows, places, 8, generator=torch.Generator().manual_seed(1))


def test_a_place_does_not_know_later_ones(encoder):
    history = vectors(3, 6)
    changed = history.clone()
    changed[:, 4:] *= -2.0
    torch.testing.assert_close(encoder(changed)[:, :4], encoder(history)[:, :4])
    assert (encoder(changed)[:, 4:] - encoder(history)[:, 4:]).abs().max() > 0.01


def test_padding_behind_changes_nothing(encoder):
    history = vectors(2, 5)
    longer = torch.cat([history, torch.zeros(2, 9, 8)], dim=1)
    torch.testing.assert_close(encoder(longer)[:, :5], encoder(history), rtol=1e-5, atol=1e-6)


def test_a_batch_is_its_rows_one_by_one(encoder):
    history = vectors(4, 6)
    torch.testing.assert_close(encoder(history), torch.cat([encoder(row[None]) for row in history]), rtol=1e-5, atol=1e-6)


def test_an_earlier_watch_is_remembered(encoder):
    history = vectors(1, 6)
    changed = history.clone()
    changed[:, 0] *= -2.0
    assert (encoder(changed)[:, 5] - encoder(history)[:, 5]).abs().max() > 1e-3


def test_an_unknown_encoder_is_named_with_the_known():
    with pytest.raises(ValueError, match="unknown encoder 'lstm', expected one of transformer, recurrent, mean"):
        encoder_of("lstm", **SIZES)
    with pytest.raises(ValueError, match="3 heads do not divide the dimension 8"):
        encoder_of("transformer", **{**SIZES, "heads": 3})


def test_attention_by_its_formula():
    """Head by head, place by place; places further back than the last learned distance share its bias."""
    torch.manual_seed(0)
    block = CausalTransformer(dimension=4, heads=2, blocks=1, feedforward=4, places=2, dropout=0.0).blocks[0]
    with torch.no_grad():
        block.distance.copy_(torch.tensor([[0.3, -0.4], [0.0, 1.0]]))
        states = torch.randn(1, 4, 4)
        q, k, v = block.query_key_value(states).view(4, 3, 2, 2).permute(1, 2, 0, 3)
        wanted = torch.zeros(4, 4)
        for head in range(2):
            for i in range(4):
                logits = [
                    float(q[head, i] @ k[head, j]) / math.sqrt(2) + float(block.distance[head, min(i - j, 1)])
                    for j in range(i + 1)
                ]
                total = sum(math.exp(logit) for logit in logits)
                for j, logit in enumerate(logits):
                    wanted[i, 2 * head : 2 * head + 2] += math.exp(logit) / total * v[head, j]
        torch.testing.assert_close(block._attended(states)[0], block.out(wanted), rtol=1e-4, atol=1e-5)
