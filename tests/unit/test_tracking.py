"""Runs and the registry in a real SQLite store; signals and races in real processes."""

import contextlib
import math
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import textwrap
import time
import urllib.request

import numpy as np
import pytest
import yaml

from programs import Program
from watchnext import tracking
from watchnext.lifecycle import release_registry

TAGS = {"data_hash": "d1", "schema_fingerprint": "f1"}
PREAMBLE = """
    import os, signal, sys, time
    from pathlib import Path
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts the tests in the background has it ignored
    from watchnext import tracking
    from watchnext.lifecycle import release_registry
    TAGS = {"data_hash": "d1", "schema_fingerprint": "f1"}
    def started(run):
        Path("started.tmp").write_text(run.id)
        os.replace("started.tmp", "started")
"""
WAITS = """
    with tracking.start_run("waits", config={}, tags=TAGS) as run:
        started(run)
        time.sleep(60)
"""
SWALLOWS = """
    with tracking.start_run("swallows", config={}, tags=TAGS) as run:
        try:
            started(run)
            time.sleep(60)
        except BaseException:
            pass
"""
CLOSES = """
    set_terminated = tracking.Run._end
    def slowly(run, status):
        started(run)
        time.sleep(2)
        set_terminated(run, status)
    tracking.Run._end = slowly
    with tracking.start_run("closes", config={}, tags=TAGS):
        pass
"""
TRAINS = """
    import torch
    from pytorch_lightning import LightningModule, Trainer
    from watchnext.nn.callbacks import StepLogger

    class Line(LightningModule):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
        def training_step(self, batch, index):
            if index == 5 and len(sys.argv) == 1:
                started(run)
            loss = self.layer(batch[0]).square().mean()
            self.log("loss", loss, on_step=True)
            return loss
        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    rows = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.ones(64, 1)), batch_size=8)
    with tracking.start_run("trains", config={"epochs": 1}, tags=TAGS) as run:
        logger = StepLogger(run.log_metrics)
        epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
        trainer = Trainer(max_epochs=epochs, logger=logger, accelerator="cpu", enable_checkpointing=False,
                          enable_progress_bar=False, enable_model_summary=False, log_every_n_steps=2)
        trainer.fit(Line(), rows)
        run.log_metrics({"after": 1.0})
        print("fitted")
"""


@pytest.fixture(autouse=True)
def _store(tmp_path, monkeypatch, empty_store, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if "fresh" not in request.node.name:
        shutil.copy(empty_store, tmp_path / "mlflow.db")


def client():
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=tracking.tracking_uri())


def program(body: str, *words: str) -> Program:
    return Program("-c", textwrap.dedent(PREAMBLE) + textwrap.dedent(body), *words)


def run_of(tmp_path, process) -> str:
    """The id that the program wrote once it was inside its block."""
    deadline = time.monotonic() + 120
    while not (tmp_path / "started").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(process.communicate()[1])
        time.sleep(0.02)
    return (tmp_path / "started").read_text()


def test_a_run_logs_its_config_tags_metrics_and_files(tmp_path):
    config = {"model": {"name": "dcn", "units": [64, 32], "none": None}, "long": "x" * 9000, **{f"k{i}": i for i in range(150)}}
    (tmp_path / "note.txt").write_text("hello")
    with tracking.start_run("first", config=config, tags={**TAGS, "regime": "frozen"}) as run:
        run.log_metrics({"ndcg@10": 0.25, "undefined": math.nan, "null": None, "endless": math.inf}, step=3)
        run.log_file(tmp_path / "note.txt", "notes")
        run.set_tag("regime", "daily")
    logged = client().get_run(run.id)
    assert logged.info.status == "FINISHED"
    assert logged.data.params["model.units"] == "[64, 32]"
    assert (len(logged.data.params["long"]), len(logged.data.params)) == (500, 154)
    assert logged.data.metrics["ndcg_10"] == 0.25
    assert logged.data.metrics.keys() == {"ndcg_10", "endless"}
    assert logged.data.metrics["endless"] > 1e300
    assert logged.data.tags.items() >= {"data_hash": "d1", "schema_fingerprint": "f1", "regime": "daily"}.items()
    artefacts = tmp_path / "mlruns" / run.id / "artifacts"
    assert yaml.safe_load((artefacts / "config.yaml").read_text()) == config
    assert (artefacts / "notes/note.txt").read_text() == "hello"


def test_the_commit_is_logged_and_works_without_git(tmp_path, monkeypatch):
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t"]
    assert tracking._git() == {"mlflow.source.git.commit": "unknown", "git_dirty": "unknown"}
    (tmp_path / "a").write_text("1")
    for words in (["init", "-q"], ["add", "a"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    assert len(tracking._git()["mlflow.source.git.commit"]) == 40
    assert tracking._git()["git_dirty"] == "false"
    (tmp_path / "a").write_text("2")
    assert tracking._git()["git_dirty"] == "true"
    monkeypatch.setenv("PATH", "")
    assert tracking._git()["git_dirty"] == "unknown"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("no"), "FAILED"),
        (SystemExit(1), "FAILED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(143), "KILLED"),
        (KeyboardInterrupt(), "KILLED"),
    ],
)
def test_a_run_ends_as_what_it_was(error, status):
    with pytest.raises(type(error)), tracking.start_run("ends", config={}, tags=TAGS) as run:
        raise error
    assert client().get_run(run.id).info.status == status
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_run_that_was_cut_short_goes_on_and_one_that_is_gone_starts_anew():
    with contextlib.suppress(SystemExit), tracking.start_run("cut", config={"a": 1}, tags=TAGS) as first:
        first.log_metrics({"loss": 2.0}, step=0)
        raise SystemExit(143)
    assert client().get_run(first.id).info.status == "KILLED"
    with tracking.start_run("cut", config={"a": 1, "out": "elsewhere"}, tags=TAGS, continues=first.id) as again:
        assert client().get_run(first.id).info.status == "RUNNING"
        again.log_metrics({"loss": 1.0}, step=1)
    assert again.id == first.id
    assert client().get_run(first.id).info.status == "FINISHED"
    assert [point.value for point in client().get_metric_history(first.id, "loss")] == [2.0, 1.0]
    assert client().get_run(first.id).data.params == {"a": "1"}
    with tracking.start_run("cut", config={"a": 1}, tags=TAGS, continues="0" * 32) as other:
        pass
    assert other.id not in (first.id, "0" * 32)
    assert client().get_run(other.id).data.params == {"a": "1"}


def test_a_run_is_listed_with_the_figures_it_ended_with_and_keeps_its_curves():
    """A network is measured at its best epoch, which is seldom the last one."""
    with contextlib.suppress(SystemExit), tracking.start_run("fits", config={}, tags=TAGS) as first:
        for step, value in ((10, 0.5), (20, 0.9), (30, 0.7)):
            first.log_metrics({"valid/recall": value, "train/loss": -value}, step)
        raise SystemExit(143)
    with tracking.start_run("fits", config={}, tags=TAGS, continues=first.id) as again:
        assert again.curves()["train/loss"] == [(10, -0.5), (20, -0.9), (30, -0.7)]
        again.log_metrics({"valid/recall": 0.7}, 30)  # an epoch that was interrupted is repeated
        assert again.curves()["valid/recall"] == [(10, 0.5), (20, 0.9), (30, 0.7)]
        time.sleep(0.002)  # the store tells equal steps apart by ms
        again.log_metrics({"valid/recall": 0.9, "best_epoch": 1.0})
        assert "best_epoch" not in again.curves()
    assert client().get_run(first.id).data.metrics == {"valid/recall": 0.9, "train/loss": -0.7, "best_epoch": 1.0}


def test_a_signature_of_arrays_can_be_read_with_its_example():
    from mlflow.models import Model

    inputs = {"codes": np.arange(8, dtype=np.int32).reshape(4, 2), "values": np.full((4, 1), 0.5, np.float32)}
    with tracking.start_run("signs", config={}, tags=TAGS) as run:
        run.log_signature("model", inputs, {"logits": np.zeros((4, 3), np.float32)})
    folder = f"mlruns/{run.id}/artifacts/model"
    model = Model.load(folder)
    assert {each.name: each.shape for each in model.signature.inputs} == {"codes": (-1, 2), "values": (-1, 1)}
    assert {each.name: each.shape for each in model.signature.outputs} == {"logits": (-1, 3)}
    assert model.load_input_example(folder)["codes"].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_a_run_without_its_provenance_is_refused():
    with (
        pytest.raises(ValueError, match="lacks the tag schema_fingerprint"),
        tracking.start_run("x", config={}, tags={"data_hash": "d"}),
    ):
        pass


def test_importing_the_module_does_not_import_mlflow():
    code = "import sys, watchnext.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("body", [WAITS, SWALLOWS, CLOSES, TRAINS], ids=["waits", "swallows", "closes", "lightning"])
def test_sigterm_exits_143_and_leaves_the_run_killed(body, tmp_path):
    process = program(body)
    run_id = run_of(tmp_path, process)
    os.kill(process.pid, signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 143, errors
    assert client().get_run(run_id).info.status == "KILLED"


def test_lightning_logs_into_the_run(tmp_path):
    process = program(TRAINS, "1")
    printed, errors = process.communicate(timeout=120)
    assert "fitted" in printed, errors
    (run,) = client().search_runs(["1"])
    assert run.info.status == "FINISHED"
    assert run.data.metrics.keys() >= {"loss", "after"}


def test_ctrl_c_leaves_the_run_killed(tmp_path):
    process = program(WAITS)
    run_id = run_of(tmp_path, process)
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert client().get_run(run_id).info.status == "KILLED"


def test_programs_may_start_at_once_in_a_fresh_folder():
    body = 'with tracking.start_run("both", config={"a": 1}, tags=TAGS) as run:\n    run.log_metrics({"m": 1.0})\n'
    for process in [program(body), program(body), program(body)]:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    (experiment,) = client().search_experiments(filter_string="name = 'watchnext'")
    assert [run.info.status for run in client().search_runs([experiment.experiment_id])] == ["FINISHED"] * 3


def test_processor_and_memory_are_logged_while_a_run_lasts(monkeypatch):
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    with tracking.start_run("long", config={}, tags=TAGS) as run:
        deadline = time.monotonic() + 60
        while not any(name.startswith("system/") for name in client().get_run(run.id).data.metrics):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with tracking.start_run("below", config={}, tags=TAGS, parent=run) as child:
            time.sleep(0.3)
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= {
        *client().get_run(run.id).data.metrics
    }
    assert not client().get_run(child.id).data.metrics


def test_a_run_whose_process_was_killed_outright_is_ended_by_the_next_and_may_go_on(tmp_path):
    process = program(WAITS)
    killed = run_of(tmp_path, process)
    with tracking.start_run("beside", config={}, tags=TAGS, stage="ranking"):
        assert client().get_run(killed).info.status == "RUNNING"  # its process lives
    process.kill()
    process.communicate(timeout=60)
    with tracking.start_run("next", config={}, tags=TAGS, stage="ranking") as following:
        assert [client().get_run(each).info.status for each in (killed, following.id)] == ["KILLED", "RUNNING"]
    with tracking.start_run("waits", config={}, tags=TAGS, continues=killed) as again:
        with tracking.start_run("another", config={}, tags=TAGS):
            pass
        assert (again.id, client().get_run(killed).info.status) == (killed, "RUNNING")
    assert client().get_run(killed).info.status == "FINISHED"


def release(folder, release_id: str):
    (folder / release_id).mkdir()
    (folder / release_id / "manifest.json").write_text("{}")
    return folder / release_id


def test_the_registry_mirrors_challenger_and_champion(tmp_path):
    with tracking.start_run("release", config={}, tags=TAGS) as run:
        pass
    assert release_registry.release_of("champion") is None
    first, second = release(tmp_path, "r1"), release(tmp_path, "r2")
    metrics = {"ndcg@10": 0.5, "undefined": math.nan, "null": None}
    assert release_registry.register_release("r1", first, run_id=run.id, metrics=metrics) == 1
    assert release_registry.release_of("champion") is None
    release_registry.set_champion("r1")
    assert release_registry.release_of("champion") == "r1"
    assert release_registry.register_release("r2", second, run_id=run.id, metrics=metrics) == 2
    assert release_registry.register_release("r1", first, run_id=run.id, metrics=metrics) == 1
    assert client().get_registered_model("watchnext").aliases == {"champion": 1, "challenger": 2}
    release_registry.set_champion("r2")
    assert client().get_registered_model("watchnext").aliases == {"champion": 2, "previous": 1}
    version = client().get_model_version("watchnext", "2")
    assert version.tags == {"release_id": "r2", "metric.ndcg_10": "0.5"}
    assert os.path.isfile(version.source.removeprefix("file://") + "/manifest.json")


def test_unknown_and_unfinished_releases_are_named(tmp_path):
    with pytest.raises(LookupError, match=r"'r9' is not registered .* `dvc repro release`"):
        release_registry.set_champion("r9")
    with pytest.raises(FileNotFoundError, match=r"'r9' has no .*manifest.json"):
        release_registry.register_release("r9", tmp_path, run_id="x", metrics={})


def test_the_store_follows_the_variable_and_is_absolute(tmp_path, monkeypatch):
    assert tracking.tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/with space/other.db")
    (tmp_path / "with space").mkdir()
    with tracking.start_run("elsewhere", config={"a": 1}, tags=TAGS) as run:
        pass
    assert (tmp_path / "with space/other.db").exists()
    assert (tmp_path / "with space/mlruns" / run.id / "artifacts/config.yaml").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:5000")
    assert tracking.tracking_uri() == "http://localhost:5000"


@pytest.mark.parametrize("move", [shutil.copytree, shutil.move])
def test_a_project_in_another_folder_writes_and_finds_its_artefacts_there(tmp_path, monkeypatch, move):
    here, there = tmp_path / "a", tmp_path / "b c"
    here.mkdir()
    shutil.copy(tmp_path / "mlflow.db", here)
    release(here, "r1")
    body = """
        os.chdir("a")
        with tracking.start_run("first", config={"a": 1}, tags=TAGS) as run:
            release_registry.register_release("r1", Path("r1"), run_id=run.id, metrics={})
        print(run.id)
    """
    ran = program(body).communicate(timeout=120)  # MLflow remembers where a run's artefacts lie as long as a process lives
    first = ran[0].split()[-1]
    move(here, there)
    left = sorted(here.rglob("*"))

    monkeypatch.chdir(there)
    release_registry.set_champion("r1")
    assert release_registry.release_of("champion") == "r1"
    own = client().get_model_version("watchnext", "1")
    assert own.source == f"{(there / 'mlruns').as_uri()}/{first}/artifacts/releases/r1"
    assert [found.path for found in client().list_artifacts(first)] == ["config.yaml", "releases"]
    with tracking.start_run("second", config={"a": 2}, tags=TAGS) as second:
        release_registry.register_release("r2", release(there, "r2"), run_id=second.id, metrics={})
    with tracking.start_run("first", config={"a": 1}, tags=TAGS, continues=first) as again:
        again.log_file(there / "r1" / "manifest.json", "more")
    assert again.id == first
    for path in (f"{second.id}/artifacts/config.yaml", f"{second.id}/artifacts/releases/r2/manifest.json",
                 f"{first}/artifacts/config.yaml", f"{first}/artifacts/more/manifest.json"):  # fmt: skip
        assert (there / "mlruns" / path).is_file()
    assert sorted(here.rglob("*")) == left


def test_a_store_that_cannot_follow_says_so(tmp_path):
    with tracking.start_run("first", config={}, tags=TAGS):
        pass
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        store.execute("UPDATE experiments SET artifact_location = 'file:///gone/mlruns' WHERE name = 'watchnext'")
        store.execute("CREATE TRIGGER sealed BEFORE UPDATE ON experiments BEGIN SELECT RAISE(ABORT, 'sealed'); END")
    with pytest.raises(ValueError, match=r"its artefacts are in file:///gone/mlruns.*\(sealed\); make it writable"):
        release_registry.release_of("champion")
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as store, store:
        store.execute("DROP TRIGGER sealed")
        store.execute("UPDATE experiments SET artifact_location = 'mlflow-artifacts:/1' WHERE name = 'watchnext'")
    with (
        pytest.raises(ValueError, match=r"are at mlflow-artifacts:/1, which only its server reaches; set MLFLOW_TRACKING_URI"),
        tracking.start_run("second", config={}, tags=TAGS),
    ):
        pass


@pytest.fixture
def server(tmp_path):
    """The address of a real MLflow server, and the folder of its artefacts."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "server").mkdir()
    words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--backend-store-uri", "sqlite:///m.db"]
    command = [sys.executable, "-m", "mlflow", *words, "--artifacts-destination", "./artefacts"]
    log = (tmp_path / "server.log").open("w")
    process = subprocess.Popen(command, cwd=tmp_path / "server", stdout=log, stderr=log, start_new_session=True)
    try:
        while process.poll() is None:
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                break
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}", tmp_path / "server" / "artefacts"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)
        log.close()


def test_one_variable_moves_runs_artefacts_and_registry_to_a_server(server, tmp_path, monkeypatch):
    address, artefacts = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    before = sorted(path.name for path in tmp_path.iterdir())
    with tracking.start_run("release", config={"a": 1}, tags=TAGS) as run:
        release_registry.register_release("r1", release(tmp_path, "r1"), run_id=run.id, metrics={"m": 0.5})
    release_registry.set_champion("r1")
    assert (release_registry.release_of("champion"), release_registry.registered()) == ("r1", {"r1"})
    kept = sorted(path.relative_to(artefacts).as_posix().partition("/artifacts/")[2] for path in artefacts.rglob("*.*"))
    assert kept == ["config.yaml", "releases/r1/manifest.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*before, "r1"])  # nothing is kept here
