"""What README.md and docs/ print: rendered figures, links, named files and commands that exist."""

import ast
import json
import re
from functools import cache
from pathlib import Path

import pytest
import yaml
from benchmarks import record
from benchmarks.rendering import tables
from benchmarks.rendering.__main__ import MARKED, RenderError, pages, rendered
from benchmarks.rendering.blocks import BLOCKS, RECORDS, SAMPLE, Records
from hydra.utils import get_class

ROOT = Path(__file__).resolve().parents[1]
PAGES = [pytest.param(page, id=page.name) for page in [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]]
MADE = (
    "outputs",
    "releases",
    "store",
    "runs",
    "mlruns",
    "state",
    "columns",
    "watches",
    "mine",
    ".venv",
    "context",
)  # by commands
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)")
FILE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|yaml|md|json|toml|lock|dvc))`")
STAGE = re.compile(r"python -m watchnext\.(\w+)((?: [a-z][a-z-]*)*)")
BENCHMARK = re.compile(r"python -m benchmarks\.(\w+)")
PRESET = re.compile(r"\b(model|data|index|trainer|retrieval|features)=(\w+)")
MISSING = "mine"  # the reader's own data set

# ---- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_page_prints_the_figures_of_its_records(page):
    assert rendered(page.read_text(), Records()) == page.read_text(), "run `make docs`"


def test_every_block_is_on_a_page_and_every_record_in_a_block():
    marked = {match["name"] for page in pages() for match in MARKED.finditer(page.read_text())}
    assert marked == BLOCKS.keys()
    assert {record for block in BLOCKS.values() for record in block.records} == {*RECORDS, SAMPLE}


def test_a_block_without_a_source_is_refused_by_name():
    with pytest.raises(RenderError, match="the block 'guesses' has no source"):
        rendered("<!-- results:guesses -->\n<!-- /results -->", Records())


def test_a_drifted_figure_is_written_anew_and_an_absent_one_is_named(tmp_path):
    write(tmp_path / "outputs/metrics/evaluation.json", {"release": "r1", "lost": {"retrieval": 0.25, "shown": None}})
    text = "before\n<!-- results:sample-lost -->\nold\n<!-- /results -->\n<!-- results:world -->\n<!-- /results -->\nafter"
    found = rendered(text, Records(tmp_path))
    assert "| share of long views | .2500 | – |" in found
    assert "release r1, machine and date not recorded; seed 0, streaming state" in found
    assert "Not measured on this commit: `python -m benchmarks.record world --impressions 60000000`." in found
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
    write(tmp_path / "benchmarks/results/world.json", recorded({"impressions": 5}))
    with pytest.raises(RenderError, match=r"run the benchmark again: python -m benchmarks\.record world"):
        rendered("<!-- results:world -->\n<!-- /results -->", Records(tmp_path))


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
    assert [line for line in lines if "floor" in line] == lines[4:]


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


def test_no_record_names_a_path_of_a_machine():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        found = json.loads(path.read_text())
        assert not re.search(r"[ =]/\w", found["command"]), path.name


# ---- links, files, commands ---------------------------------------------------------------------------------------------


def test_the_front_page_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 130


@pytest.mark.parametrize("page", PAGES)
def test_relative_links_lead_somewhere(page):
    dead = [link for link in LINK.findall(page.read_text()) if not (page.parent / link).exists()]
    assert not dead


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page):
    """At the root, or below the package as modules are named in prose."""
    named = [name for name in FILE.findall(page.read_text()) if "/" in name and name.split("/")[0] not in MADE]
    assert not [name for name in named if not any((ROOT / at / name).exists() for at in ("", "src/watchnext", "docs"))]


@pytest.mark.parametrize("page", PAGES)
def test_printed_commands_exist(page):
    text = page.read_text()
    wrong = [f"{stage}{words}" for stage, words in STAGE.findall(text) if words and not known(stage, words.strip())]
    wrong += [name for name in BENCHMARK.findall(text) if not (ROOT / "benchmarks" / name).with_suffix(".py").exists()
              and not (ROOT / "benchmarks" / name / "__main__.py").exists()]  # fmt: skip
    wrong += [
        target for target in re.findall(r"`make ([a-z-]+)", text) if f"\n{target}:" not in (ROOT / "Makefile").read_text()
    ]
    names = [(group, name) for group, name in PRESET.findall(text) if name not in (MISSING, "null", "NAME")]
    wrong += [f"{group}={name}" for group, name in names if not (ROOT / "conf" / group / f"{name}.yaml").exists()]
    assert not wrong


def known(stage: str, words: str) -> bool:
    """Whether the words behind a stage begin with one of its commands."""
    return any(f"{words} ".startswith(f"{name} ") for name in commands_of(stage))


@cache
def commands_of(stage: str) -> frozenset[str]:
    """What a stage's `__main__` maps to functions."""
    tree = ast.parse((ROOT / "src/watchnext" / stage / "__main__.py").read_text())
    pairs = [pair for node in ast.walk(tree) if isinstance(node, ast.Dict) for pair in zip(node.keys, node.values, strict=True)]
    return frozenset(key.value for key, value in pairs if isinstance(key, ast.Constant) and isinstance(value, ast.Name))


def test_a_command_that_no_stage_has_is_noticed():
    assert known("serving", "state build")
    assert known("ranking", "learning-curve model")
    assert not known("data", "tabels")
    assert not known("serving", "state")


def test_the_preset_for_own_logs_that_is_printed_has_the_keys_of_the_sample_s():
    printed = (ROOT / "README.md").read_text().partition("<<'YAML'\n")[2].partition("\nYAML\n")[0]
    mine, sample = yaml.safe_load(printed), yaml.safe_load((ROOT / "conf/data/sample.yaml").read_text())
    assert mine.keys() == sample.keys()
    for part in ("loader", "split"):
        assert get_class(mine[part]["_target_"]) is get_class(sample[part]["_target_"])
