"""A network keeps these promises, found through conf/model/*.yaml and the variants in docs/tutorial.md: a new one is tested by
being there."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from printed import variants
from watchnext.features.dataset.batches import NO_INPUTS
from watchnext.features.encode.encodings import InputSizes
from watchnext.metrics import auc
from watchnext.nn.export import export_graph
from watchnext.nn.weights import build_network, load_network
from watchnext.ranking.heads import WATCH, Scorer, predictions
from watchnext.ranking.models.ensemble import EnsembleModule
from watchnext.ranking.models.trees.boosted import BoostedModule
from watchnext.ranking.models.trees.forest import INPUT
from watchnext.ranking.models.trees.tree_network import forest_of
from watchnext.ranking.training.distillation import TAUGHT, DistilledModule
from watchnext.ranking.training.ranking_losses import MultiTask
from watchnext.ranking.training.ranking_module import RankingModule
from watchnext.ranking.watch_time.head import WatchTime
from watchnext.retrieval.towers.content import ContentModule
from watchnext.retrieval.towers.negatives import NegativeSample
from watchnext.retrieval.towers.retrieval_module import RetrievalModule, nearest_interest
from watchnext.retrieval.towers.two_tower import OneViewer
from watchnext.schema import FeatureSchema, SchemaError
from watchnext.serving.release.compiled import CompiledNetwork, CompiledRanker
from watchnext.types import TARGETS

FORMS = re.compile(r"\.network\.|\.hide=")  # overrides that change a network
CONF = Path(__file__).resolve().parents[2] / "conf"
OF_VIDEO = ("video_", "candidate_")
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
# No context, no values, no content vector, no tags: what the smallest declaration leaves of the inputs.
NONE = dict.fromkeys(("user_values", "query_values", "video_values", "candidate_values"), 0)
BARE = InputSizes(user_codes=(4,), context_codes=(), video_codes=(5,), tags=1, vector=1, **NONE)


pytestmark = pytest.mark.usefixtures("one_thread")


def forms() -> dict[str, list[str]]:
    """Name > overrides of every preset, and of every printed variant that changes a network."""
    presets = {path.stem: [f"model={path.stem}"] for path in sorted((CONF / "model").glob("*.yaml"))}
    return presets | {" ".join(words): words for words in variants() if FORMS.search(" ".join(words))}


def of_kind(kind: type) -> list:
    """Overrides of the models of a kind, read from their presets: composing them all would delay every worker."""
    presets = {path.stem: yaml.safe_load(path.read_text()) for path in (CONF / "model").glob("*.yaml")}
    target = f"{kind.__module__}.{kind.__qualname__}"
    chosen = {name: words for name, words in forms().items() if target == presets[words[0][6:]]["module"]["_target_"]}
    return [pytest.param(words, id=name) for name, words in chosen.items()]


def configured(words: list[str], features):
    """The module that the overrides configure."""
    with initialize_config_dir(config_dir=str(CONF), version_base=None):
        return instantiate(compose("config", words).model.module)(features=features)


def inputs_of(features, rows) -> dict[str, torch.Tensor]:
    batch = features.batch(np.asarray(rows))
    return {name: values for name, values in batch.items() if name not in NO_INPUTS}


def taken(inputs, rows, only=("",)) -> dict[str, torch.Tensor]:
    """The same inputs with other rows, in those whose name starts with one of `only`."""
    return {name: values[rows] if name.startswith(only) else values for name, values in inputs.items()}


def shared_viewer(inputs) -> dict[str, torch.Tensor]:
    """The first row's viewer, once, for all candidates."""
    return {name: values if name.startswith(OF_VIDEO) else values[:1] for name, values in inputs.items()}


def with_places(inputs, places: int, fill: bool = False) -> dict[str, torch.Tensor]:
    """History of `places` places; what lies behind the last watch is zeros, or noise where `fill`."""
    found = dict(inputs)
    for name, values in inputs.items():
        if name.startswith("history_"):
            empty = values.new_zeros(len(values), max(places - values.shape[1], 0), *values.shape[2:])
            found[name] = torch.cat([values[:, :places], empty], dim=1)
            if fill and name != "history_mask":
                hidden = found_mask(inputs, places).view(len(values), places, *[1] * (values.dim() - 2)) < 0.5
                found[name] = torch.where(hidden, torch.ones_like(found[name]), found[name])
    return found


def found_mask(inputs, places: int) -> torch.Tensor:
    mask = inputs["history_mask"]
    return torch.cat([mask[:, :places], mask.new_zeros(len(mask), max(places - mask.shape[1], 0))], dim=1)


def bare_inputs(rows: int) -> dict[str, torch.Tensor]:
    """Inputs of BARE as an exported graph gets them: empty ones left out."""
    codes = {"user_codes": 1, "video_codes": 1, "video_tags": 2}
    inputs = {name: torch.zeros(rows, width, dtype=torch.int32) for name, width in codes.items()}
    history = {"codes": torch.zeros(rows, 3, 1, dtype=torch.int32), "tags": torch.zeros(rows, 3, 2, dtype=torch.int32),
               "vector": torch.zeros(rows, 3, 1), "values": torch.rand(rows, 3, 5), "mask": torch.ones(rows, 3)}  # fmt: skip
    inputs |= {"video_vector": torch.zeros(rows, 1), "video_duration_s": torch.zeros(rows, 1)}
    return inputs | {f"history_{name}": values for name, values in history.items()}


def mixed_rows(features) -> np.ndarray:
    """32 training rows, half of them watched long, some without and some with a long history."""
    train = features.rows("train")
    long_view = features.columns["targets"][train, TARGETS.index("long_view")] > 0
    random = np.random.default_rng(0)
    return np.sort(np.concatenate([random.choice(train[long_view], 16, False), random.choice(train[~long_view], 16, False)]))


def fitted(module, loss_of, met, *, steps: int) -> list[float]:
    """Losses without dropout, before and after Adam with it: at most `steps`, and no more once `met`, asked every 25."""
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    before = evaluated(module, loss_of)
    for _ in range(steps // 25):
        module.train()
        for _ in range(25):
            optimizer.zero_grad()
            loss_of().backward()
            optimizer.step()
        after = evaluated(module, loss_of)
        if after < 0.1 * before and met():
            break
    return [before, after]


@torch.no_grad()
def evaluated(module, loss_of) -> float:
    module.eval()
    return loss_of().item()


# ---- ranking ---------------------------------------------------------------------------------------------------------


LOSS = MultiTask(weights={"click": 0.5, "long_view": 1.0, "like": 0.5, "watch_s": 0.2})
RANKERS = [words for kind in (RankingModule, BoostedModule, EnsembleModule, DistilledModule) for words in of_kind(kind)]


def overfitted(module, features, rows) -> None:
    """Fit a model of any kind to `rows`, as far as it goes."""
    if isinstance(module, EnsembleModule):
        for member in module.members.values():
            overfitted(member, features, rows)
        module.weigh(rows)
    elif isinstance(module, BoostedModule):
        module.parameters |= {"min_child_weight": 0.0, "lambda": 0.0, "subsample": 1.0, "eta": 0.3}
        module.boost(rows, rows, seed=0)
    else:
        inputs, targets = inputs_of(features, rows), torch.from_numpy(features.columns["targets"][rows])
        batch = inputs | {"targets": targets, "groups": torch.zeros(len(rows))}
        if isinstance(module, DistilledModule):
            overfitted(module.teacher, features, rows)
            module.learn_from(module.teacher.network)
            batch[TAUGHT] = torch.no_grad()(module.teacher.network)(inputs)
        with torch.no_grad():
            enough = 0.1 * LOSS(module.network.eval()(inputs), targets)

        @torch.no_grad()
        def met() -> bool:
            scores = module.network(inputs)
            return LOSS(scores, targets) < enough and not missed(predictions(scores).numpy(), targets.numpy())

        fitted(module, lambda: module.objective(batch), met, steps=250)


def missed(found: np.ndarray, targets: np.ndarray) -> list[str]:
    """Labels that the predictions do not have in order, and watch times that they are far from."""
    mixed = [place for place in range(len(TARGETS)) if place != WATCH and 0 < targets[:, place].sum() < len(targets)]
    out_of_order = [TARGETS[place] for place in mixed if auc(targets[:, place], found[:, place]) < 1.0]
    far = np.abs(np.log1p(found[:, WATCH]) - np.log1p(targets[:, WATCH])).mean() >= 0.5
    return out_of_order + [TARGETS[WATCH]] * bool(far)


@pytest.fixture(scope="module", params=RANKERS)
def ranking(request, world_features):
    """A module overfitted to 32 rows, their inputs, and its losses before and after."""
    torch.manual_seed(0)
    module = configured(request.param, world_features)
    rows = mixed_rows(world_features)
    inputs, targets = inputs_of(world_features, rows), torch.from_numpy(world_features.columns["targets"][rows])
    losses = []
    for phase in (0, 1):
        if phase:
            overfitted(module, world_features, rows)
        with torch.no_grad():
            losses.append(LOSS(module.network.eval()(inputs), targets).item())
    return module, inputs, targets, losses


@pytest.fixture(scope="module")
def scores(ranking):
    """inputs > logits of the overfitted network, without gradients."""
    return torch.no_grad()(ranking[0].network)


def test_a_ranker_overfits_32_rows(ranking, scores):
    _, inputs, targets, (before, after) = ranking
    assert after < 0.1 * before
    assert not missed(predictions(scores(inputs)).numpy(), targets.numpy())


def test_a_saved_ranker_keeps_its_scores(ranking, scores, world_features, tmp_path):
    module, inputs, _, _ = ranking
    module.save(tmp_path)
    schema = world_features.pipeline.schema
    again = load_network(tmp_path, schema=schema, repair="python train.py")
    with torch.no_grad():
        assert torch.equal(again(inputs), scores(inputs))
    other = FeatureSchema(schema.features[1:], schema.state)
    with pytest.raises(SchemaError, match=r"run `python train\.py`"):
        load_network(tmp_path, schema=other, repair="python train.py")
    with pytest.raises(FileNotFoundError, match=r"holds no trained network; run `python train\.py`"):
        load_network(tmp_path / "none", schema=schema, repair="python train.py")


def test_a_batch_is_its_rows_one_by_one(ranking, scores):
    inputs = ranking[1]
    single = torch.cat([scores(taken(inputs, slice(i, i + 1))) for i in range(32)])
    torch.testing.assert_close(scores(inputs), single, rtol=1e-5, atol=1e-5)


def test_the_order_of_candidates_changes_nothing_else(ranking, scores):
    inputs, order = shared_viewer(ranking[1]), torch.randperm(32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(scores(taken(inputs, order, OF_VIDEO)), scores(inputs)[order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fill", [False, True])
def test_empty_places_of_the_history_change_nothing(ranking, scores, fill):
    inputs = ranking[1]
    places = inputs["history_mask"].shape[1]
    counts = inputs["history_mask"].sum(1)
    assert counts.min() < places
    torch.testing.assert_close(scores(with_places(inputs, places + 7, fill)), scores(inputs), rtol=1e-5, atol=1e-5)
    short = taken(inputs, counts < places)
    watched = int(counts[counts < places].max())
    torch.testing.assert_close(scores(with_places(short, watched)), scores(short), rtol=1e-5, atol=1e-5)


def test_one_viewer_row_stands_for_all_candidates(ranking, scores):
    shared = shared_viewer(ranking[1])
    repeated = {name: values.expand(32, *values.shape[1:]) for name, values in shared.items()}
    torch.testing.assert_close(scores(shared), scores(repeated), rtol=1e-5, atol=1e-5)


def exported(ranking, path: Path) -> None:
    module, inputs, _, _ = ranking
    example = shared_viewer(taken(inputs, slice(0, 3)))
    example |= {INPUT: torch.zeros(3, len(TARGETS))} if forest_of(module.network) else {}
    of_video = {name for name in inputs if name.startswith(OF_VIDEO)}
    export_graph(Scorer(module.network), example, rows_vary={*of_video, INPUT}, path=path)


@pytest.fixture(scope="module")
def served(ranking, tmp_path_factory):
    """The exported network and its trees: inputs of one viewer and any number of candidates > predictions."""
    path = tmp_path_factory.mktemp("exported") / "ranker.xml"
    exported(ranking, path)
    return CompiledRanker(CompiledNetwork(path), forest_of(ranking[0].network)), path


def test_the_exported_ranker_scores_as_torch_does(ranking, served):
    """Any number of candidates of one viewer, whoever it is."""
    scorer = torch.no_grad()(Scorer(ranking[0].network))
    for start, candidates in ((0, 1), (5, 3), (2, 30)):
        some = shared_viewer(taken(ranking[1], slice(start, start + candidates)))
        found = served[0]({name: values.numpy() for name, values in some.items()})
        np.testing.assert_allclose(found, scorer(some).numpy(), **CLOSE)


def test_an_exported_score_does_not_hang_on_the_other_candidates(ranking, served):
    whole = shared_viewer(ranking[1])
    scores = served[0]({name: values.numpy() for name, values in whole.items()})
    for some in ([3], [20, 4, 9], list(range(31, 0, -2)), [7] * 500):
        found = served[0]({name: values.numpy() for name, values in taken(whole, some, OF_VIDEO).items()})
        np.testing.assert_allclose(found, scores[some], rtol=1e-5, atol=1e-6)


def test_the_same_weights_give_the_same_bytes(ranking, served, tmp_path):
    """The ensemble, which has networks of every kind, tells it for all."""
    if not isinstance(ranking[0], EnsembleModule):
        return
    exported(ranking, tmp_path / "again.xml")
    for ending in (".xml", ".bin"):
        assert (tmp_path / "again.xml").with_suffix(ending).read_bytes() == served[1].with_suffix(ending).read_bytes()


def test_a_ranker_does_without_optional_features(ranking):
    network = build_network({**ranking[0].recipe, "sizes": vars(BARE)}).eval()
    fitted, fresh = ([each for each in of.modules() if isinstance(each, WatchTime)] for of in (ranking[0].network, network))
    for theirs, mine in zip(fitted, fresh, strict=True):  # what a head read of training rows knows no features
        mine.load_arrays(theirs.arrays())
    with torch.no_grad():
        found = network(bare_inputs(6))
    assert found.shape == (6, len(TARGETS))
    assert found.isfinite().all()


# ---- retrieval -------------------------------------------------------------------------------------------------------


def interests_of(queries: torch.Tensor) -> torch.Tensor:
    """(B, D) or (B, K, D) > (B, K, D)."""
    return queries.reshape(len(queries), -1, queries.shape[-1])


@pytest.fixture(scope="module", params=of_kind(RetrievalModule) + of_kind(ContentModule))
def retrieval(request, world_features):
    """A module overfitted to 32 pairs of different viewers and videos, their inputs, and its losses before and after; content
    has nothing to fit."""
    torch.manual_seed(0)
    module = configured(request.param, world_features)
    rows, users, videos = [], set(), set()
    for row in world_features.rows("train")[::-1]:
        user, video = int(world_features.columns["user_rows"][row]), int(world_features.columns["video_rows"][row])
        if user not in users and video not in videos and len(rows) < 32:
            rows, users, videos = [*rows, row], users | {user}, videos | {video}
    inputs = inputs_of(world_features, np.sort(rows))
    if isinstance(module, ContentModule):
        return module, inputs, None
    places = torch.arange(32)  # each pair's video is told from those of the other pairs
    drawn = NegativeSample(places, torch.zeros(32), 32)

    def loss():
        pool = module.network.video(inputs)
        queries = nearest_interest(module.network.query(inputs), pool)
        return module.loss(queries, pool, pool, drawn=drawn, masked=(places, places))

    return module, inputs, fitted(module, loss, lambda: (own(module, inputs) == places).all(), steps=150)


@torch.no_grad()
def own(module, inputs) -> torch.Tensor:
    """(B,) the pair whose video is the nearest to each pair's viewer."""
    scores = interests_of(module.network.query(inputs)) @ module.network.video(inputs).T
    return scores.amax(1).argmax(1)


@pytest.fixture(scope="module", params=["query", "video"])
def tower(request, retrieval):
    """inputs > vectors of one tower, without gradients."""
    return torch.no_grad()(getattr(retrieval[0].network, request.param))


def test_towers_overfit_32_pairs(retrieval):
    module, inputs, losses = retrieval
    if losses is None:
        assert not list(module.network.parameters())
        return
    before, after = losses
    assert after < 0.1 * before
    assert (own(module, inputs) == torch.arange(32)).all()


def test_towers_give_unit_vectors_row_by_row(retrieval, tower, request):
    vectors = tower(retrieval[1])
    wanted = torch.ones(vectors.shape[:-1])
    if isinstance(retrieval[0], ContentModule) and request.node.callspec.params["tower"] == "query":
        wanted = retrieval[1]["history_mask"].amax(1)  # who watched nothing looks for nothing
        assert 0 < wanted.sum() < 32
    torch.testing.assert_close(vectors.norm(dim=-1), wanted)
    single = torch.cat([tower(taken(retrieval[1], slice(i, i + 1))) for i in range(32)])
    torch.testing.assert_close(vectors, single, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fill", [False, True])
def test_empty_places_of_the_history_move_no_query(retrieval, fill):
    module, inputs, _ = retrieval
    query, counts = torch.no_grad()(module.network.query), inputs["history_mask"].sum(1)
    longer = with_places(inputs, inputs["history_mask"].shape[1] + 7, fill)
    torch.testing.assert_close(query(longer), query(inputs), rtol=1e-5, atol=1e-5)
    short = taken(inputs, counts < 5)
    torch.testing.assert_close(query(with_places(short, 5)), query(short), rtol=1e-5, atol=1e-5)


def test_saved_towers_keep_their_vectors(retrieval, world_features, tmp_path):
    module, inputs, _ = retrieval
    module.save(tmp_path)
    again = load_network(tmp_path, schema=world_features.pipeline.schema, repair="python train.py")
    with torch.no_grad():
        assert torch.equal(again.query(inputs), module.network.query(inputs))
        assert torch.equal(again.video(inputs), module.network.video(inputs))
    videos = np.load(tmp_path / "embeddings.npy")
    assert videos.shape == (len(world_features.catalogue), np.load(tmp_path / "queries.npy").shape[1])


def test_catalogue_vectors_are_those_of_the_batches(retrieval, world_features):
    module = retrieval[0]
    rows = np.arange(0, 40)
    videos = world_features.columns["video_rows"][rows]
    with torch.no_grad():
        found = module.network.video(inputs_of(world_features, rows)).numpy()
    np.testing.assert_allclose(module.embeddings(chunk=64)[videos], found, rtol=1e-5, atol=1e-5)


def test_exported_towers_answer_as_torch_does(retrieval, tower, tmp_path, request):
    inputs = retrieval[1]
    is_query = request.node.callspec.params["tower"] == "query"
    mine = {name: values for name, values in inputs.items() if name.startswith(OF_VIDEO) != is_query}
    vary = set() if is_query else set(mine)
    network = getattr(retrieval[0].network, request.node.callspec.params["tower"])
    network = OneViewer(network) if is_query else network
    export_graph(network, taken(mine, slice(0, 1 if is_query else 3)), rows_vary=vary, path=tmp_path / "tower.xml")
    graph = CompiledNetwork(tmp_path / "tower.xml")
    for rows in (slice(4, 5), slice(9, 10)) if is_query else (slice(0, 1), slice(3, 32)):
        some = taken(mine, rows)
        np.testing.assert_allclose(
            graph({name: values.numpy() for name, values in some.items()}), torch.no_grad()(network)(some).numpy(), **CLOSE
        )


def test_towers_do_without_optional_features(retrieval):
    network, inputs = build_network({**retrieval[0].recipe, "sizes": vars(BARE)}).eval(), bare_inputs(4)
    with torch.no_grad():
        assert network.query(inputs).shape[-1] == network.video(inputs).shape[-1]


def test_a_viewer_without_a_history_or_an_id_has_an_answer(retrieval):
    """So it is served: the unknown row of the user table, no watch."""
    inputs = {name: torch.zeros_like(values) if name.startswith(("history_", "user_")) else values
              for name, values in retrieval[1].items()}  # fmt: skip
    with torch.no_grad():
        vectors = interests_of(retrieval[0].network.query(inputs))
    length = 0.0 if isinstance(retrieval[0], ContentModule) else 1.0  # content has no direction for somebody unknown
    torch.testing.assert_close(vectors.norm(dim=-1), torch.full(vectors.shape[:-1], length))
