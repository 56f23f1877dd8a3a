"""A student learns the logits of its teacher: on impressions, scored once, and on pairs that were never shown."""

from copy import deepcopy
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from tests.fake_device import ELSEWHERE, FakeDevice
from torch import nn

from watchnext.features.dataset.batches import CANDIDATE_INPUTS, FeatureSet
from watchnext.nn.training import NothingToLearnError, Training
from watchnext.nn.weights import save_network
from watchnext.ranking.heads import WATCH
from watchnext.ranking.models.linear import LogisticRegression
from watchnext.ranking.models.student import Standardised, Student
from watchnext.ranking.scoring import logits_of
from watchnext.ranking.training.distillation import TAUGHT, Distillation, DistilledModule, drawn_pairs
from watchnext.ranking.training.ranking_losses import MultiTask
from watchnext.ranking.training.ranking_module import RankingModule
from watchnext.schema import FeatureSchema, SchemaError
from watchnext.types import TARGETS

pytestmark = pytest.mark.usefixtures("one_thread")
LIKE = TARGETS.index("like")
SMALL = partial(Student, embedding=4, attention=8, viewer=16, hidden=(32, 16))
STEPS = {"learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 64, "monitor": "valid/auc_long_view"}


def teacher() -> dict:
    loss = MultiTask(weights={"click": 1.0, "long_view": 1.0, "watch_s": 0.2})
    return {"module": partial(RankingModule, network=partial(LogisticRegression), loss=loss, patience=2, **STEPS)}


def distilled(features: FeatureSet, **changed) -> DistilledModule:
    torch.manual_seed(0)
    settings = {"teacher": teacher(), "trained": None, "network": SMALL, "loss": Distillation(labels=0.0), "epochs": 6,
                "drawn": 0.5, **STEPS}  # fmt: skip
    return DistilledModule(features=features, **settings | changed)


def trainer(epochs: int) -> partial:
    quiet = {"enable_checkpointing": False, "enable_model_summary": False}
    return partial(pl.Trainer, accelerator="cpu", max_epochs=epochs, num_sanity_val_steps=0, **quiet)


def training(epochs: int = 8) -> Training:
    return Training(0, trainer(epochs))


class Counting(nn.Module):
    """A teacher that keeps how many rows it was asked to score."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.asked = network, []

    def forward(self, inputs):
        self.asked.append(len(inputs["video_codes"]))
        return self.network(inputs)


@pytest.fixture(scope="module")
def fitted(world_features) -> tuple[DistilledModule, dict[str, float]]:
    module = distilled(world_features)
    return module, module.fit(training())


def test_the_student_orders_held_out_rows_as_its_teacher_does(fitted, world_features):
    module, _ = fitted
    rows = world_features.rows("valid")
    taught, learned = (logits_of(world_features, each.eval(), rows) for each in (module.teacher.network, module.network))
    for column in (0, 1, WATCH):
        assert np.corrcoef(taught[:, column], learned[:, column])[0, 1] > 0.9


def test_both_report_their_figures_and_only_the_student_is_trained_as_such(fitted):
    module, figures = fitted
    assert {"teacher/valid/auc_long_view", "valid/auc_long_view", "teacher/best_epoch", "best_epoch"} <= figures.keys()
    assert figures["best_epoch"] == 5  # the last of six, not of the eight that the trainer allows
    assert {id(each) for each in module.parameters()} == {id(each) for each in module.network.parameters()}


def test_the_teacher_scores_an_impression_once_and_drawn_pairs_in_every_step(world_features):
    module, rows = distilled(world_features, epochs=2, drawn=0.25), world_features.rows("train")
    counting = Counting(module.teacher.network)
    module.learn_from(counting)
    assert sum(counting.asked) == len(rows)
    assert np.isfinite(module.features.columns[TAUGHT][rows]).all()
    counting.asked.clear()
    RankingModule.fit(module, training(2))
    batches = [min(64, len(rows) - start) for start in range(0, len(rows), 64)]
    assert counting.asked == 2 * [-(-size // 4) for size in batches]


def test_a_student_on_a_device_learns_from_a_teacher_on_the_processor(fitted):
    module, _ = fitted
    batch, found = next(iter(module.loader("train", seed=0))), []
    for device in ("cpu", ELSEWHERE):
        with FakeDevice():
            learner = deepcopy(module.network).to(device)
            placed = SimpleNamespace(
                network=learner, loss=module.loss, drawn=module.drawn, _taught_by=module._taught_by, device=device
            )
            torch.manual_seed(1)
            loss = DistilledModule.objective(placed, {name: values.to(device) for name, values in batch.items()})
            loss.backward()
            found.append([loss.item(), *(float(each.grad.cpu().square().sum()) for each in learner.parameters())])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_a_drawn_pair_is_one_viewer_and_one_candidate():
    rows = torch.arange(40)
    batch = dict.fromkeys(("user_codes", "history_values", *CANDIDATE_INPUTS), rows[:, None])
    pairs = drawn_pairs(batch, 0.3)
    viewers, candidates = pairs["user_codes"], pairs["video_codes"]
    assert len(viewers) == len(viewers.unique()) == len(candidates.unique()) == 12
    assert torch.equal(pairs["history_values"], viewers)
    assert all(torch.equal(pairs[name], candidates) for name in CANDIDATE_INPUTS)
    assert (viewers == candidates).sum() < 4


def test_the_loss_by_hand():
    logits, taught = torch.zeros(1, 4), torch.tensor([[0.0, 0.0, 0.0, 2.0]])
    targets = torch.tensor([[1.0, 1.0, 1.0, 99.0]])
    even = 3 * np.log(2.0) + 2.0**2  # the entropy of three even chances, and the squared error of the seconds' logit
    assert Distillation(labels=0.5)(logits, taught, targets).item() == pytest.approx(even)
    certain = torch.tensor([[30.0, 0.0, 0.0, 0.0]])
    missed = Distillation(labels=0.0)(-certain, certain, None).item()
    assert missed == pytest.approx(30.0 + 60.0**2 + 2 * np.log(2.0), rel=1e-5)
    half = Distillation(labels=0.5)(certain, certain, torch.zeros(1, 4)).item()  # half of the probability lies on the label
    assert half == pytest.approx(15.0 + 2 * np.log(2.0), rel=1e-5)


def test_a_target_without_signal_stays_what_the_teacher_says(world_features):
    module = distilled(world_features, epochs=1)
    with torch.no_grad():  # the loss of the teacher has no like, so it has learned nothing of it
        for table in (module.teacher.network.query.codes.table, module.teacher.network.video.codes.table):
            table.weight[:, LIKE] = 0.0
        module.teacher.network.video.tags.table.weight[:, LIKE] = 0.0
        module.teacher.network.values.weight[LIKE] = 0.0
        module.teacher.network.values.bias[LIKE] = -13.0
    module.learn_from(module.teacher.network)
    RankingModule.fit(module, training(1))
    found = logits_of(world_features, module.network.eval(), world_features.rows("valid"))
    np.testing.assert_allclose(found[:, LIKE], -13.0, rtol=1e-6)
    assert np.ptp(found[:, 0]) > 0.1


def test_a_teacher_from_a_folder_is_not_fitted_again(fitted, world_features, tmp_path):
    taught_by, schema = fitted[0].teacher, world_features.pipeline.schema
    save_network(tmp_path, taught_by.network, schema=schema, recipe=taught_by.recipe)
    module = distilled(world_features, trained=str(tmp_path), epochs=1)
    figures = module.fit(training(1))
    assert not [name for name in figures if name.startswith("teacher/")]
    rows = world_features.rows("train")
    assert np.array_equal(module.features.columns[TAUGHT][rows], logits_of(world_features, taught_by.network.eval(), rows))


def test_a_teacher_that_cannot_teach_is_named_with_the_command_that_trains_it(fitted, world_features, tmp_path):
    taught_by, schema = fitted[0].teacher, world_features.pipeline.schema
    save_network(tmp_path, taught_by.network, schema=FeatureSchema(schema.features[1:], schema.state), recipe=taught_by.recipe)
    with pytest.raises(SchemaError, match=rf"run `python train\.py model=ensemble out={tmp_path}`"):
        distilled(world_features, trained=str(tmp_path)).fit(training(1))
    with pytest.raises(FileNotFoundError, match=r"holds no trained network; run `python train\.py model=ensemble"):
        distilled(world_features, trained=str(tmp_path / "none")).fit(training(1))


@pytest.mark.parametrize("trained", [False, True])
def test_a_log_without_training_rows_teaches_nothing(fitted, world_features, tmp_path, trained):
    split = np.array(world_features.columns["split"])
    split[split == 0] = -1
    features = replace(world_features, columns={**world_features.columns, "split": split})
    taught_by = fitted[0].teacher
    save_network(tmp_path, taught_by.network, schema=world_features.pipeline.schema, recipe=taught_by.recipe)
    module = distilled(features, trained=str(tmp_path) if trained else None)
    with pytest.raises(NothingToLearnError, match=r"no train impressions; check data\.split"):
        module.fit(training(1))


@pytest.mark.parametrize("changed", [{"drawn": 1.5}, {"drawn": -0.1}])
def test_shares_outside_0_to_1_are_named(world_features, changed):
    with pytest.raises(ValueError, match=r"drawn is .*, expected 0 to 1"):
        distilled(world_features, **changed)
    with pytest.raises(ValueError, match=r"labels is 2\.0, expected 0 to 1"):
        Distillation(labels=2.0)


def test_logits_of_no_spread_are_constant():
    network = Standardised(sizes=None, targets=2, network=lambda sizes, targets: nn.Linear(3, targets))
    network.fit(torch.tensor([[1.0, 5.0], [3.0, 5.0]]))
    assert network.mean.tolist() == [2.0, 5.0]
    assert network.spread.tolist() == [1.0, 0.0]
    assert torch.equal(network(torch.randn(4, 3))[:, 1], torch.full((4,), 5.0))


def test_an_evaluated_fit_is_repeated_by_teacher_and_student(fitted, world_features):
    module, figures = fitted
    again = distilled(world_features)
    found = again.fit(replace(training(), evaluated=figures))
    assert found.items() <= figures.items()
    for one, two in ((module.network, again.network), (module.teacher.network, again.teacher.network)):
        pairs = zip(one.state_dict().items(), two.state_dict().values(), strict=True)
        assert [name for (name, first), second in pairs if not torch.equal(first, second)] == []
