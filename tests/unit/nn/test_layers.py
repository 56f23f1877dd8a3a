"""Layers against loops written from their papers."""

import math

import pytest
import torch

from watchnext.nn.attention import ContentAffinity, PooledAttention, ProductAttention, TargetAttention
from watchnext.nn.cross import CrossNetwork
from watchnext.nn.embeddings import CodeEmbeddings, TagEmbeddings


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    with torch.no_grad():
        yield


MASK = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]])


def history(dimension: int) -> torch.Tensor:
    """(3, 3, dimension), zeros at empty places, as `History` hands them over."""
    return torch.randn(3, 3, dimension) * MASK.unsqueeze(-1)


def test_target_attention_weighs_each_watch_by_an_mlp_of_both_and_their_product():
    layer, candidates, watched = TargetAttention(dimension=4, hidden=6), torch.randn(3, 4), history(4)
    found = layer(candidates, watched, MASK)
    weigh = torch.cat([layer.of_history.weight, layer.of_candidate.weight, layer.of_product.weight], dim=1)
    for i in range(3):
        total, n = torch.zeros(4), int(MASK[i].sum())
        for j in range(n):
            joint = torch.cat([watched[i, j], candidates[i], watched[i, j] * candidates[i]])
            hidden = [max(float(x), 0.0) for x in weigh @ joint + layer.of_history.bias]
            total += (layer.weigh.weight[0] @ torch.tensor(hidden) + layer.weigh.bias[0]) * watched[i, j]
        torch.testing.assert_close(found[i], total / max(n, 1) ** 0.5, rtol=1e-4, atol=1e-5)
    assert not found[2].any()


def test_product_attention_weighs_each_watch_by_its_product_with_the_candidate():
    layer, candidates, watched = ProductAttention(dimension=4), torch.randn(3, 4), history(4)
    found = layer(candidates, watched, MASK)
    for i in range(3):
        total, n = torch.zeros(4), int(MASK[i].sum())
        for j in range(n):
            related = candidates[i] @ watched[i, j] + layer.bias.weight[0] @ watched[i, j] + layer.bias.bias[0]
            total += max(float(related), 0.0) * watched[i, j]
        torch.testing.assert_close(found[i], total / max(n, 1) ** 0.5, rtol=1e-4, atol=1e-5)
    assert found[0].any()
    assert not found[2].any()


def test_pooled_attention_is_a_softmax_over_the_watches_of_each_head():
    layer, query, watched = PooledAttention(query=5, dimension=4, heads=2), torch.randn(3, 5), history(4)
    found = layer(query, watched, MASK)
    q, keys = layer.query(query), layer.key(watched)
    for i in range(3):
        n, heads = int(MASK[i].sum()), []
        for part in (slice(0, 2), slice(2, 4)):
            logits = [math.exp(float(q[i, part] @ keys[i, j, part]) / math.sqrt(2)) for j in range(n)]
            heads.append(sum((w / sum(logits) * watched[i, j, part] for j, w in enumerate(logits)), torch.zeros(2)))
        torch.testing.assert_close(found[i], layer.out(torch.cat(heads)), rtol=1e-4, atol=1e-5)


def test_content_affinity_is_the_mean_cosine_plain_and_weighted():
    unit = torch.nn.functional.normalize(torch.randn(4, 3), dim=-1)
    candidate = torch.cat([unit[:1], torch.ones(1, 1)], dim=-1).expand(3, -1)
    vectors = torch.cat([unit[1:], torch.ones(3, 1)], dim=-1).expand(
        3, 3, 4
    )  # places that hold nothing too: the mask must tell
    values = torch.rand(3, 3, 2)
    found = ContentAffinity()(candidate, vectors, values, MASK)
    for i in range(3):
        n = int(MASK[i].sum())
        cosine = [float(unit[0] @ unit[1 + j]) for j in range(n)]
        wanted = [sum(cosine), *(sum(c * float(values[i, j, k]) for j, c in enumerate(cosine)) for k in range(2))]
        assert found[i].tolist() == pytest.approx([w / max(n, 1) for w in wanted], abs=1e-6)


def test_content_affinity_of_a_missing_vector_is_zero():
    nothing, there = torch.zeros(1, 4), torch.cat([torch.ones(1, 3), torch.ones(1, 1)], dim=-1)
    values, mask = torch.ones(1, 1, 2), torch.ones(1, 1)
    assert not ContentAffinity()(nothing, there[:, None], values, mask).any()
    assert not ContentAffinity()(there, nothing[:, None], values, mask).any()


def test_a_cross_layer_by_its_formula():
    layer, start = CrossNetwork(inputs=4, layers=2, rank=2), torch.randn(3, 4)
    x = start
    for down, up in zip(layer.down, layer.up, strict=True):
        x = start * ((up.weight @ down.weight @ x.T).T + up.bias) + x
    torch.testing.assert_close(layer(start), x, rtol=1e-5, atol=1e-6)


def test_features_of_one_table_do_not_share_rows():
    layer = CodeEmbeddings(sizes=(3, 2), dimension=4)
    weights = layer.table.weight
    assert layer.width == 8
    assert torch.equal(layer(torch.tensor([[2, 1]], dtype=torch.int32)), torch.cat([weights[2], weights[4]]).unsqueeze(0))
    assert layer(torch.zeros(2, 5, 2, dtype=torch.int32)).shape == (2, 5, 8)


def test_no_feature_is_no_width():
    layer = CodeEmbeddings(sizes=(), dimension=4)
    assert layer(torch.zeros(3, 0, dtype=torch.int32)).shape == (3, 0)


def test_tags_are_averaged_and_padding_does_not_count():
    layer = TagEmbeddings(size=5, dimension=3)
    codes = torch.tensor([[4, 2, 0], [2, 4, 0], [0, 0, 0]], dtype=torch.int32)
    found = layer(codes)
    torch.testing.assert_close(found[0], (layer.table.weight[4] + layer.table.weight[2]) / 2)
    torch.testing.assert_close(found[0], found[1])
    assert not found[2].any()
    torch.testing.assert_close(layer(codes[:, :2]), found)
