"""`python train.py` as people run it: real processes in a folder of their own, with tiny features."""

import contextlib
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.models import Model

from programs import Program
from watchnext.nn.weights import load_network
from watchnext.schema import FeatureSchema, SchemaError

ROOT = Path(__file__).resolve().parents[2]
TRAIN = str(ROOT / "train.py")
# Several command lines in one process, so that its imports are paid once; prints the exit code or last words of each.
SEVERAL = """
import json, runpy, sys
path, commands = sys.argv[1], json.loads(sys.argv[2])
for words in commands:
    sys.argv = [path, *words]
    code = 0
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code
    print("\\nEXIT " + json.dumps(code), flush=True)
"""
ONE_EPOCH = ["trainer.max_epochs=1"]
FEW_TREES = "model.module.teacher.module.members.trees.module.rounds=3"


CUT = ("two_tower", "dcn")
SIX_EPOCHS = ["trainer.max_epochs=6", "model.module.patience=100"]


def environment() -> dict[str, str]:
    return {**os.environ, "MLFLOW_TRACKING_URI": ""}


def started(folder: Path, *words: str) -> Program:
    return Program(*words, folder=folder, environment=environment())


def exits(folder: Path, *commands: list[str]) -> tuple[list[int | str], str]:
    """Exit codes of each `python train.py ...`, run one after another in one process, and their stderr."""
    process = started(folder, "-c", SEVERAL, TRAIN, json.dumps(commands))
    out, errors = process.communicate(timeout=480)
    found = [json.loads(line[5:]) for line in out.splitlines() if line.startswith("EXIT ")]
    assert len(found) == len(commands), errors
    return found, errors


def statuses(folder: Path) -> list[tuple[str, str]]:
    """Name and status of every tracked run, sorted."""
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as store:
        return sorted(store.execute("select name, status from runs"))


def test_training_writes_a_network_and_a_finished_run_and_says_what_is_wrong(place, world_schema):
    """Seven command lines in one process: two equal trainings, two other models, and three mistakes."""
    (first, again, towers, student, *mistakes), errors = exits(
        place,
        ["model=dcn", "out=first", *ONE_EPOCH],
        ["model=dcn", "out=again", *ONE_EPOCH],
        ["model=two_tower", "out=towers", "data=world", "data.outputs=outputs", "metrics=figures/towers.json", *ONE_EPOCH],
        ["model=ranker", "out=student", FEW_TREES, *ONE_EPOCH],
        ["trainer.max_epoch=1"],
        ["model=rankr"],
        ["data.outputs=elsewhere"],
    )
    assert [first, again, towers, student] == [0, 0, 0, 0], errors

    plots = [f"reliability_{name}.png" for name in ("click", "like", "long_view")]
    expected = ["calibration", "metrics.json", "model.json", "reliability.json", *plots, "weights.safetensors"]
    assert sorted(path.name for path in (place / "first").iterdir()) == expected
    metrics = json.loads((place / "first/metrics.json").read_text())
    assert {"test/auc_long_view", "valid/auc_long_view", "test/mae_watch_s", "best_epoch"} <= metrics.keys()
    assert {"test/ece_long_view", "uncalibrated/ece_long_view"} <= metrics.keys()
    assert "calibration" not in {path.name for path in (place / "towers").iterdir()}
    for name in ("metrics.json", "weights.safetensors", "calibration/watch_s/values.npy", "reliability_click.png"):
        assert (place / "first" / name).read_bytes() == (place / "again" / name).read_bytes()
    assert {"embeddings.npy", "queries.npy"} <= {path.name for path in (place / "towers").iterdir()}
    assert json.loads((place / "figures/towers.json").read_text()) == json.loads((place / "towers/metrics.json").read_text())
    figures = json.loads((place / "student/metrics.json").read_text())
    assert {"teacher/weight/trees/long_view", "teacher/test/gauc_long_view", "test/gauc_long_view"} <= figures.keys()
    names = ("dcn", "dcn", "ranker", "two_tower")
    assert statuses(place) == [(name, "FINISHED") for name in names]
    assert len(list((place / "mlruns").glob("*/artifacts/model/weights.safetensors"))) == 4

    assert "unknown key 'trainer.max_epoch'; did you mean trainer.max_epochs?" in mistakes[0]
    assert "ranker" in mistakes[1]
    assert "two_tower" in mistakes[1]
    assert mistakes[2].startswith("FileNotFoundError: elsewhere/features")
    assert "run `dvc repro features`" in mistakes[2]

    assert load_network(place / "first", schema=world_schema, repair="dvc repro ranker")
    with pytest.raises(SchemaError, match=r"first was built under the feature schema .*; run `dvc repro ranker`"):
        load_network(
            place / "first", schema=FeatureSchema(world_schema.features[:-1], world_schema.state), repair="dvc repro ranker"
        )


def test_a_sweep_is_one_run_with_its_trainings_below_and_each_has_curves_and_a_signature(place):
    """`python train.py -m`: two seeds of towers, and a ranker, which MLflow keeps in another experiment."""
    sweep = ["-m", "model=two_tower", "seed=0,1", "trainer.max_epochs=3", "trainer.log_every_n_steps=1"]
    (code, alone), errors = exits(place, sweep, ["model=dcn", *ONE_EPOCH])
    assert [code, alone] == [0, 0], errors
    client = MlflowClient(f"sqlite:///{place}/mlflow.db")
    experiments = [each.experiment_id for each in client.search_experiments()]
    runs = {run.info.run_id: run for run in client.search_runs(experiments)}
    (parent,) = (run for run in runs.values() if run.info.run_name.endswith("-sweep"))
    below = {each: run for each, run in runs.items() if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id}
    assert sorted(run.data.params["seed"] for run in below.values()) == ["0", "1"]
    assert {run.info.run_name for run in runs.values() if run not in below.values()} == {parent.info.run_name, "dcn"}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    assert {run.inputs.dataset_inputs[0].dataset.name for run in runs.values()} == {"sample"}
    assert json.loads(parent.data.params["sweep"]) == sweep
    compared = client.get_metric_history(parent.info.run_id, "valid/recall_at_100")
    assert [point.step for point in compared] == [0, 1]
    for run_id, run in below.items():
        artefacts = place / "mlruns" / run_id / "artifacts" / "model"
        metrics = json.loads((artefacts / "metrics.json").read_text())
        assert run.data.metrics["valid/recall_at_100"] == metrics["valid/recall_at_100"]  # of the best epoch, not of the last
        head, *rows = (artefacts / "curves/valid/recall_at_100.tsv").read_text().splitlines()
        assert head == "step\trecall_at_100"
        assert max(float(row.split("\t")[1]) for row in rows) == metrics["valid/recall_at_100"]
        assert (artefacts / "curves/train/loss.tsv").exists()
        model = Model.load(str(artefacts))
        assert {"user_codes", "history_mask"} <= {*model.signature.inputs.input_names()}
        assert model.signature.outputs.input_names() == ["queries"]
    (ranker,) = (each for each, run in runs.items() if run.info.run_name == "dcn")
    ranker = Model.load(str(place / "mlruns" / ranker / "artifacts" / "model"))
    assert ranker.signature.outputs.input_names() == ["logits"]


def test_a_mistake_exits_1_and_writes_nothing(place):
    shutil.rmtree(place / "outputs")
    process = started(place, TRAIN, "model=dcn", "out=model")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "run `dvc repro features`" in errors
    assert "Traceback" not in errors
    assert not (place / "model").exists()


def test_sigterm_while_training_exits_143_and_leaves_no_half_output(place):
    process = started(place, TRAIN, "model=dcn", "out=model", "trainer.max_epochs=100000", "model.module.patience=100000")
    guard = threading.Timer(120, process.kill)
    guard.start()
    next((line for line in process.stdout if "train/loss" in line), None)  # the progress bar, from inside the first epoch on
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    guard.cancel()
    assert process.returncode == 143, errors
    assert not [path for path in place.iterdir() if "model" in path.name]
    assert statuses(place) == [("dcn", "KILLED")]
    assert list(place.glob("runs/checkpoints/dcn-*/what.json"))  # so that it can go on


def cut_short(place: Path, model: str) -> str:
    """Start training `model`, and kill -9 it at a random moment after its first epoch; returns when that was."""
    process = started(place, TRAIN, f"model={model}", "out=cut", *SIX_EPOCHS)
    guard = threading.Timer(200, process.kill)
    guard.start()
    while process.poll() is None and not list(place.glob(f"runs/checkpoints/{model}-*/*.ckpt")):
        time.sleep(0.01)
    moment = random.uniform(0.0, 0.2)
    time.sleep(moment)
    process.kill()
    _, errors = process.communicate(timeout=60)
    guard.cancel()
    assert process.returncode == -signal.SIGKILL, errors
    return f"{model} was killed {moment:.3f} s after its first epoch"


def test_a_killed_training_ends_as_if_undisturbed(place):
    """Weights and figures byte for byte; the run goes on, and nothing is left behind."""
    codes, errors = exits(place, *([f"model={model}", f"out=whole/{model}", *SIX_EPOCHS] for model in CUT))
    assert codes == [0, 0], errors
    told = [cut_short(place, model) for model in CUT]
    ends = {"two_tower": "KILLED", "dcn": "RUNNING"}  # the second training ended the run of the first
    assert statuses(place) == [(model, status) for model in sorted(CUT) for status in ("FINISHED", ends[model])]
    commands = [[f"model={model}", f"out=again/{model}", *SIX_EPOCHS] for model in CUT]
    printed, errors = started(place, "-c", SEVERAL, TRAIN, json.dumps(commands)).communicate(timeout=480)
    for model in CUT:
        resumed = rf"resumed after epoch \d+ from runs/checkpoints/{model}-\w+/{model}\."
        assert re.search(resumed, printed), (told, printed, errors)
        for name in ("weights.safetensors", "metrics.json"):
            assert (place / "again" / model / name).read_bytes() == (place / "whole" / model / name).read_bytes(), (told, name)
    assert statuses(place) == [(model, "FINISHED") for model in sorted([*CUT, *CUT])]
    assert not list((place / "runs/checkpoints").iterdir())
