"""`python train.py trainer=ddp` and `trainer=sharded`: two real processes learn what one learns from the same batches, and one
goes on alone."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parents[2]
TRAIN = str(ROOT / "train.py")
EVERY_STEP = ["trainer.log_every_n_steps=1", "model.module.patience=9"]
# Without what each process draws for its own rows.
DCN = ["model=dcn", "model.module.network.dropout=0", "trainer.max_epochs=3", *EVERY_STEP]
TOWERS = [
    "model=two_tower", "model.module.network.dropout=0", "model.module.network.id_dropout=0", "model.module.hide_new=0",
    "model.module.negatives.uniform=null", "trainer.max_epochs=1", *EVERY_STEP,
]  # fmt: skip
TWO = ["trainer=ddp", "trainer.accelerator=cpu"]
SHARDED = ["trainer=sharded", "trainer.accelerator=cpu"]


def started(place: Path, *words: str) -> subprocess.Popen:
    """`python train.py` in a process group of its own, as Lightning starts the others with its command line."""
    environment = {**os.environ, "MLFLOW_TRACKING_URI": "", "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, TRAIN, *words], cwd=place, env=environment, start_new_session=True, **pipes)


def ends(place: Path, *words: str) -> str:
    process = started(place, *words)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return printed


def losses(place: Path) -> list[list[float]]:
    """The training losses of each run, by step."""
    with contextlib.closing(sqlite3.connect(place / "mlflow.db")) as store:
        rows = store.execute(
            "select start_time, step, value from metrics join runs using (run_uuid) where key = 'train/loss' order by 1, 2"
        ).fetchall()
    return [[value for at, _, value in rows if at == start] for start in dict.fromkeys(at for at, *_ in rows)]


def killed_after_an_epoch(place: Path, *words: str) -> None:
    two = started(place, *words)
    deadline = time.monotonic() + 200
    while two.poll() is None and time.monotonic() < deadline and not list(place.glob("runs/checkpoints/*/*.ckpt")):
        time.sleep(0.01)
    os.killpg(two.pid, signal.SIGKILL)
    two.communicate(timeout=60)
    assert two.returncode == -signal.SIGKILL


def test_two_processes_learn_as_one_and_one_goes_on_where_two_were_killed(place):
    ends(place, *DCN, "out=one")
    killed_after_an_epoch(place, *DCN, *TWO, "out=resumed")
    printed = ends(place, *DCN, "out=resumed")
    assert re.search(r"resumed after epoch \d from runs/checkpoints/dcn-", printed), printed
    one, resumed = losses(place)
    assert len(resumed) >= len(one)  # what followed the checkpoint is logged twice
    steps = len(one) // 3
    np.testing.assert_allclose(resumed[:steps], one[:steps], rtol=1e-4)  # the epoch of two processes
    np.testing.assert_allclose(resumed[-steps:], one[-steps:], rtol=1e-3)
    alone, together = (json.loads((place / name / "metrics.json").read_text()) for name in ("one", "resumed"))
    assert alone.keys() == together.keys()
    for name in ("valid/auc_long_view", "test/auc_long_view", "test/mae_watch_s"):
        assert together[name] == pytest.approx(alone[name], rel=1e-3)


def test_towers_learn_from_the_videos_of_all_processes(place):
    ends(place, *TOWERS, "out=one")
    ends(place, *TOWERS, *TWO, "out=two")
    ends(place, *TOWERS, *SHARDED, "out=sharded")
    one, *several = losses(place)
    alone = json.loads((place / "one/metrics.json").read_text())
    for name, together in zip(("two", "sharded"), several, strict=True):
        np.testing.assert_allclose(together, one, rtol=1e-4)
        assert json.loads((place / name / "metrics.json").read_text()) == pytest.approx(alone, abs=0.01)
        same_model(place / name, place / "one")
    assert not list((place / "runs/checkpoints").iterdir())


def same_model(one: Path, other: Path) -> None:
    assert (one / "model.json").read_bytes() == (other / "model.json").read_bytes()
    weights = [load_file(folder / "weights.safetensors") for folder in (one, other)]
    assert {name: each.shape for name, each in weights[0].items()} == {name: each.shape for name, each in weights[1].items()}
    np.testing.assert_allclose(np.load(one / "embeddings.npy"), np.load(other / "embeddings.npy"), atol=2e-3)


@pytest.mark.full
def test_one_and_two_go_on_where_two_with_sharded_tables_were_killed(place, tmp_path_factory):
    words = [*TOWERS, "trainer.max_epochs=3"]
    ends(place, *words, "out=one")
    killed_after_an_epoch(place, *words, *SHARDED, "out=resumed")
    again = tmp_path_factory.mktemp("again") / "place"
    shutil.copytree(place, again, symlinks=True)
    for at, together in ((place, []), (again, SHARDED)):
        printed = ends(at, *words, *together, "out=resumed")
        assert re.search(r"resumed after epoch \d from runs/checkpoints/two_tower-", printed), printed
        one, resumed = losses(at)
        steps = len(one) // 3
        np.testing.assert_allclose(resumed[:steps], one[:steps], rtol=1e-4)
        np.testing.assert_allclose(resumed[-steps:], one[-steps:], rtol=1e-3)
        same_model(at / "resumed", place / "one")
