"""README.md and docs/ print rendered figures, and links, files and commands that exist."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
import yaml
from benchmarks.rendering.__main__ import MARKED, pages, rendered
from benchmarks.rendering.blocks import BLOCKS, RECORDS, SAMPLE, Records
from hydra.utils import get_class

ROOT = Path(__file__).resolve().parents[2]
PAGES = [pytest.param(page, id=page.name) for page in [*pages(), ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]]
# Folders that commands make, and the reader's own.
MADE = {"outputs", "releases", "store", "runs", "mlruns", "state", "mine", ".venv"}
LINK = re.compile(r"\]\((?!https?:|#)([^)#\s]+)[^)]*\)")
FILE = re.compile(r"`((?:[\w.-]+/)*[\w-]+\.(?:py|yaml|md|json|toml|lock|dvc))`")
STAGE = re.compile(r"python -m watchnext\.(\w+)((?: [a-z][a-z-]*)*)")
BENCHMARK = re.compile(r"python -m benchmarks\.(\w+(?:\.\w+)*)")
DECISIONS = ROOT / "docs" / "decisions.md"
DECISION = re.compile(r"^### (\d+)\.(\d+) ", re.MULTILINE)
POINTER = re.compile(r"(?:\bsee|\bdecisions,|decisions\.md,) (\d+\.\d+)\b")
PRESET = re.compile(r"\b(model|data|index|trainer|retrieval|features)=(\w+)")

# ---- figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_page_prints_the_figures_of_its_records(page):
    assert rendered(page.read_text(), Records()) == page.read_text(), "run `make docs`"


def test_every_block_is_on_a_page_and_every_record_in_a_block():
    marked = {match["name"] for page in pages() for match in MARKED.finditer(page.read_text())}
    assert marked == BLOCKS.keys()
    assert {record for block in BLOCKS.values() for record in block.records} == {*RECORDS, SAMPLE}


# ---- numbers of the decisions -----------------------------------------------------------------------------------------


def test_decisions_are_numbered_in_order_below_their_stage():
    numbers, expected, counts = DECISION.findall(DECISIONS.read_text()), [], Counter()
    for stage, _ in numbers:
        counts[stage] += 1
        expected.append((stage, str(counts[stage])))
    assert numbers == expected


def test_a_pointer_to_a_decision_leads_to_one():
    numbers = {".".join(number) for number in DECISION.findall(DECISIONS.read_text())}
    files = [*pages(), *(ROOT / "src").rglob("*.py")]
    pointers = {number: file.name for file in files for number in POINTER.findall(file.read_text())}
    assert {"7.15", "8.16"} <= pointers.keys()
    assert {number: file for number, file in pointers.items() if number not in numbers} == {}


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
    text, targets = page.read_text(), (ROOT / "Makefile").read_text()
    wrong = [f"{stage}{words}" for stage, words in STAGE.findall(text) if words and not known(stage, words.strip())]
    programs = [ROOT / "benchmarks" / name.replace(".", "/") for name in BENCHMARK.findall(text)]
    wrong += [path for path in programs if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists()]
    wrong += [target for target in re.findall(r"`make ([a-z-]+)", text) if f"\n{target}:" not in targets]
    names = [(group, name) for group, name in PRESET.findall(text) if name not in ("mine", "null", "NAME")]
    wrong += [f"{group}={name}" for group, name in names if not (ROOT / "conf" / group / f"{name}.yaml").exists()]
    assert not wrong


def known(stage: str, words: str) -> bool:
    """Return whether the words behind a stage begin with one of its commands."""
    return any(f"{words} ".startswith(f"{name} ") for name in commands_of(stage))


@cache
def commands_of(stage: str) -> frozenset[str]:
    """Return the commands that a stage's `__main__` maps to functions."""
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
