"""A name stands for one thing in the whole package, and words that were replaced (docs/glossary.md) do not come back."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "src" / "watchnext"
SHARED_MODULES = {  # name > why more than one module may have it
    "__init__": "packages",
    "__main__": "the commands of a stage",
    "metrics": "metrics of models, and those of the server, as both fields call them",
}
# Old names and phrases, each replaced by a word of the field.
RETIRED = [
    r"\bDesk\b",
    r"\bInstruments\b",
    r"\bFATES\b",
    r"\bFollower\b",
    r"\bLaps\b",
    r"\bVariableError\b",
    r"\bAgreementError\b",
    r"\bWalkSource\b",
    r"\bShelf\b",
    r"\bAsked\b",
    r"\bLedger\b",
    r"\b[Cc]ommittee",
    r"\bbent line\b",
    r"\bblind\b",
    r"\bsaid\b",
    r"\bof whom\b",
    r"\boccupancy\b",
    r"\bopening[ _]state\b",
    r"\bhopeless\b",
    r"\bspare yourself\b",
    r"\bkept aside\b",
    r"\bmend\b",
    r"\bis no JSON\b",
    r"\btook nothing\b",
    r"\bthe wrong way round\b",
    r"\bturned over\b",
    r"\bshel(f|ves)\b",
    r"\blikeness\b",
    r"\blooks? on\b",
    r"\blooks_on\b",
    r"\btold\b",
    r"\bunsaid\b",
]
OPENINGS = ("What ", "Of ", "That of ", "Those of ", "Whether ")


def parsed(folder: Path = PACKAGE) -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(folder.rglob("*.py")):
        yield str(path.relative_to(folder)), ast.parse(path.read_text())


def doubled(names: list[tuple[str, str]]) -> dict[str, list[str]]:
    by_name = defaultdict(list)
    for name, file in names:
        by_name[name].append(file)
    return {name: files for name, files in by_name.items() if len(files) > 1}


def test_a_class_name_stands_for_one_thing():
    classes = [(node.name, file) for file, tree in parsed() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert doubled(classes) == {}


def test_a_module_name_stands_for_one_thing():
    assert doubled([(Path(file).stem, file) for file, _ in parsed() if Path(file).stem not in SHARED_MODULES]) == {}


@pytest.mark.parametrize("folder", ["src/watchnext", "tests"])
def test_a_docstring_begins_with_a_verb_or_its_subject(folder):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    documented = [
        (file, node, ast.get_docstring(node))
        for file, tree in parsed(ROOT / folder)
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    ]
    assert [f"{file}: {text.splitlines()[0]}" for file, _, text in documented if text and text.startswith(OPENINGS)] == []


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every file that users or developers read, but the glossary, which names the old words."""
    files = [path for folder in ("src", "conf", "docs") for path in (ROOT / folder).rglob("*")]
    kinds = {".py", ".yaml", ".md", ".js", ".html"}
    chosen = [path for path in [*files, ROOT / "README.md"] if path.suffix in kinds and path.name != "glossary.md"]
    return {str(path.relative_to(ROOT)): path.read_text() for path in chosen}


@pytest.mark.parametrize("word", RETIRED)
def test_a_retired_word_does_not_come_back(word, texts):
    assert [file for file, text in texts.items() if re.search(word, text)] == []
