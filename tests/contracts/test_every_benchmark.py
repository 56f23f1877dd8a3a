"""Every file of benchmarks/, run small in this process: its last line is one JSON object that has the figures it names."""

import csv
import importlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

import programs

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "record")  # which runs them
EPOCH = ["trainer.max_epochs=1"]
DAYS = ["--valid-start", "2022-04-26", "--test-start", "2022-04-27"]
NARROW = ["module.network.dimension=8", "module.positions=256"]
EXAMPLES = {"examples", "examples_per_s", "examples_per_cpu_s", "peak_mb"}


class Small(NamedTuple):
    """The words of a run of seconds, and keys of what it prints; `place` is the fixture of the folder that it runs in."""

    words: list[str]
    figures: set[str]
    place: str = "bare"


SMALL = {
    "batch": Small(["--viewers", "10", "--processes", "1"], {"viewers_per_s", "viewers", "slates", "degraded"}, "project"),
    "cold_start": Small(
        ["--users", "60", "--videos", "150", "--days", "4", "--targets", "40", *EPOCH],
        {"recall@500", "targets", "new_share", "fits"},
    ),
    "debias": Small(
        ["--users", "60", "--videos", "150", "--days", "4", "--slates", "50", *EPOCH], {"ways", "placed", "rows", "impressions"}
    ),
    "drift": Small(
        ["data=tiny", "--windows", "2", "--planted", "1", "--viewers", "40", "--rows", "400"],
        {"false_alarms", "rows_alone", "power", "cost"},
        "project",
    ),
    "experiments": Small(
        ["--runs", "2", "--viewers", "40", "--days", "1", "--pairs", "2", "--requests", "200"], {"aa", "power", "interleaving"}
    ),
    "features": Small(
        ["--impressions", "3000"],
        {"impressions_per_s", "peak_mb", "cpu_s", "start_s", "ns_per_impression", "column_bytes_per_impression", "update_us"},
    ),
    "fleet": Small(
        ["--viewers", "1e5", "--seconds", "1", "--results", str(ROOT / "benchmarks/results")],
        {"times", "one_machine", "fleets"},
    ),
    "closed_loop": Small(
        ["--worlds", "world", "--others", "popular", "--seeds", "1", "--users", "80", "--videos", "150", "--days", "4",
         "--loop-days", "1", *EPOCH, "trainer.log_every_n_steps=1"],
        {"runs", "gain", "worst", "won", "sizes"},
        "pipeline",
    ),
    "framing": Small(
        ["data=tiny", *EPOCH, "--losses", "multi_task", "--heads", "log_seconds"], {"framing", "watch_time", "rows"}, "project"
    ),
    "global_split": Small(
        ["data.loader.root=ml", "data.split.valid_days=40", "data.split.test_days=40", *EPOCH, "trainer.log_every_n_steps=1"],
        {"all", "warm", "videos", "weights", "valid_days", "test_days"},
        "movielens",
    ),
    "index": Small(
        ["--videos", "20000", "--users", "300", "--steps", "2", "--queries", "20", "--lists", "64", "--compared", "2000"],
        {"recall@500", "p50_ms", "p99_ms", "narrow_recall@500", "bytes_per_video", "resident_bytes", "build_s", "peak_mb"},
    ),
    "off_policy": Small(["--runs", "2", "--viewers", "150", "--population", "4"], {"wide", "medium", "thin", "runs"}),
    "promotion": Small(
        ["--runs", "2", "--viewers", "400", "--days", "1", "--power-runs", "2", "--most", "500", "--policies"],
        {"aa", "power", "seed"},
    ),
    "ranker_training": Small(
        ["--impressions", "4000", "--steps", "2", "model.module.batch_size=64"],
        {"rows_per_s", "rows_per_cpu_s", "fields", "input_ms", "shares", "anonymous_mb", "mapped_mb"},
    ),
    "ranking": Small(
        ["--root", "kuairand", *DAYS, *EPOCH, "--models", "mlp", "xgboost"],
        {"models", "floors", "held_out", "rows", "groups"},
        "kuairand",
    ),
    "rectools_sasrec": Small(
        ["histories.npz", "--users", "20", "--steps", "2", "--warm", "1"], {"users", "videos", "steps"} | EXAMPLES, "rectools"
    ),
    "retrieval": Small(
        ["--sequences", "walks.txt", "max_epochs=1", *NARROW],
        {"recall@10", "ndcg@10", "merged_ndcg@10", "train_s", "epoch_s", "floors", "over_strongest_floor"},
        "sequences",
    ),
    "reranking": Small(
        ["--candidates", "50", "--requests", "5", "--outputs", "outputs/tiny"],
        {"p50_ms", "p99_ms", "cpu_ms", "slate", "trade_off", "methods"},
        "project",
    ),
    "scoring": Small(
        ["--candidates", "50", "--requests", "5", "--outputs", "outputs/tiny"],
        {"p50_ms", "p99_ms", "features_ms", "model_ms", "cpu_ms", "precision", "f32", "bf16"},
        "project",
    ),
    "serving": Small(
        ["--requests", "5"],
        {"p50_ms", "p99_ms", "stages_p50_ms", "durable_event_us", "journal_event_bytes", "viewer_state_bytes"},
        "project",
    ),
    "simulator": Small(["--impressions", "3000"], {"impressions_per_s", "setup_s", "peak_mb", "file_bytes_per_impression"}),
    "spark": Small(
        ["--impressions", "3000", "--workers", "1"],
        {"impressions", "one_process", "spark", "cpu_overhead", "differing_files"},
        "with_spark",
    ),
    "store": Small(
        ["--viewers", "3", "6", "9", "--watches", "2"], {"curve", "event_bytes", "known_event_cpu_us", "videos"}, "project"
    ),
    "tables": Small(["--videos", "300", "--steps", "2", "--tables", "full", *NARROW], {"watches", "tables", "billion_gb"}),
    "training": Small(["--users", "50", "--videos", "200", "--days", "2", "--steps", "2", *NARROW], {"watches"} | EXAMPLES),
    "true_best": Small(["--requests", "5", "data=tiny"], {"retrieved", "drawn", "requests"}, "project"),
    "true_worlds": Small(
        ["--worlds", "world_popular", "--policies", "weak", "--seeds", "1", "--users", "80", "--videos", "150", "--days", "4",
         "--requests", "5", *EPOCH, "trainer.log_every_n_steps=1"],
        {"cells", "worlds", "worst", "gain", "chosen", "seeds", "sizes"},
        "pipeline",
    ),
    "worlds": Small(["--root", "kuairand"], {"logs", "users", "videos", "days", "impressions_per_user_day"}, "kuairand"),
}  # fmt: skip
WITHOUT_INPUT = {
    "batch": ([], "dvc repro"),
    "framing": ([], "dvc repro features"),
    "reranking": ([], "dvc repro"),
    "scoring": ([], "dvc repro"),
    "serving": ([], "dvc repro"),
    "store": ([], "dvc repro"),
    "true_best": ([], "dvc repro"),
    "closed_loop": (["--minutes", "0"], "there are no runs to summarise"),
    "true_worlds": (["--minutes", "0"], "there are no runs to summarise"),
    "ranking": (["--root", "none", *DAYS], "none holds none of .*export KUAIRAND_ROOT"),
    "retrieval": (["--sequences", "none.txt"], "none.txt is not a file"),
}


@pytest.fixture(autouse=True)
def _as_it_was(monkeypatch):
    """Processor, threads and environment are left as they were; a benchmark is the last thing that its own process does."""
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None)
    monkeypatch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "2"))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bare(tmp_path) -> Path:
    """A folder with the repository's conf/ and nothing else."""
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    return tmp_path


@pytest.fixture
def with_spark(bare) -> Path:
    pytest.importorskip("pyspark", reason="pyspark is not installed; run `make test-spark`")
    return bare


@pytest.fixture
def pipeline(bare, empty_store, monkeypatch) -> Path:
    """A folder with what the stages of the pipeline read."""
    for name in ("dvc.yaml", "params.yaml", "train.py"):
        (bare / name).symlink_to(ROOT / name)
    shutil.copyfile(empty_store, bare / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{bare}/mlflow.db")
    for name in ("true_worlds", "closed_loop"):
        monkeypatch.setattr(f"benchmarks.{name}.commit", lambda: "none")  # the folder is no checkout
    return bare


@pytest.fixture
def movielens(pipeline) -> Path:
    """The published layout in ml/: 60 viewers, 50 films, 1,500 ratings of 200 days."""
    random = np.random.default_rng(0)
    (pipeline / "ml").mkdir()
    ratings = ["userId,movieId,rating,timestamp"]
    for user in range(60):
        days = np.sort(random.integers(0, 200, 25))
        films = random.permutation(50)[:25]
        ratings += [
            f"{user},{film},{random.integers(1, 6)},{946_684_800 + 86_400 * day}" for film, day in zip(films, days, strict=True)
        ]
    (pipeline / "ml" / "ratings.csv").write_text("\n".join(ratings) + "\n")
    movies = ["movieId,title,genres", *(f"{film},Film ({1950 + film}),Drama" for film in range(50))]
    (pipeline / "ml" / "movies.csv").write_text("\n".join(movies) + "\n")
    return pipeline


@pytest.fixture
def sequences(bare) -> Path:
    random = np.random.default_rng(0)
    lines = [f"user{i} " + " ".join(f"item{item}" for item in random.permutation(40)[:8]) for i in range(60)]
    (bare / "walks.txt").write_text("\n".join(lines) + "\n")
    return bare


@pytest.fixture
def kuairand(bare) -> Path:
    """The published layout in kuairand/: 30 viewers, 50 videos, 1,200 impressions of four days."""
    from watchnext.data.loaders.kuairand import LOG_COLUMNS, PURE, USER_CODES, USER_NUMBERS, VIDEO_COLUMNS

    random, log = np.random.default_rng(0), []
    for i in range(1200):
        day = i // 300
        about = {"user_id": random.integers(30), "video_id": random.integers(50), "date": 20220424 + day, "tab": 1}
        row = about | {"time_ms": 1_650_764_100_000 + 86_400_000 * day + 60_000 * (i % 300), "duration_ms": 9000}
        flags = {name: int(random.random() < 0.4) for name in LOG_COLUMNS if name.startswith("is_") or name == "long_view"}
        log.append(dict.fromkeys(LOG_COLUMNS, 0) | row | flags | {"is_rand": 0, "play_time_ms": int(9000 * random.random())})
    user = dict.fromkeys((*USER_NUMBERS, *USER_CODES), 1) | {"user_active_degree": "full_active"}
    video = dict.fromkeys(VIDEO_COLUMNS, 1) | {"upload_dt": "2022-04-10", "video_duration": 9000.0}
    users = [user | {"user_id": i} for i in range(30)]
    videos = [video | {"video_id": i, "author_id": i % 7, "tag": i % 9} for i in range(50)]
    (bare / "kuairand").mkdir()
    for name, rows in ((PURE.logs[1], log), (PURE.users, users), (PURE.videos, videos)):
        with (bare / "kuairand" / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return bare


RECTOOLS = """
import torch
import pytorch_lightning as lightning

class Columns:
    User, Item, Weight, Datetime = "user_id", "item_id", "weight", "datetime"

class Dataset:
    @classmethod
    def construct(cls, frame):
        made = cls()
        made.item_id_map = frame["item_id"].unique()
        made.rows = len(frame)
        return made

class Step(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)
    def training_step(self, batch, _):
        return self.layer(batch["x"]).sum()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

class SASRecModel:
    def __init__(self, *, get_trainer_func, **settings):
        self.fit_trainer = get_trainer_func()
    def fit(self, dataset):
        batches = [{"x": torch.ones(4, 1), "y": torch.tensor([0, 1, 1, 1])}] * 8
        self.fit_trainer.fit(Step(), torch.utils.data.DataLoader(batches, batch_size=None))
"""


@pytest.fixture
def rectools(bare, monkeypatch) -> Path:
    """Sequences, and a stand-in for RecTools that trains a line on four watches a batch."""
    package = bare / "rectools"
    package.mkdir()
    (package / "__init__.py").write_text(RECTOOLS)
    for name in ("dataset", "models"):
        (package / f"{name}.py").write_text("from rectools import *\n")
    monkeypatch.syspath_prepend(bare)
    lengths = np.random.default_rng(0).integers(3, 9, 30)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    np.savez(bare / "histories.npz", rows=np.arange(starts[-1]) % 25, starts=starts)
    return bare


def ran(name: str, words: list[str], folder: Path, monkeypatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *words])
    benchmark = importlib.import_module(f"benchmarks.{name}")
    for owner in (multiprocessing, benchmark):  # a process of its own is a fork of one that has the imports
        monkeypatch.setattr(owner, "get_context", lambda _: programs.FORKED, raising=owner is multiprocessing)
    benchmark.main()


def test_every_benchmark_has_a_small_run():
    assert sorted(SMALL) == BENCHMARKS


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_small_run_ends_in_one_json_object_with_the_figures(name, request, monkeypatch, capsys):
    small = SMALL[name]
    ran(name, small.words, request.getfixturevalue(small.place), monkeypatch)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert small.figures <= found.keys()


@pytest.mark.parametrize("shell", ["bentoml", "uvicorn"])
def test_the_server_is_driven_over_http(project, monkeypatch, capsys, shell):
    """Every kind of request is answered, on a world's release that was built before."""
    (project / "outputs" / "benchmark-9x9x4").mkdir(exist_ok=True)
    releases = project / "outputs" / "benchmark-9x9x4" / "releases"
    releases.unlink(missing_ok=True)
    releases.symlink_to(project / "releases")
    rates = [
        "--videos",
        "9",
        "--viewers",
        "9",
        "--rate",
        "20",
        "--precomputed-rate",
        "20",
        "--posts",
        "10",
        "--connections",
        "2",
    ]
    ran("serving", ["--shell", shell, "--seconds", "1", "--k", "4", *rates], project, monkeypatch)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    times = {"p50_ms", "p99_ms", "precomputed_p99_ms", "events_p99_ms", "beside_p99_ms", "fsync_ms"}
    assert all(found[name] > 0 for name in times | {"capacity_rps", "events_per_s", "rss_mb", "ready_s"})
    assert {"state", "retrieval", "ranking", "reranking", "outside", "commit"} <= found["stages_ms"].keys()
    assert found["refused"] == {"slates": 0, "precomputed": 0, "beside": 0, "events": 0}


@pytest.mark.parametrize("name", WITHOUT_INPUT)
def test_without_its_input_it_names_what_is_missing_or_builds_it(name, bare, monkeypatch):
    words, message = WITHOUT_INPUT[name]
    with pytest.raises(SystemExit, match=message):
        ran(name, words, bare, monkeypatch)


# ---- benchmarks/whole: programs that run others ---------------------------------------------------------------------------


def test_every_program_that_runs_others_is_tested_below():
    assert sorted(path.stem for path in (ROOT / "benchmarks" / "whole").glob("*.py")) == ["inputs", "loop", "pipeline", "suite"]


def test_the_whole_suite_tells_its_seconds_and_counts(bare, monkeypatch, capfd):
    (bare / "test_two.py").write_text("def test_one():\n    pass\n\n\ndef test_two():\n    pass\n")
    ran("whole.suite", ["test_two.py", "-q", "-p", "no:cacheprovider"], bare, monkeypatch)
    found = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert (found["passed"], set(found)) == (2, {"seconds", "passed"})


@pytest.fixture
def asked(monkeypatch) -> list[list[str]]:
    """The commands that a program runs, which are not run: their own tests do that."""
    commands = []

    def run(words: list[str], *, check: bool) -> subprocess.CompletedProcess:
        commands.append(words[1:])
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", run)
    return commands


def test_the_whole_pipeline_tells_what_the_stages_wrote(project, asked, monkeypatch, capsys):
    ran("whole.pipeline", ["data=tiny", "seed=1"], project, monkeypatch)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert asked == [["-m", "watchnext.lifecycle", "pipeline", "data=tiny", "seed=1"]]
    assert (found["data"], found["seed"]) == ("tiny", 1)
    assert {"seconds", "release"} <= found.keys()
    assert {"ranker", "evaluation", "recommendations"} <= found["metrics"].keys()


def test_the_whole_of_the_inputs_is_both_reports(bare, asked, monkeypatch, capsys):
    (bare / "outputs" / "reports").mkdir(parents=True)
    for name in ("importance", "learning_curve"):
        (bare / "outputs" / "reports" / f"{name}.json").write_text(json.dumps({"of": name}))
    ran("whole.inputs", [], bare, monkeypatch)
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert asked == [["-m", "watchnext.ranking", "importance"], ["-m", "watchnext.ranking", "learning-curve", "model=dcn"]]
    assert found == {"importance": {"of": "importance"}, "learning_curve": {"of": "learning_curve"}}


def test_the_whole_loop_runs_the_demo_of_its_words(bare, monkeypatch, capsys):
    chosen = []  # the demo itself is run in unit/lifecycle/test_demo.py
    monkeypatch.setattr("benchmarks.whole.loop.run_demo", lambda config: chosen.append(config) or {"figures": {}})
    ran("whole.loop", ["demo.days=3"], bare, monkeypatch)
    assert chosen[0].demo.days == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"figures": {}}
