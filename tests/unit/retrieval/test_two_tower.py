"""The history of the feature stage, latest first, through encoders that read oldest first; ids that are hidden; interests."""

import numpy as np
import pytest
import torch

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.attention import InterestAttention
from watchnext.nn.embeddings import IdDropout
from watchnext.nn.encoders import ENCODERS, encoder_of
from watchnext.nn.export import export_graph
from watchnext.retrieval.towers.matrix_factorization import MatrixFactorization
from watchnext.retrieval.towers.two_tower import InOrder, OneViewer, TwoTower
from watchnext.serving.release.compiled import CompiledNetwork

NONE = dict.fromkeys(("user_values", "query_values", "video_values", "candidate_values"), 0)
IDS = InputSizes(user_codes=(3, 7), context_codes=(), video_codes=(5,), tags=1, vector=1, user_id=1, **NONE)


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


def test_id_dropout_hides_the_id_alone_and_in_training_alone():
    torch.manual_seed(0)
    dropped, codes = IdDropout(column=1, probability=0.3), torch.randint(1, 9, (200, 50, 3))
    before = codes.clone()
    found = dropped(codes)
    hidden = found[..., 1] == 0
    assert float(hidden.float().mean()) == pytest.approx(0.3, abs=0.02)
    assert torch.equal(found[..., 1][~hidden], codes[..., 1][~hidden])
    assert torch.equal(found[..., [0, 2]], codes[..., [0, 2]])
    assert torch.equal(codes, before)
    assert torch.equal(dropped.eval()(codes), codes)
    assert torch.equal(IdDropout(column=None, probability=0.3)(codes), codes)
    with pytest.raises(ValueError, match=r"id dropout is 1\.0"):
        IdDropout(column=0, probability=1.0)


def test_interests_are_means_of_what_was_watched():
    """Weights of a place are at least 0 and sum to 1 over the watches, whatever stands behind them."""
    torch.manual_seed(0)
    attention = InterestAttention(dimension=4, interests=3)
    history, mask = torch.randn(2, 5, 4), torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    with torch.no_grad():
        found = attention(history * mask.unsqueeze(-1), mask) - attention.start
        logits = torch.tanh(attention.key(history[0, :2])) @ attention.weigh.weight.T
        torch.testing.assert_close(found[0], logits.softmax(0).T @ history[0, :2])
    assert not found[1].any()


def test_matrix_factorization_knows_the_two_ids_alone():
    torch.manual_seed(0)
    network = MatrixFactorization(sizes=IDS, dimension=4, id_dropout=0.5).eval()
    codes = torch.tensor([[1, 6], [2, 6], [1, 0]], dtype=torch.int32)
    with torch.no_grad():
        queries = network.query({"user_codes": codes})
        videos = network.video({"video_codes": torch.tensor([[0], [4]], dtype=torch.int32)})
    assert torch.equal(queries[0], queries[1])
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(queries[[0, 2]], unit(network.query.table.weight[[6, 0]], dim=-1).detach())
    torch.testing.assert_close(videos, unit(network.video.table.weight[[0, 4]], dim=-1).detach())
    with pytest.raises(ValueError, match="declare user_id and video_id"):
        MatrixFactorization(sizes=InputSizes(**{**vars(IDS), "user_id": None}), dimension=4, id_dropout=0.0)


def test_an_unknown_viewer_learns_from_those_whose_id_is_hidden():
    torch.manual_seed(0)
    network = MatrixFactorization(sizes=IDS, dimension=4, id_dropout=0.5)
    network.query({"user_codes": torch.full((50, 2), 2)}).sum().backward()
    learns = network.query.table.weight.grad.abs().sum(1) > 0
    assert learns.nonzero().squeeze(1).tolist() == [0, 2]


@pytest.mark.parametrize("encoder", ["attention", *ENCODERS])
def test_a_compiled_tower_gives_each_of_many_viewers_the_bits_of_one(encoder, tmp_path):
    torch.manual_seed(0)
    sizes = InputSizes(user_codes=(3, 7), context_codes=(), video_codes=(9,), tags=5, vector=4, **NONE)
    towers = TwoTower(
        sizes=sizes, embedding=4, hidden=(16,), dimension=8, heads=2, dropout=0.0, encoder=encoder, interests=2
    ).eval()
    viewers, watches = 33, 6
    inputs = {
        "user_codes": torch.randint(0, 3, (viewers, 2), dtype=torch.int32),
        "history_codes": torch.randint(0, 9, (viewers, watches, 1), dtype=torch.int32),
        "history_tags": torch.randint(0, 5, (viewers, watches, 2), dtype=torch.int32),
        "history_vector": torch.randn(viewers, watches, 4),
        "history_values": torch.rand(viewers, watches, 5),
        "history_mask": (torch.arange(watches) < torch.arange(viewers).unsqueeze(1) % (watches + 1)).float(),
    }
    export_graph(
        OneViewer(towers.query), {name: each[:1] for name, each in inputs.items()}, rows_vary=set(), path=tmp_path / "tower.xml"
    )
    tower, arrays = CompiledNetwork(tmp_path / "tower.xml", many=True), {name: each.numpy() for name, each in inputs.items()}
    together = tower(arrays)
    parts = [tower({name: each[i : i + 1] for name, each in arrays.items()}) for i in range(viewers)]
    np.testing.assert_array_equal(together, np.concatenate(parts))
    with torch.no_grad():
        np.testing.assert_allclose(together, OneViewer(towers.query)(inputs).numpy(), rtol=1e-4, atol=1e-5)
