"""Tracking with MLflow, imported only here: runs that end with the right status, with all that MLflow shows of a run.

The store is MLFLOW_TRACKING_URI, else `mlflow.db` in the working directory with its artefacts in `mlruns/` beside it, even
after the project was moved. MLflow takes almost two seconds to import, so it is imported on first use.
"""

import json
import logging
import os
import platform
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    import numpy as np
    import polars as pl
    from mlflow import MlflowClient
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    Named = pl.DataFrame | Mapping[str, np.ndarray]

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when any module imports mlflow
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")

REQUIRED_TAGS = ("data_hash", "schema_fingerprint")
STORES = ("mlflow", "sqlalchemy")  # a signal is delayed until their code has returned,
MOST_DELAYS = 100  # at most this many times 50 ms
TERMINATED = 128 + signal.SIGTERM  # the exit code of a terminated program, 143

PARENT, CONTEXT = "mlflow.parentRunId", "mlflow.data.context"  # MLflow's own names
MACHINE, PROCESS = "machine", "process"  # tags by which a run is known whose process is gone
LONGEST_DIGEST = 36

SQLITE = "sqlite:///"
ARTEFACTS = "mlruns"  # the folder beside the store
# Columns in which MLflow keeps artefact locations; its API cannot change them.
LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
LONGEST_PARAM = 500
EXAMPLES, EXAMPLE = 3, "input_example.json"  # rows of an input example, and its file
PARAMS_PER_CALL = 100  # MLflow's own limit


def tracking_uri() -> str:
    """Return the URI of the store; a relative SQLite path is made absolute, so that a later chdir does not split the store."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}mlflow.db"
    return SQLITE + str(Path(uri.removeprefix(SQLITE)).absolute()) if uri.startswith(SQLITE) else uri


@contextmanager
def store(uri: str) -> Iterator["MlflowClient"]:
    """Open a client, one process at a time: SQLite migrations at first use and get-or-create are no transactions."""
    from filelock import FileLock

    with FileLock(uri.removeprefix(SQLITE) + ".lock") if uri.startswith(SQLITE) else nullcontext():
        with warnings.catch_warnings(action="ignore"):  # SQLAlchemy deprecations inside MLflow
            from mlflow import MlflowClient

            client = MlflowClient(tracking_uri=uri)
        if uri.startswith(SQLITE):
            _relocate_artefacts(Path(uri.removeprefix(SQLITE)))
        yield client


def _artefacts_uri(database: Path) -> str:
    return (database.parent / ARTEFACTS).as_uri()


def _relocate_artefacts(database: Path) -> None:
    """Move artefact locations to the store's folder. MLflow stores absolute paths, and after a copy or a move of the project it
    would write to the old one. Raises ValueError where the store cannot be changed."""
    now = _artefacts_uri(database)
    with closing(sqlite3.connect(database)) as store:
        places = [place for (place,) in store.execute("SELECT DISTINCT artifact_location FROM experiments")]
        stale = [each for each in places if each.startswith("file:") and each.endswith(f"/{ARTEFACTS}") and each != now]
        try:
            with store:
                for before in stale:
                    _replace_prefix(store, before, now)
        except sqlite3.Error as error:
            raise ValueError(
                f"{database} was moved here from where its artefacts are in {stale[0]}, and it cannot be changed ({error}); "
                "make it writable, or set MLFLOW_TRACKING_URI to a store that is"
            ) from error


def _replace_prefix(store: sqlite3.Connection, before: str, now: str) -> None:
    for table, column in LOCATIONS:
        store.execute(
            f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column} || '/', 1, ?) = ?",
            (now, len(before) + 1, len(before) + 1, f"{before}/"),
        )


def _experiment(client: "MlflowClient", uri: str, name: str) -> str:
    """Return the id of an experiment. Its artefact location is explicit: "Default" keeps that of the first program.

    Raises ValueError where a store in a file has artefacts that a server passes on.
    """
    if experiment := client.get_experiment_by_name(name):
        if uri.startswith(SQLITE) and experiment.artifact_location.startswith("mlflow-artifacts:"):
            raise ValueError(
                f"the artefacts of experiment {name!r} in {uri} are at {experiment.artifact_location}, which only its server "
                "reaches; set MLFLOW_TRACKING_URI to the address of that server"
            )
        return experiment.experiment_id
    location = _artefacts_uri(Path(uri.removeprefix(SQLITE))) if uri.startswith(SQLITE) else None
    return client.create_experiment(name, artifact_location=location)


class Run:
    """A started run. `last_step` is the highest step that it logged before it was interrupted."""

    def __init__(self, *, client: "MlflowClient", id: str, last_step: int = 0) -> None:
        self._client, self._last_step = client, last_step
        self.id = id

    def log_metrics(self, values: Mapping[str, float | None], step: int | None = None) -> None:
        """Log all values in one call; without a step, at the last one, as MLflow lists the value of a figure's highest step.

        Undefined values (nan, None) are left out, infinity becomes the largest float, and "@" in a name becomes "_".
        """
        from mlflow.entities import Metric

        now_ms, step = int(time.time() * 1000), self._last_step if step is None else step
        self._last_step = max(self._last_step, step)
        metrics = [Metric(metric_name(name), float(value), now_ms, step) for name, value in defined(values)]
        self._client.log_batch(self.id, metrics=metrics)

    def curves(self) -> dict[str, list[tuple[int, float]]]:
        """Return step and value of every figure that was logged at several steps, before an interruption too."""
        return {name: points for name, points in _curves(self._client, self.id).items() if len(points) > 1}

    def write_curves(self, folder: Path, *, monitor: str | None) -> None:
        """Write losses, and the figure `monitor` that chooses the best epoch, as tables of step and value, which DVC and MLflow
        show."""
        for name, points in self.curves().items():
            if "loss" in name or (monitor and name.endswith(monitor)):
                path = folder / f"{name}.tsv"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("".join([f"step\t{path.stem}\n", *(f"{step}\t{value:.6g}\n" for step, value in points)]))

    def log_file(self, path: Path, folder: str | None = None) -> None:
        """Copy a file into the run's artefacts, under `folder` there."""
        self._client.log_artifact(self.id, str(path), folder)

    def log_text(self, text: str, name: str) -> None:
        """Write a text as the file `name` of the run's artefacts."""
        self._client.log_text(self.id, text, name)

    def log_result(self, metrics: Mapping[str, float | None], out: Path, *, folder: str) -> None:
        """Log metrics, and copy the files of `out` into the run's artefacts, under `folder` there."""
        self.log_metrics(metrics)
        self._client.log_artifacts(self.id, str(out), folder)

    def set_tag(self, name: str, value: str) -> None:
        self._client.set_tag(self.id, name, value)

    def log_signature(self, folder: str, inputs: "Named", outputs: "Named") -> None:
        """Log what a model takes and returns (a table, or arrays by name), with the first rows as an example, as `MLmodel`
        under `folder`.

        It has no flavour: MLflow shows it and does not load it.
        """
        import mlflow

        tables = (each if isinstance(each, Mapping) else each.to_pandas() for each in (inputs, outputs))
        with warnings.catch_warnings(action="ignore"):  # that integer columns cannot hold missing values
            signature = mlflow.models.infer_signature(*tables)
        form, example = _example(inputs)
        saved = {"artifact_path": EXAMPLE, **form}
        model = mlflow.models.Model(folder, self.id, signature=signature, saved_input_example_info=saved)
        self._client.log_text(self.id, model.to_yaml(), f"{folder}/MLmodel")
        self._client.log_text(self.id, json.dumps(example), f"{folder}/{EXAMPLE}")

    def _log_dataset(self, tags: Mapping[str, str], config: Mapping, *, context: str) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        data = config.get("data", {})
        dataset = Dataset(
            name=str(tags.get("data") or data.get("name") or "data"),
            digest=str(tags["data_hash"])[:LONGEST_DIGEST],
            source_type="local",
            source=json.dumps({"uri": str(data.get("outputs", "outputs"))}),
            profile=json.dumps({name: str(tags[name]) for name in REQUIRED_TAGS}),
        )
        self._client.log_inputs(self.id, [DatasetInput(dataset, [InputTag(CONTEXT, context)])])

    def _log_config(self, config: Mapping) -> None:
        from mlflow.entities import Param

        plain = _plain(config)
        self._client.log_text(self.id, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True), "config.yaml")
        params = [Param(metric_name(name), str(value)[:LONGEST_PARAM]) for name, value in _flat(plain)]
        for start in range(0, len(params), PARAMS_PER_CALL):
            self._client.log_batch(self.id, params=params[start : start + PARAMS_PER_CALL])

    def _end(self, status: str) -> None:
        self._client.set_terminated(self.id, status)


def _curves(client: "MlflowClient", run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return figure > steps, in order, and values: of a step that was repeated, the latest."""
    names = [name for name in client.get_run(run_id).data.metrics if not name.startswith("system/")]
    histories = {name: sorted(client.get_metric_history(run_id, name), key=lambda point: point.timestamp) for name in names}
    return {name: sorted({point.step: point.value for point in points}.items()) for name, points in histories.items()}


def _example(inputs: "Named") -> tuple[dict[str, str], dict]:
    """Return the form of MLflow in which the first rows of inputs are kept, and the rows in it."""
    if isinstance(inputs, Mapping):
        return {"type": "ndarray"}, {name: values[:EXAMPLES].tolist() for name, values in inputs.items()}
    rows = [[each if each == each else None for each in row] for row in inputs.head(EXAMPLES).rows()]  # JSON has no nan
    return {"type": "dataframe", "pandas_orient": "split"}, {"columns": inputs.columns, "data": rows}


@contextmanager
def start_run(
    name: str,
    *,
    config: Mapping,
    tags: Mapping[str, str],
    stage: str | None = None,
    continues: str | None = None,
    parent: Run | None = None,
) -> Iterator[Run]:
    """Track the block as a run: FINISHED, FAILED after an exception, KILLED after SIGTERM (which exits 143) or Ctrl-C.

    config     plain composed config; logged as parameters (values cut at 500 characters) and whole as `config.yaml`
    tags       must hold data_hash and schema_fingerprint; the git commit is added. The data are the run's dataset
    stage      the run is in the experiment `watchnext-<stage>`, without one in `watchnext`
    continues  id of an interrupted run of the same config, which is resumed if the store still has it; after kill -9 its
               status is RUNNING until the next run on this machine is started, and KILLED then
    parent     started run that this one is shown below; processor, memory and network are logged for runs without one
    """
    tags = {**tags, **({PARENT: parent.id} if parent else {})}
    if missing := [tag for tag in REQUIRED_TAGS if tag not in tags]:
        raise ValueError(f"run {name!r} lacks the tag {' and '.join(missing)}; pass tags={{{missing[0]!r}: ...}} to start_run")
    with _Sigterm() as sigterm:
        run = _open(name, tags, continues, stage)
        status, monitor = "FAILED", None
        try:
            if run.id != continues:
                run._log_config(config)
                run._log_dataset(tags, config, context=stage or "watchnext")
            monitor = None if parent else _system_metrics(run.id)
            sigterm.release()
            yield run
            status = "FINISHED"
        except BaseException as error:
            status = _status(error)
            raise
        finally:
            sigterm.hold()
            if monitor:
                monitor.finish()
            run._end(status)
            if sigterm.received:
                run._end("KILLED")


def _open(name: str, tags: Mapping[str, str], continues: str | None, stage: str | None) -> Run:
    uri = tracking_uri()
    with store(uri) as client:
        experiment, own = _experiment(client, uri, f"watchnext-{stage}" if stage else "watchnext"), _process()
        if uri.startswith(SQLITE):
            _end_killed(client)
        if continues and _known(client, experiment, continues):
            client.update_run(continues, status="RUNNING")
            for key, value in own.items():
                client.set_tag(continues, key, value)
            last = max((points[-1][0] for points in _curves(client, continues).values()), default=0)
            return Run(client=client, id=continues, last_step=last)
    known = {**_git(), **own, **{key: str(value) for key, value in tags.items()}}
    return Run(client=client, id=client.create_run(experiment, run_name=name, tags=known).info.run_id)


def _known(client: "MlflowClient", experiment: str, run_id: str) -> bool:
    """Return True if the store has this run; an emptied store does not."""
    return any(run.info.run_id == run_id for run in client.search_runs([experiment], f"attributes.run_id = '{run_id}'"))


def _process() -> dict[str, str]:
    """Return the tags of this process: its machine, its number and when it began, as numbers are given again."""
    import psutil

    return {MACHINE: platform.node(), PROCESS: f"{os.getpid()} {psutil.Process().create_time():.0f}"}


def _end_killed(client: "MlflowClient") -> None:
    """Mark the RUNNING runs of this machine whose process is gone, which nothing else would ever end."""
    experiments = [each.experiment_id for each in client.search_experiments(filter_string="name LIKE 'watchnext%'")]
    running = f"attributes.status = 'RUNNING' and tags.{MACHINE} = '{platform.node()}'"
    for run in client.search_runs(experiments, running) if experiments else ():
        gone = not _lives(run.data.tags.get(PROCESS, ""))
        # Read again, as a process may have ended its run, and then itself, since the search.
        if gone and client.get_run(run.info.run_id).info.status == "RUNNING":
            client.set_terminated(run.info.run_id, "KILLED")


def _lives(process: str) -> bool:
    """Return True if the process of a tag runs; also for a tag that names none."""
    import psutil

    number, _, began = process.partition(" ")
    if not (number.isdecimal() and began.isdecimal()):
        return True
    try:
        return abs(psutil.Process(int(number)).create_time() - int(began)) < 3  # corrections of the clock move it
    except psutil.NoSuchProcess:
        return False


def _system_metrics(run_id: str) -> "SystemMetricsMonitor | None":
    """Start MLflow's own thread, which logs processor, memory, disk and network as `system/...` every 10 s
    (MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL); None where MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING is false."""
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        return None
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)  # each start and end is a line
    monitor = SystemMetricsMonitor(run_id, resume_logging=True, tracking_uri=tracking_uri())
    monitor.start()
    return monitor


class _Sigterm:
    """Turn SIGTERM into SystemExit(143), delayed while a run is opened or closed, so that no run stays RUNNING.

    Lightning calls the previous handler too, so this one wins; alone, Lightning 2.6 would exit 0. Even if the exception is
    caught on its way, leaving the block exits 143. Only the main thread may install a handler; other threads install none.
    """

    def __init__(self) -> None:
        self.received = False
        self._held = True
        self._delays = 0
        self._resend: threading.Timer | None = None
        self._previous = None

    def __enter__(self) -> "_Sigterm":
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGTERM, self._receive)
        return self

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.received = True
        if self._held:
            return
        if self._delays < MOST_DELAYS and _inside(frame, STORES):
            # An exception during a write can leave the database locked by this process, and the run open.
            self._delays += 1
            self._resend = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM))
            self._resend.start()
            return
        raise SystemExit(TERMINATED)

    def hold(self) -> None:
        self._held = True
        if self._resend is not None:
            self._resend.cancel()  # a signal sent after the block would find the default handler
            self._resend.join()

    def release(self) -> None:
        self._held = False
        if self.received:
            raise SystemExit(TERMINATED)

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)
        already = isinstance(error, SystemExit) and error.code == TERMINATED
        if not already and (self.received or _terminated(error)):
            raise SystemExit(TERMINATED) from error


def _inside(frame: FrameType | None, packages: tuple[str, ...]) -> bool:
    """Return True if the interrupted code, or one of its callers, belongs to one of `packages`."""
    while frame is not None:
        if frame.f_globals.get("__name__", "").partition(".")[0] in packages:
            return True
        frame = frame.f_back
    return False


def _terminated(error: BaseException | None) -> bool:
    """Return True for an exit by SIGTERM; Lightning's SIGTERMException is a SystemExit without a code."""
    return isinstance(error, SystemExit) and (error.code == TERMINATED or type(error) is not SystemExit)


def _status(error: BaseException) -> str:
    interrupted = any(isinstance(e, KeyboardInterrupt) for e in (error, error.__context__))  # Lightning exits 1 on Ctrl-C
    if interrupted or _terminated(error):
        return "KILLED"
    return "FINISHED" if isinstance(error, SystemExit) and error.code in (None, 0) else "FAILED"


def commit() -> str:
    """Return the commit of the working directory, "unknown" outside a repository or without git."""
    return _git()["mlflow.source.git.commit"]


def _git() -> dict[str, str]:
    """Return the commit and whether tracked files differ; "unknown" outside a repository or without git."""
    commit, changes = _git_output("rev-parse", "HEAD"), _git_output("status", "--porcelain", "--untracked-files=no")
    dirty = "unknown" if commit is None or changes is None else str(bool(changes)).lower()
    return {"mlflow.source.git.commit": commit or "unknown", "git_dirty": dirty}


def _git_output(*words: str) -> str | None:
    if not shutil.which("git"):
        return None
    result = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def defined(values: Mapping[str, float | None]) -> Iterator[tuple[str, float]]:
    """The figures that are not undefined (nan, or the None of a report in JSON)."""
    return ((name, value) for name, value in values.items() if value is not None and value == value)


def metric_name(name: str) -> str:
    """Replace the characters that MLflow refuses in metric and parameter names."""
    return re.sub(r"[^\w\-. :/]", "_", name)


def _plain(value: object) -> object:
    """Mappings as dicts, sequences as lists, other objects as their text: what YAML can hold without tags."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return value if value is None or type(value) in (bool, int, float, str) else str(value)


def _flat(config: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in config.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", json.dumps(value) if isinstance(value, list) else value
