"""Promises of single ranking networks, beyond the contract that all share."""

import json
from functools import partial

import numpy as np
import pytest
import torch

from watchnext.features.dataset.batches import NO_INPUTS
from watchnext.nn.embeddings import VideoFeatures
from watchnext.nn.weights import build_network, recipe_of
from watchnext.ranking.heads import WATCH
from watchnext.ranking.models.dcn import DCN
from watchnext.ranking.models.din import DIN
from watchnext.ranking.models.factorization import FactorizationMachine
from watchnext.ranking.models.linear import LogisticRegression
from watchnext.ranking.models.multi_task import PLE, MMoE, SharedBottom
from watchnext.ranking.models.transformer import BehaviourTransformer
from watchnext.types import TARGETS

PARTS = {"interest": partial(DIN), "tasks": partial(SharedBottom)}
SMALL = {"targets": len(TARGETS), "embedding": 4, "attention": 6, "cross_layers": 2, "rank": 3, "hidden": (8,), "dropout": 0.0}
COMPOSED = {
    "din": PARTS,
    "nothing": PARTS | {"interest": None},
    "transformer": PARTS | {"interest": partial(BehaviourTransformer, heads=2, blocks=2, dropout=0.0)},
    "mmoe": PARTS | {"tasks": partial(MMoE, experts=3)},
    "ple": PARTS | {"tasks": partial(PLE, shared=2, own=1), "hidden": (8, 4)},
}


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


@pytest.mark.parametrize("parts", COMPOSED.values(), ids=COMPOSED)
def test_dcn_reads_every_input(world_features, parts):
    """Each input moves some score: none is fed and forgotten."""
    torch.manual_seed(0)
    network = DCN(sizes=world_features.pipeline.sizes, **SMALL | parts).eval()
    rows = np.flatnonzero(world_features.columns["history_len"] > 0)[-64:]
    batch = world_features.batch(rows)
    with torch.no_grad():
        before = network(batch)
        unread = set() if parts["interest"] else {"history_codes", "history_tags"}  # the affinity reads vectors alone
        for name in batch.keys() - {*NO_INPUTS, "video_duration_s"} - unread:
            values = batch[name]
            turned = values.flip(0) if not torch.equal(values.flip(0), values) else 1 - values
            assert not torch.equal(network({**batch, name: turned}), before), name


def test_candidate_and_history_share_what_they_know_of_a_video(world_features):
    network = DCN(sizes=world_features.pipeline.sizes, **SMALL, **PARTS)
    assert network.interest.history.videos is network.video


@pytest.mark.parametrize("parts", COMPOSED.values(), ids=COMPOSED)
def test_a_composed_network_is_rebuilt_from_json(world_features, parts):
    """With the columns of a watch-time head, which are one task."""
    torch.manual_seed(0)
    whole = partial(DCN, **SMALL | parts | {"targets": WATCH + 5})
    recipe = recipe_of(whole, world_features.pipeline.sizes)
    network, batch = build_network(json.loads(json.dumps(recipe))).eval(), world_features.batch(np.array([40, 900, 1700]))
    again = whole(sizes=world_features.pipeline.sizes).eval()
    again.load_state_dict(network.state_dict())
    with torch.no_grad():
        assert network(batch).shape == (3, WATCH + 5)
        assert torch.equal(network(batch), again(batch))


def test_a_transformer_is_attention_over_history_and_candidate(world_features):
    """One block against a slow reading of it: every candidate with its watches and itself as one sequence."""
    torch.manual_seed(0)
    sizes, dimension = world_features.pipeline.sizes, 6
    videos = VideoFeatures(sizes=sizes, dimension=4)
    network = BehaviourTransformer(sizes=sizes, videos=videos, dimension=dimension, heads=2, blocks=1, dropout=0.0).eval()
    rows = np.flatnonzero(world_features.columns["history_len"] > 2)[[5, 60, 200]]
    batch, block = world_features.batch(rows), network.blocks[0]
    with torch.no_grad():
        video = videos(batch["video_codes"], batch["video_tags"], batch["video_vector"])
        found, watched, own = network(video, batch), network.history(batch), network.candidate(video)
        for i in range(3):
            count = int(batch["history_mask"][i].sum())
            states = block.before_attention(torch.cat([watched[i, :count], own[i : i + 1]]))
            q, k, v = block.query(states[-1]), block.key(states), block.value(states)
            heads = [slice(0, 3), slice(3, 6)]
            mixed = [(k[:, head] @ q[head] / 3**0.5).softmax(0) @ v[:, head] for head in heads]
            state = own[i] + block.out(torch.cat(mixed))
            state = state + block.deep(block.before_deep(state))
            torch.testing.assert_close(found[i], network.norm(state), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="5 heads do not divide the dimension 6"):
        BehaviourTransformer(sizes=sizes, videos=videos, dimension=dimension, heads=5, blocks=1, dropout=0.0)


def test_mixtures_of_experts_by_hand():
    """Gates that see the features and mix, level by level, what each task may see."""
    torch.manual_seed(0)
    common = {"inputs": 5, "crossed": 3, "targets": 6, "dropout": 0.0}
    features, crosses = torch.randn(4, 5), torch.randn(4, 3)
    with torch.no_grad():
        mmoe = MMoE(**common, hidden=(7,), experts=3)
        found = mmoe(features, crosses)
        outputs = [expert(features) for expert in mmoe.experts]
        for task, columns in enumerate(([0], [1], [2], [3, 4, 5])):
            weights = mmoe.gates[task].weigh(features).softmax(-1)
            state = sum(weights[:, place, None] * output for place, output in enumerate(outputs))
            expected = mmoe.heads.of_tasks[task](torch.cat([crosses, state], dim=-1))
            torch.testing.assert_close(found[:, columns], expected)
        ple = PLE(**common, hidden=(7, 2), shared=2, own=1)
        found, states = ple(features, crosses), [features] * 5
        for level in ple.levels:
            every = [[expert(state) for expert in experts] for experts, state in zip(level.experts, states, strict=True)]
            seen = [[*own, *every[4]] for own in every[:4]] + [[output for own in every for output in own]]
            states = [
                sum(weight[:, None] * output for weight, output in zip(gate.weigh(state).softmax(-1).T, outputs, strict=True))
                for gate, state, outputs in zip(level.gates, states, seen, strict=False)
            ]
        expected = [head(torch.cat([crosses, state], dim=-1)) for head, state in zip(ple.heads.of_tasks, states, strict=True)]
        torch.testing.assert_close(found, torch.cat(expected, dim=-1))
        assert len(ple.levels[0].gates) == 5
        assert len(ple.levels[1].gates) == 4
