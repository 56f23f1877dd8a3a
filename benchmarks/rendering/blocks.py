"""List the records, the command of each, and the records of each table."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rendering import tables

from watchnext.lifecycle.capacity import scaling_curves

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = "sample"  # outputs/metrics/*.json, which git carries; every other name is a file in benchmarks/results/
KUAIRAND = "--root $KUAIRAND_ROOT --valid-start 2022-05-01 --test-start 2022-05-03"
TOYS = "retrieval --sequences $SEQUENCES_FILE --seed"

# Record > arguments of `python -m benchmarks.record`; the shortest first, and each before those that read its outputs.
RECORDS = {
    "pipeline": "whole.pipeline",
    **scaling_curves.RECORDS,
    "fleet": "fleet",
    "features-2m": "--label 2m features --impressions 2000000",
    "ranker_training": "ranker_training",
    "scoring": "scoring --candidates 500",
    "scoring-avx2": "--label avx2 scoring --candidates 500",
    "true_best": "true_best --requests 300",
    "worlds": "worlds --root $KUAIRAND_ROOT",
    "features-20m": "--label 20m features --impressions 20000000",
    "simulator": "simulator --impressions 60000000",
    "index-1m": "--label 1m index --videos 1000000",
    "suite": "whole.suite",
    "loop": "whole.loop",
    "features-60m": "--label 60m features --impressions 60000000",
    "inputs": "whole.inputs",
    "debias": "debias --seeds 3",
    "drift": "drift",
    "off_policy": "off_policy",
    "reranking": "reranking --candidates 500",
    "retrieval-0": f"--label 0 {TOYS} 0",
    "retrieval-1": f"--label 1 {TOYS} 1",
    "retrieval-2": f"--label 2 {TOYS} 2",
    "global_split": "global_split data.loader.root=$MOVIELENS_ROOT",
    "cold_start": "cold_start",
    "tables": "tables",
    "true_worlds": "true_worlds --seeds 3 --users 1000 --videos 2500 --days 8 trainer.max_epochs=4",
    "closed_loop": "closed_loop --users 1000 --videos 2500 --days 8 --seeds 1 trainer.max_epochs=4",
    "index-10m": "--label 10m index --videos 10000000",
    "training": "training --rectools $RECTOOLS_PYTHON",
    "ranking": f"ranking {KUAIRAND} --seeds 3 --models ranker ensemble xgboost",
    "ranking-others": "--label others ranking "
    f"{KUAIRAND} --seeds 3 --models dcn mlp logistic_regression factorization_machine mlp_no_history",
    "ranking-variants": "--label variants ranking "
    f"{KUAIRAND} --held-out valid --seeds 3 --models dcn dcn_transformer dcn_mmoe dcn_ple",
    "framing": "framing --seeds 3",
    "pipeline-kuairand": "--label kuairand whole.pipeline data=kuairand",
    "framing-kuairand": "--label kuairand framing --seeds 3 data=kuairand",
}
SETTINGS = {"scoring-avx2": "ONEDNN_MAX_CPU_ISA=AVX2 "}  # environment of the command


def command_of(name: str) -> str:
    """Return the command that makes a record."""
    if name == SAMPLE:
        return "dvc repro"
    return f"{SETTINGS.get(name, '')}python -m benchmarks.record {RECORDS[name]}"


@dataclass(frozen=True)
class Record:
    """The figures of one run, and a line on their origin."""

    figures: Mapping
    origin: str


@dataclass(frozen=True)
class Block:
    """A table: its maker, its records, and the seed and regime of its figures. `always` shows it even without a record."""

    made: Callable[[tables.Figures], str]
    records: tuple[str, ...]
    about: str = "seed 0"
    always: bool = False


class Records:
    """The records in a checkout."""

    def __init__(self, root: Path = ROOT) -> None:
        self.metrics, self.results = root / "outputs" / "metrics", root / "benchmarks" / "results"

    def of(self, name: str) -> Record | None:
        """Return a record, None for a run that was not recorded."""
        if name == SAMPLE:
            return self._sample()
        if (run := self._read(name)) is None:
            return None
        figures = run["figures"]
        return Record(figures.get("metrics", figures), f"`{run['command']}`, {_where(run)}")

    def _read(self, name: str) -> dict | None:
        path = self.results / f"{name}.json"
        return json.loads(path.read_text()) if path.exists() else None

    def _sample(self) -> Record | None:
        """Return the committed metrics, with machine and date of the recorded run of the same release, if there is one."""
        figures = {path.stem: json.loads(path.read_text()) for path in sorted(self.metrics.glob("*.json"))}
        if "evaluation" not in figures:
            return None
        run, release = self._read("pipeline"), figures["evaluation"]["release"]
        same = run is not None and run["figures"]["release"] == release
        return Record(figures, f"`dvc repro`, release {release}, {_where(run) if same else 'machine and date not recorded'}")


def _where(run: Mapping) -> str:
    machine = run["machine"]
    flags = f" ({', '.join(machine['flags'])})" if machine["flags"] else ""
    processor = f"{machine['cpu']}{flags}, {machine['cores']} cores, {machine['memory_gb']} GB"
    return f"{processor}, {run['date']}, commit {run['commit']}"


def _pipeline(record: str, prefix: str, regime: str) -> dict[str, Block]:
    """Return the tables of one run of the pipeline."""
    of = {
        "funnel": (tables.funnel, regime),
        "lost": (tables.lost, regime),
        "orders": (tables.orders, f"{regime}; validation days"),
        "verdict": (tables.verdict, f"{regime}; validation days"),
        "sources": (tables.sources, regime),
        "slices": (tables.slices, regime),
        "gain": (tables.gain, regime),
        "ranking": (tables.ranking, "seed 0; the state as named"),
        "seconds": (tables.seconds, "seed 0; the state as named"),
        "parts": (tables.parts, regime),
    }
    return {f"{prefix}-{name}": Block(maker, (record,), about) for name, (maker, about) in of.items()}


STREAMING = "seed 0, streaming state"
WORLDS_ABOUT = "streaming state, mean ± deviation over runs, gains run by run"
OF_REQUEST = "seed 0, state as of each request"
FOR_VALID = "seeds 0 to 2, streaming state, validation days"
BLOCKS = {
    **_pipeline(SAMPLE, "sample", OF_REQUEST),
    **_pipeline("pipeline-kuairand", "kuairand", OF_REQUEST),
    "summary": Block(tables.summary, (SAMPLE, "pipeline-kuairand"), OF_REQUEST),
    "commands": Block(tables.commands, ("pipeline", "suite"), "", always=True),
    "rankings": Block(
        tables.rankings, ("ranking", "ranking-others"), "streaming state, test days, mean ± deviation over seeds"
    ),
    "ranking-gain": Block(tables.ranking_gain, ("ranking",), "mean over the seeds, 1,000 resamples of viewers"),
    "variants": Block(tables.rankings, ("ranking-variants",), FOR_VALID),
    "framing": Block(tables.framing, ("framing",), FOR_VALID),
    "framing-kuairand": Block(tables.framing, ("framing-kuairand",), FOR_VALID),
    "watch-time": Block(tables.watch_time, ("framing",), FOR_VALID),
    "watch-time-kuairand": Block(tables.watch_time, ("framing-kuairand",), FOR_VALID),
    "importance": Block(tables.importance, ("inputs",), "seed 0, validation days, mean ± deviation over permutations"),
    "learning-curve": Block(tables.learning_curve, ("inputs",), "`model=dcn`, validation days, mean ± deviation over seeds"),
    "debias": Block(tables.debias, ("debias",), "seeds 0 to 2 of training, one log; streaming state"),
    "drift": Block(tables.drift, ("drift",), "seed 0, state as of each request; windows of the viewers held out"),
    "drift-power": Block(tables.drift_power, ("drift",), "seed 0; share of windows that are drift and name the column"),
    "off-policy": Block(tables.off_policy, ("off_policy",), "seed 0; simulated logs, the truth is exact"),
    "true-best": Block(tables.true_best, ("true_best",), "seed 0, streaming state, mean ± twice the standard error"),
    "true-worlds": Block(tables.true_worlds, ("true_worlds",), WORLDS_ABOUT),
    "true-policies": Block(tables.true_policies, ("true_worlds",), WORLDS_ABOUT),
    "closed-loop": Block(
        tables.closed_loop, ("closed_loop",), "seconds watched a viewer and day, 95% intervals over runs, and over viewers"
    ),
    "global-split": Block(tables.global_split, ("global_split",), "seed 0, the state of the start of the test days"),
    "toys": Block(tables.toys, ("retrieval-0", "retrieval-1", "retrieval-2"), "mean ± deviation over seeds"),
    "toys-gain": Block(tables.toys_gain, ("retrieval-0", "retrieval-1", "retrieval-2"), "viewers resampled in pairs"),
    "cold-start": Block(tables.cold_start, ("cold_start",), STREAMING),
    "worlds": Block(tables.worlds, ("worlds",), "seed 0"),
    "loop": Block(tables.loop, ("loop",), "seed 0; simulated"),
    "fleet": Block(tables.fleet, ("fleet",), "seed 0, mid load; simulated"),
    "capacity": Block(tables.capacity, tuple(scaling_curves.RECORDS), "arithmetic on these measurements"),
    "features": Block(
        tables.columns(
            {
                "impressions a second": lambda f: f["impressions_per_s"],
                "ns an impression, start-up left out": lambda f: f["ns_per_impression"],
                "peak memory, MB": lambda f: f["peak_mb"],
                "bytes an impression on disk": lambda f: f["column_bytes_per_impression"],
                "one online counter update, us": lambda f: f["update_us"],
                "viewer state, bytes": lambda f: f["viewer_state_bytes"],
            }
        ),
        ("features-2m", "features-20m", "features-60m"),
    ),
    "index": Block(
        tables.columns(
            {
                "recall@500": lambda f: f["recall@500"],
                "p50, ms": lambda f: f["p50_ms"],
                "p99, ms": lambda f: f["p99_ms"],
                "share a filter keeps": lambda f: f["kept"],
                "narrow filter keeps": lambda f: f["narrow_kept"],
                "narrow filter, recall@500": lambda f: f["narrow_recall@500"],
                "narrow filter, p50, ms": lambda f: f["narrow_p50_ms"],
                "built in, s": lambda f: f["build_s"],
                "bytes a video, in memory": lambda f: f["resident_bytes"],
                "bytes a video, on disk": lambda f: f["bytes_per_video"],
                "peak memory, MB": lambda f: f["peak_mb"],
            }
        ),
        ("index-1m", "index-10m"),
        "seed 0; searching has one core",
    ),
    "training": Block(
        tables.columns(
            {
                "watches": lambda f: f["watches"],
                "examples a second": lambda f: f["examples_per_s"],
                "examples a CPU second": lambda f: f["examples_per_cpu_s"],
                "peak memory, MB": lambda f: f["peak_mb"],
                "RecTools' SASRec, examples a second": lambda f: f.get("rectools_examples_per_s"),
                "RecTools' SASRec, examples a CPU second": lambda f: f.get("rectools_examples_per_cpu_s"),
            }
        ),
        ("training",),
    ),
    "tables": Block(
        tables.columns(
            {
                f"{kind.replace('_', ' ')}: {title}": lambda f, kind=kind, of=of: of(f).get(kind)
                for kind in ("full", "quotient_remainder", "hashed")
                for title, of in (
                    ("examples a second", lambda f: {k: v["examples_per_s"] for k, v in f["tables"].items()}),
                    ("peak memory, MB", lambda f: {k: v["peak_mb"] for k, v in f["tables"].items()}),
                    ("GB for a billion rows", lambda f: f["billion_gb"]),
                )
            }
        ),
        ("tables",),
    ),
    "simulator": Block(
        tables.columns(
            {
                "impressions": lambda f: f["impressions"],
                "impressions a second": lambda f: f["impressions_per_s"],
                "peak memory, MB": lambda f: f["peak_mb"],
                "bytes an impression on disk": lambda f: f["file_bytes_per_impression"],
            }
        ),
        ("simulator",),
    ),
    "scoring": Block(
        tables.columns(
            {
                f"{kind}: {title}": lambda f, kind=kind, key=key: (f.get(kind) or {}).get(key)
                for kind in ("f32", "bf16")
                for title, key in (
                    ("p50, ms", "p50_ms"),
                    ("p99, ms", "p99_ms"),
                    ("features, ms", "features_ms"),
                    ("model, ms", "model_ms"),
                )
            }
        ),
        ("scoring", "scoring-avx2"),
        "seed 0; one core",
    ),
    "reranking": Block(
        tables.columns(
            {
                f"{method}: {title}": lambda f, method=method, key=key: f["methods"][method][key]
                for method in ("mmr", "dpp")
                for title, key in (("p50, ms", "p50_ms"), ("p99, ms", "p99_ms"), ("processor time, ms", "cpu_ms"))
            }
        ),
        ("reranking",),
        "seed 0; one core",
    ),
    "serving": Block(
        tables.columns(
            {
                "videos": lambda f: f["videos"],
                "p50, ms": lambda f: f["p50_ms"],
                "p99, ms": lambda f: f["p99_ms"],
                "processor time, ms": lambda f: f["cpu_ms"],
                **{
                    f"{stage}, p50, ms": lambda f, stage=stage: f["stages_p50_ms"].get(stage)
                    for stage in ("state", "retrieval", "ranking", "reranking", "answer")
                },
                "a durable event, us": lambda f: f["durable_event_us"],
                "an event in the journal, bytes": lambda f: f["journal_event_bytes"],
                "an answer in the served log, bytes": lambda f: f["served_answer_bytes"],
                "a release checked and loaded, s": lambda f: f["load_s"],
                "a new store built and warm, s": lambda f: f["open_s"],
            }
        ),
        ("serving",),
        "one request after another, without HTTP",
    ),
    "serving-http": Block(
        tables.columns(
            {
                "videos": lambda f: f["videos"],
                "slates a second, given": lambda f: f["rate"],
                "p50, ms": lambda f: f["p50_ms"],
                "p99, ms": lambda f: f["p99_ms"],
                "slates a second, most": lambda f: f["capacity_rps"],
                "precomputed, p99, ms": lambda f: f["precomputed_p99_ms"],
                "durable events a second, most": lambda f: f["events_per_s"],
                "events acknowledged, p99, ms": lambda f: f["events_p99_ms"],
                "slates beside events, p99, ms": lambda f: f["beside_p99_ms"],
                "commit, ms": lambda f: f["stages_ms"]["commit"],
                "one fsync, ms": lambda f: f["fsync_ms"],
                "memory of the worker, MB": lambda f: f["rss_mb"],
                "ready after, s": lambda f: f["ready_s"],
            }
        ),
        ("serving-http",),
        "load and server on the same machine",
    ),
    "ranker-training": Block(
        tables.columns(
            {
                "impressions a second": lambda f: f["rows_per_s"],
                "impressions a CPU second": lambda f: f["rows_per_cpu_s"],
                "precision": lambda f: f["precision"],
                "parameters": lambda f: f["parameters"],
                "peak memory, MB": lambda f: f["peak_mb"],
            }
        ),
        ("ranker_training",),
    ),
}
