"""From a run to a printed table: what is recorded, and what is rendered of it."""

import json
import re
from pathlib import Path

import pytest
from benchmarks import record
from benchmarks.rendering import tables
from benchmarks.rendering.__main__ import RenderError, rendered
from benchmarks.rendering.blocks import BLOCKS, RECORDS, SAMPLE, Records

ROOT = Path(__file__).resolve().parents[2]

# ---- blocks ----------------------------------------------------------------------------------------------------------


def test_a_block_without_a_source_is_refused_by_name():
    with pytest.raises(RenderError, match="the block 'guesses' has no source"):
        rendered("<!-- results:guesses -->\n<!-- /results -->", Records())


def test_a_drifted_figure_is_written_anew_and_an_absent_one_is_named(tmp_path):
    write(tmp_path / "outputs/metrics/evaluation.json", {"release": "r1", "lost": {"retrieval": 0.25, "shown": None}})
    text = "before\n<!-- results:sample-lost -->\nold\n<!-- /results -->\n<!-- results:simulator -->\n<!-- /results -->\nafter"
    found = rendered(text, Records(tmp_path))
    assert "| share of long views | .2500 | – |" in found
    assert "release r1, machine and date not recorded; seed 0, state as of each request" in found
    assert "Not measured on this commit: `python -m benchmarks.record simulator --impressions 60000000`." in found
    assert "old" not in found
    assert found.startswith("before\n")
    assert found.endswith("\nafter")
    assert rendered(found, Records(tmp_path)) == found


def test_the_sample_has_machine_and_date_of_the_recorded_run_of_the_same_release(tmp_path):
    write(tmp_path / "outputs/metrics/evaluation.json", {"release": "r1", "lost": {"shown": 1.0}})
    write(tmp_path / "benchmarks/results/pipeline.json", recorded({"release": "r1"}))
    assert "CPU (avx2), 2 cores, 8 GB, 2026-01-02, commit abc" in Records(tmp_path).of(SAMPLE).origin
    write(tmp_path / "benchmarks/results/pipeline.json", recorded({"release": "r2"}))
    assert "machine and date not recorded" in Records(tmp_path).of(SAMPLE).origin


def test_a_record_without_a_figure_of_its_block_names_the_command(tmp_path):
    write(tmp_path / "benchmarks/results/simulator.json", recorded({"impressions": 5}))
    with pytest.raises(RenderError, match=r"run the benchmark again: python -m benchmarks\.record simulator"):
        rendered("<!-- results:simulator -->\n<!-- /results -->", Records(tmp_path))


def test_numbers_and_spreads_are_written_alike_everywhere():
    values = [0.12344, -0.5, 12.3, 6000, 1234.5, None, float("nan"), 1.0]
    assert [tables.number(value) for value in values] == [".1234", "-.5000", "12.3000", "6,000", "1,234", "–", "–", "1.0000"]
    assert tables.spread([0.1, 0.3]) == ".2000 ± .1414"
    assert tables.spread([0.5]) == ".5000"


def test_rankings_of_several_seeds_have_their_spread_and_floors_stand_once():
    run = dict.fromkeys(tables.RANKED, 0.5)
    other = dict.fromkeys(tables.RANKED, 0.7)
    figures = {"models": {"dcn": run | {"seeds": [run, other]}, "mlp": run}, "floors": {"video_rate": run}}
    lines = tables.rankings({"ranking": figures, "ranking-others": {"models": {}, "floors": {"video_rate": run}}}).splitlines()
    assert lines[2].startswith("| dcn | .6000 ± .1414 | ")
    assert lines[2].endswith("| 2 |")
    assert lines[3].startswith("| mlp | .5000 | ")
    assert [line for line in lines if "baseline" in line] == lines[4:]


def test_order_inside_requests_is_a_column_and_a_gain_where_it_was_measured():
    run = dict.fromkeys(tables.RANKED, 0.5)
    requested = run | dict.fromkeys(tables.REQUESTED, 0.6)
    over = {"over_xgboost": {name: [0.01, -0.01, 0.03] for name in tables.REQUESTED}}
    figures = {"models": {"ranker": requested | over, "mlp": run}, "floors": {"video_rate": requested}}
    lines = tables.rankings({"ranking": figures}).splitlines()
    assert lines[0].endswith("| GAUC in requests | nDCG@5 in requests | MRR in requests | seeds |")
    assert [line.split(" | ")[-2] for line in lines[2:]] == [".6000", "–", ".6000"]
    gains = tables.ranking_gain({"ranking": figures}).splitlines()
    assert gains[2:] == [f"| ranker over xgboost, {title} | .0100 | -.0100 | .0300 |" for title in tables.REQUESTED.values()]


def write(path: Path, found: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))


def recorded(figures: dict) -> dict:
    machine = {"cpu": "CPU", "cores": 2, "flags": ["avx2"], "memory_gb": 8}
    return {"command": "c", "machine": machine, "date": "2026-01-02", "commit": "abc", "figures": figures}


# ---- records ---------------------------------------------------------------------------------------------------------


def test_a_private_path_is_recorded_as_its_variable_and_refused_without_one():
    variables = {"LOG_ROOT": "/private/log", "HOME": "/private", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    words = ["--root", "/private/log", "data.loader.root=/private/log/part"]
    command = "ONEDNN_MAX_CPU_ISA=AVX2 python -m benchmarks.ranking --root $LOG_ROOT data.loader.root=$LOG_ROOT/part"
    assert record.command_of("ranking", words, variables) == command
    for word in ("/private/other", "root=/private/other", "../log", "~/log"):
        with pytest.raises(record.PrivatePathError, match="is a path of this machine, expected a variable"):
            record.command_of("ranking", [word], variables)


def test_a_record_keeps_the_last_line_with_command_machine_and_commit(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "last_line", lambda name, arguments: '{"p50_ms": 1.5}')
    path = record.record("serving", ["--requests", "5"], label="small", results=tmp_path)
    found = json.loads(path.read_text())
    assert path.name == "serving-small.json"
    assert found["command"].endswith("python -m benchmarks.serving --requests 5")
    assert found["figures"] == {"p50_ms": 1.5}
    assert re.fullmatch(r"[0-9a-f]{12}\+?", found["commit"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"])
    assert found["machine"]["cores"] >= 1


def test_a_benchmark_whose_last_line_is_no_json_is_not_recorded(monkeypatch, tmp_path):
    monkeypatch.setattr(record, "last_line", lambda name, arguments: "done")
    with pytest.raises(SystemExit, match=r"the last line of benchmarks\.serving is 'done', expected one JSON object"):
        record.record("serving", [], label=None, results=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", RECORDS)
def test_a_listed_command_writes_the_record_of_its_name(name):
    label, _, words = (
        RECORDS[name].removeprefix("--label ").partition(" ") if "--label" in RECORDS[name] else ("", "", RECORDS[name])
    )
    benchmark = words.split()[0]
    assert benchmark in record.benchmarks()
    assert name == "-".join(filter(None, (benchmark.rpartition(".")[2], label)))


def test_no_record_names_a_path_of_a_machine():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        found = json.loads(path.read_text())
        assert not re.search(r"[ =]/\w", found["command"]), path.name


# ---- tables of every benchmark ------------------------------------------------------------------------------------------

HEAD = {"mean": 0.5, "spread": 0.1}
ORDERED = {order: dict.fromkeys(tables.TRUTH, HEAD) for order in ("value", "served")}
TRUE_WORLDS = {
    "worlds": {"world": ORDERED}, "cells": {"world": {"weak": ORDERED}}, "seeds": {"world": {"weak": 3}},
    "worst": {order: {"share": {"world": "world", "mean": 0.5}} for order in ORDERED},
    "gain": {"world": {"served": {"share": [0.01, -0.01, 0.03]}}},
}  # fmt: skip
EXAMPLES = {
    "importance": {"inputs": {"importance": {"worse_by": {"video": dict.fromkeys(tables.HEADED, HEAD)}}}},
    "learning-curve": {"inputs": {"learning_curve": {"sizes": [{"rows": 9, **dict.fromkeys(tables.HEADED, HEAD)}]}}},
    "framing": {"framing": {"framing": {"multi_task": {"auc": HEAD, "gauc": HEAD, "ndcg@5": HEAD, "ece": HEAD}}}},
    "watch-time": {"framing": {"watch_time": {"tree": dict.fromkeys(tables.HEADS, HEAD)}}},
    "debias": {"debias": {"ways": {"plain": dict.fromkeys(tables.DEBIASED, HEAD)}, "placed": {}}},
    "true-best": {"true_best": {way: {"ranker": {"share": [0.2, 0.1], "long_view": 0.4, "watch_s": 9.0}}
                                for way in ("retrieved", "drawn")}},
    "true-worlds": {"true_worlds": TRUE_WORLDS},
    "true-policies": {"true_worlds": TRUE_WORLDS},
    "closed-loop": {"closed_loop": {"gain": {"world": {"popular": [0.2, None, None]}},
                                    "worst": {"popular": ["world-0", [0.2, 0.1, 0.3]]},
                                    "won": {"popular": {"won": 1, "lost": 0, "runs": 1}}}},
    "global-split": {"global_split": {viewers: {"viewers": 9, "towers": dict.fromkeys(
        ("recall@10", "hit@10", "ndcg@10", "ndcg@10_of_10", "coverage@10"), 0.1)} for viewers in ("all", "warm")}},
    "cold-start": {"cold_start": {"recall@500": {
        "by_video_age": {"under 24h": {"fresh": 0.1}, "any age": {"fresh": 0.2}}, "by_watches": {"0": {"fresh": 0.3}}}}},
    "worlds": {"worlds": {"logs": {"world": {"impressions": 1200.0, "click rate": 0.31234}}}},
    "ranking-gain": {"ranking": {"over_xgboost": {"auc": [0.002, 0.001, 0.003]}}},
}  # fmt: skip


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_benchmark_s_figures_become_a_table(name):
    lines = BLOCKS[name].made(EXAMPLES[name]).splitlines()
    assert len(lines) >= 3
    assert len({line.count("|") for line in lines}) == 1
    assert not any("None" in line for line in lines)


def test_leave_one_out_of_three_seeds_has_mean_and_spread():
    floors = {"graph": {"recall@10": 0.3, "ndcg@10": 0.2}}
    ends = {"recall@10": [0.01, 0.02], "ndcg@10": [0.03, 0.04]}
    runs = {
        f"retrieval-{seed}": {"recall@10": 0.1 + seed / 10, "ndcg@10": 0.2, "merged_recall@10": 0.4, "merged_ndcg@10": 0.5,
                              "floors": floors, "epoch_s": 5.0, "run_s": 60.0, "seed": seed,
                              "over_strongest_floor": {"floor": "graph", "towers": ends, "merged": ends}}
        for seed in range(3)
    }  # fmt: skip
    lines = tables.toys(runs).splitlines()
    assert lines[2] == "| towers alone | .2000 ± .1000 | .2000 ± .0000 |"
    assert tables.toys_gain(runs).splitlines()[2] == "| 0 | towers | graph | recall@10 | .0100 | .0200 |"
