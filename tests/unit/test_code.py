"""Which modules run, and when what they built can be carried on."""

import shutil
from pathlib import Path

import grimp
import pytest

from watchnext import code_digest as sources
from watchnext.cli import composed, plain
from watchnext.code_digest import code_of, imported, targets_of
from watchnext.nn.checkpoints import settings_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def package(tmp_path, monkeypatch) -> Path:
    """a > b > c, d inside a function, e for types alone; f and its folder are apart."""
    folder = tmp_path / "watchnext"
    (folder / "far").mkdir(parents=True)
    for name, text in {
        "__init__": "",
        "a": "import os\nfrom watchnext.b import thing\n\n\ndef later():\n    from watchnext import d\n    return d",
        "b": "import watchnext.c\nthing = watchnext.c",
        "c": "from watchnext import a",
        "d": "class Deed: ...",
        "far/__init__": "",
        "far/f": "from watchnext.d import Deed",
    }.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setattr(sources, "PACKAGE", folder)
    return folder


def test_imports_are_followed_to_their_end_through_functions_and_circles(package):
    assert set(imported("watchnext.a")) == {"watchnext", "watchnext.a", "watchnext.b", "watchnext.c", "watchnext.d"}
    assert set(imported("watchnext.d.Deed.made")) == {"watchnext", "watchnext.d"}
    assert set(imported("watchnext.far.f")) == {"watchnext", "watchnext.far", "watchnext.far.f", "watchnext.d"}
    assert imported("torch.nn.Linear") == {}
    assert imported("watchnext.a")["watchnext.d"] == package / "d.py"


def test_the_digest_changes_with_the_code_that_runs_and_with_no_other(package):
    before = code_of("watchnext.a")
    (package / "far" / "f.py").write_text("other = 1")
    assert code_of("watchnext.a") == before
    (package / "d.py").write_text("class Deed: other = 1")
    assert code_of("watchnext.a") != before


def test_classes_are_found_however_deep():
    config = {"_target_": "a.B", "inner": {"list": [{"_target_": "c.D"}, 3], "_partial_": True}, "none": None}
    assert set(targets_of(config)) == {"a.B", "c.D"}


def test_imports_are_those_that_grimp_finds():
    graph = grimp.build_graph("watchnext", cache_dir=None)
    for name in ("watchnext.evaluation.__main__", "watchnext.features.dataset.log_columns", "watchnext.serving.http.service"):
        expected = graph.find_upstream_modules(name) | {name}
        packages = {module for module, path in imported(name).items() if path.name == "__init__.py"}
        assert imported(name).keys() - packages == expected - packages, name


@pytest.fixture
def edit(tmp_path, monkeypatch):
    """Appends a comment to a file of the package, in a copy that digests are taken of from now on."""

    def edit(name: str) -> None:
        monkeypatch.setattr(sources, "PACKAGE", tmp_path / "watchnext")
        shutil.copytree(ROOT / "src" / "watchnext", tmp_path / "watchnext", ignore=shutil.ignore_patterns("__pycache__"))
        with (tmp_path / "watchnext" / name).open("a") as file:
            file.write("\n# edited\n")

    return edit


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("serving/http/app.py", set()),
        ("ranking/models/linear.py", {"ranker"}),
        ("ranking/models/trees/boosted.py", {"ranker", "xgboost"}),
        ("ranking/analysis/importance.py", set()),
        ("ranking/watch_time/tree.py", {"ranker", "dcn"}),
        ("retrieval/towers/objectives.py", {"two_tower"}),
        ("nn/checkpoints.py", {"ranker", "xgboost", "dcn", "two_tower"}),
    ],
)
def test_a_training_goes_on_after_an_edit_of_code_that_it_never_touches(edited, changed, edit, monkeypatch):
    monkeypatch.chdir(ROOT)
    configs = {name: plain(composed([f"model={name}"])) for name in ("ranker", "xgboost", "dcn", "two_tower")}
    before = {name: settings_of(config, {})["code"] for name, config in configs.items()}
    edit(edited)
    assert {name for name, config in configs.items() if settings_of(config, {})["code"] != before[name]} == changed


@pytest.mark.parametrize(
    ("edited", "changed"),
    [
        ("serving/http/app.py", set()),
        ("features/leakage/checks.py", set()),
        ("data/card/card.py", set()),
        ("features/dataset/labels.py", {"features.dataset.log_columns"}),
        ("features/state/fold.py", {"features.dataset.log_columns", "features.state.builder"}),
        ("data/validation.py", {"data.stage"}),
        ("schema.py", {"data.stage", "features.dataset.log_columns", "features.state.builder"}),
    ],
)
def test_days_stay_after_an_edit_of_code_that_does_not_make_them(edited, changed, edit):
    names = ("data.stage", "features.dataset.log_columns", "features.state.builder")
    before = {name: code_of(f"watchnext.{name}") for name in names}
    edit(edited)
    assert {name for name in names if code_of(f"watchnext.{name}") != before[name]} == changed
