"""`python tune.py` as people run it: real processes in a folder of their own, with tiny features."""

import contextlib
import json
import os
import random
import shlex
import shutil
import signal
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from programs import Program
from watchnext.cli import composed, plain
from watchnext.tuning import Study, space_of, text

ROOT = Path(__file__).resolve().parents[2]
# Command lines in one process, with test days out of reach of tune.py; prints what each exits with.
SEVERAL = """
import json, runpy, sys
import numpy as np
from watchnext.data.splits import SPLITS
from watchnext.features.dataset.batches import FeatureSet
batch = FeatureSet.batch
def guarded(self, rows):
    assert sys.argv[0].endswith("train.py") or (self.columns["split"][rows] != SPLITS.index("test")).all(), "test days"
    return batch(self, rows)
FeatureSet.batch = guarded
for path, *words in json.loads(sys.argv[1]):
    sys.argv, code = [path, *words], 0
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as stopped:
        code = stopped.code
    print("\\nEXIT " + json.dumps(code), flush=True)
"""
TRAIN, TUNE = str(ROOT / "train.py"), str(ROOT / "tune.py")
MLP = ["model=mlp", "trainer.max_epochs=2", "tune.startup=1"]
TREES = ["model=xgboost", "model.module.rounds=30", "tune.startup=1", "tune.warmup=0", "tune.trials=3"]


def started(folder: Path, *words: str) -> Program:
    return Program(*words, folder=folder, environment={**os.environ, "MLFLOW_TRACKING_URI": ""})


def said(folder: Path, *commands: list[str]) -> tuple[list[int | str | None], list[str]]:
    """Exit codes of the commands, and the last line that each printed before."""
    out, errors = started(folder, "-c", SEVERAL, json.dumps(commands)).communicate(timeout=400)
    lines = [line for line in out.splitlines() if line.strip()]
    ends = [place for place, line in enumerate(lines) if line.startswith("EXIT ")]
    assert len(ends) == len(commands), errors
    return [json.loads(lines[end][5:]) for end in ends], [lines[end - 1] for end in ends]


def rows_of(store: Path, query: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(store)) as database:
        return list(database.execute(query))


def trials(folder: Path) -> list[tuple]:
    """State, figure and settings of every trial of the one study, in the order they were begun."""
    (store,) = folder.glob("runs/tuning/*/study.db")
    values = dict(rows_of(store, "select trial_id, value from trial_values"))
    told: dict[int, list] = {}
    for trial, key, value in rows_of(store, "select trial_id, param_name, param_value from trial_params order by param_name"):
        told.setdefault(trial, []).append((key, value))
    states = rows_of(store, "select trial_id, state from trials order by number")
    return [(state, values.get(trial), told.get(trial)) for trial, state in states]


@pytest.fixture
def made(tmp_path, world_folder, empty_store):
    """Name > a working directory as the repository is one, with built features."""

    def place(name: str) -> Path:
        folder = tmp_path / name
        (folder / "outputs").mkdir(parents=True)
        shutil.copyfile(empty_store, folder / "mlflow.db")
        (folder / "conf").symlink_to(ROOT / "conf")
        (folder / "outputs/features").symlink_to(world_folder)
        return folder

    return place


SPACES = sorted(path.stem for path in (ROOT / "conf/tune").glob("*.yaml") if path.stem != "default")


@pytest.mark.parametrize("name", SPACES)
def test_every_space_holds_its_presets_own_setting(name, tmp_path):
    config = composed([f"model={name}"], ROOT / "conf")
    space = space_of(plain(config.tune.space))
    first = {key: plain_value(config, key) for key in space}
    rules = {"seed": 0, "startup": config.tune.startup, "warmup": config.tune.warmup}
    trial = next(Study(tmp_path, space=space, first=first, **rules).trials(config.tune.trials, config.tune.seconds))
    assert sorted(trial.overrides) == sorted(f"{key}={text(value)}" for key, value in first.items())
    composed([f"model={name}", *trial.overrides], ROOT / "conf")


def plain_value(config, key: str) -> object:
    found = OmegaConf.select(config, key, throw_on_missing=True)
    assert found is not None, key
    return OmegaConf.to_container(found) if OmegaConf.is_config(found) else found


def test_the_printed_command_reaches_the_figure_and_mistakes_are_named(made):
    place = made("place")
    commands = [
        [TUNE, *MLP, "tune.trials=3"],
        [TUNE, *MLP, "tune.trials=3"],
        [TUNE, *TREES],
        [TUNE, *MLP, "+tune.space.model.module.learning_rat={low:0.1,high:0.2}"],
        [TUNE, *MLP, "tune.space.model.module.learning_rate.low=7"],
        [TUNE, *MLP, "tune.trails=7"],
        [TUNE, "model=factorization_machine"],
        [TUNE, *TREES, "tune.monitor=valid/auc_longview", "tune.trials=1"],
    ]
    (first, again, trees, *mistakes), (line, same, of_trees, *_) = said(place, *commands)
    assert [first, again, trees] == [0, 0, 0]
    assert line == same  # nothing was left to try
    told = {"mlp": line, "xgboost": of_trees}
    assert line.startswith("python train.py model=mlp trainer.max_epochs=2 model.module.learning_rate=")
    stores = {path.parent.name.split("-")[0]: path.parent for path in place.glob("runs/tuning/*/best.txt")}
    assert (stores["mlp"] / "best.txt").read_text() == line + "\n"

    assert "unknown key 'model.module.learning_rat'; did you mean model.module.learning_rate?" in mistakes[0]
    assert "tune.space.model.module.learning_rate goes from 7 to 0.01" in mistakes[1]
    assert "unknown key 'tune.trails'; did you mean tune.trials?" in mistakes[2]
    assert "only for dcn, ensemble, mlp, ranker, two_tower, xgboost" in mistakes[3]
    assert "tune.monitor is 'valid/auc_longview', expected one of valid/auc_click" in mistakes[4]

    codes, _ = said(place, *([TRAIN, *shlex.split(each)[2:], f"out={stores[name]}/m"] for name, each in told.items()))
    assert codes == [0, 0]
    for name in told:
        reached = json.loads((stores[name] / "m/metrics.json").read_text())["valid/objective_long_view"]
        figures = rows_of(stores[name] / "study.db", "select value from trial_values")
        assert reached == pytest.approx(max(value for (value,) in figures), abs=1e-6)

    runs = dict(rows_of(place / "mlflow.db", "select run_uuid, name from runs"))
    nested = rows_of(place / "mlflow.db", "select run_uuid, value from tags where key = 'mlflow.parentRunId'")
    assert sorted(runs[run] for run, parent in nested if runs[parent] == "tune mlp") == ["mlp 0", "mlp 1", "mlp 2"]
    logged = rows_of(place / "mlflow.db", "select run_uuid, key from metrics where key like 'valid%'")
    assert {run for run, _ in nested} >= {run for run, _ in logged if runs[run].startswith("mlp ")}
    assert ("valid/loss_long_view", 20) in rows_of(place / "mlflow.db", "select key, step from metrics")


def test_a_search_killed_in_a_trial_ends_as_if_undisturbed(made):
    whole, cut, words = made("whole"), made("cut"), [*MLP, "trainer.max_epochs=1", "tune.trials=3"]
    (code,), (line,) = said(whole, [TUNE, *words])
    assert code == 0
    process = started(cut, TUNE, *words)
    guard = threading.Timer(120, process.kill)
    guard.start()
    next((told for told in process.stdout if told.startswith("trial 1 of")), None)
    while process.poll() is None and not any(state == "RUNNING" for state, *_ in trials(cut)):
        time.sleep(0.02)
    moment = random.uniform(0.0, 0.1)
    time.sleep(moment)
    process.kill()
    process.communicate(timeout=60)
    guard.cancel()
    assert process.returncode == -signal.SIGKILL
    told = f"killed {moment:.3f} s after the second trial began"

    (code,), (again,) = said(cut, [TUNE, *words])
    assert (code, again) == (0, line), told
    killed = [trial for trial in trials(cut) if trial[0] == "FAIL"]
    assert len(killed) == 1, told
    assert [trial for trial in trials(cut) if trial[0] != "FAIL"] == trials(whole), told
    # Killed while it was drawn, it has some of its settings, or none.
    assert any(set(killed[0][2] or ()) <= set(settings) for _, _, settings in trials(whole)), told
    assert {state for state, *_ in trials(whole)} <= {"COMPLETE", "PRUNED"}
    statuses = rows_of(cut / "mlflow.db", "select status, count(*) from runs group by status")
    assert statuses == [("FINISHED", 1 + 3)], told  # the killed trial's run went on


def test_trials_that_learn_nothing_are_given_up_after_an_epoch(made):
    """Beside the preset's own learning rate, 0.001, some that leave the network as it was drawn."""
    place = made("place")
    shutil.copytree(ROOT / "conf", place / "given", symlinks=True)
    (place / "conf").unlink()
    (place / "given").rename(place / "conf")
    space = "space: {model: {module: {learning_rate: {choices: [0.001, 1.0e-9, 1.0e-8]}}}}"
    (place / "conf/tune/mlp.yaml").write_text(f"defaults: [default, _self_]\n{space}\n")
    (code,), (line,) = said(place, [TUNE, *MLP, "model.module.batch_size=64", "tune.trials=4", "tune.warmup=0"])
    assert (code, line.split()[-1]) == (0, "model.module.learning_rate=0.001")
    found = [(state, told[0][1] == 0.0) for state, _, told in trials(place)]  # choices are stored by their place
    assert found[0] == ("COMPLETE", True)
    assert ("PRUNED", False) in found
    assert ("COMPLETE", False) not in found
    steps = "select distinct step from trial_intermediate_values join trials using (trial_id) where state = 'PRUNED'"
    assert rows_of(next(place.glob("runs/tuning/*/study.db")), steps) == [(0,)]
