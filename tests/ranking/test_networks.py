"""What single ranking networks promise beyond the contract that all share."""

import numpy as np
import torch

from watchnext.ranking.dcn import DCN
from watchnext.ranking.factorization import FactorizationMachine
from watchnext.ranking.linear import LogisticRegression
from watchnext.types import TARGETS

SMALL = {"targets": len(TARGETS), "embedding": 4, "attention": 6, "cross_layers": 2, "rank": 3, "hidden": (8,), "dropout": 0.0}


def test_logistic_regression_is_a_sum_of_weights(world_features):
    torch.manual_seed(0)
    sizes = world_features.pipeline.sizes
    network = LogisticRegression(sizes=sizes, targets=2)
    batch = world_features.batch(np.array([40, 900, 1700]))
    with torch.no_grad():
        found = network(batch)
        for i in range(3):
            total = network.values.bias.clone()
            query = network.query.codes
            for place, code in enumerate([*batch["user_codes"][i], *batch["context_codes"][i]]):
                total += query.table.weight[int(query.starts[place]) + int(code)]
            for place, code in enumerate(batch["video_codes"][i]):
                total += network.video.codes.table.weight[int(network.video.codes.starts[place]) + int(code)]
            tags = [int(tag) for tag in batch["video_tags"][i] if tag > 0]
            total += network.video.tags.table.weight[tags].mean(0) if tags else 0.0
            values = torch.cat(
                [batch[name][i] for name in ("user_values", "query_values", "video_values", "candidate_values", "video_vector")]
            )
            torch.testing.assert_close(found[i], total + network.values.weight @ values, rtol=1e-4, atol=1e-5)


def test_a_factorization_machine_is_a_sum_over_pairs(world_features):
    torch.manual_seed(0)
    sizes = world_features.pipeline.sizes
    network = FactorizationMachine(sizes=sizes, targets=2, dimension=3)
    batch = world_features.batch(np.array([40, 900, 1700]))
    names = ("user_values", "query_values", "video_values", "candidate_values", "video_vector")
    with torch.no_grad():
        network.heads.weight.normal_()
        found, linear = network(batch), network.weights(batch)
        for i in range(3):
            codes = torch.cat([batch["user_codes"][i], batch["context_codes"][i]])
            vectors = [*network.query.codes(codes).view(-1, 3), *network.video.codes(batch["video_codes"][i]).view(-1, 3)]
            vectors.append(network.video.tags(batch["video_tags"][i]))
            numbers = torch.cat([batch[name][i] for name in names])
            vectors += [vector * number for vector, number in zip(network.values, numbers, strict=True)]
            pairs = sum(a * b for place, a in enumerate(vectors) for b in vectors[place + 1 :])
            torch.testing.assert_close(found[i], linear[i] + network.heads(pairs), rtol=1e-3, atol=1e-4)


def test_dcn_reads_every_input(world_features):
    """Each input moves some score: none is fed and forgotten."""
    torch.manual_seed(0)
    network = DCN(sizes=world_features.pipeline.sizes, **SMALL).eval()
    rows = np.flatnonzero(world_features.columns["history_len"] > 0)[-64:]
    batch = world_features.batch(rows)
    with torch.no_grad():
        before = network(batch)
        for name in batch.keys() - {"targets", "user_rows", "video_rows"}:
            values = batch[name]
            turned = values.flip(0) if not torch.equal(values.flip(0), values) else 1 - values
            assert not torch.equal(network({**batch, name: turned}), before), name


def test_candidate_and_history_share_what_they_know_of_a_video(world_features):
    network = DCN(sizes=world_features.pipeline.sizes, **SMALL)
    assert network.history.videos is network.video
