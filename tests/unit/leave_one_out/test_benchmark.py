"""`python -m benchmarks.retrieval` on small files, in this process."""

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from benchmarks import retrieval

ROOT = Path(__file__).resolve().parents[3]
FAST = ["max_epochs=2", "module.network.dimension=8", "module.positions=256"]


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)  # where conf/ is


def written(path: Path, viewers: list[list[str]]) -> Path:
    path.write_text("".join(f"user{i} {' '.join(items)}\n" for i, items in enumerate(viewers)))
    return path


def chains(viewers: int = 60, items: int = 40) -> list[list[str]]:
    """Each viewer walks on from one item to the next: everything is in the transitions."""
    random = np.random.default_rng(0)
    starts, sizes = random.integers(0, items, viewers), random.integers(4, 9, viewers)
    return [[f"item{(start + j) % items}" for j in range(size)] for start, size in zip(starts, sizes, strict=True)]


def run(monkeypatch, capsys, *arguments: object) -> dict:
    monkeypatch.setattr(sys, "argv", ["retrieval", *map(str, arguments)])
    retrieval.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_the_last_line_holds_the_figures_and_the_file_the_same_ones(tmp_path, monkeypatch, capsys):
    viewers = [*chains(), ["item1", "item2"]]  # the last viewer has too few items to hold one out
    path, out = written(tmp_path / "walks.txt", viewers), tmp_path / "top.parquet"
    found = run(monkeypatch, capsys, "--sequences", path, "--predictions", out, *FAST)
    assert set(found) >= {"recall@10", "ndcg@10", "merged_recall@10", "merged_ndcg@10", "train_s", "epoch_s", "epochs"}
    assert set(found["floors"]) == {"popular", "recent", "transitions", "graph"}
    assert found["floors"]["transitions"]["recall@10"] > 0.9
    assert found["merged_recall@10"] > 0.9 > found["floors"]["popular"]["recall@10"]
    top = pl.read_parquet(out)
    for source, name in (("towers", "recall@10"), ("merged", "merged_recall@10")):
        mine = top.filter(pl.col("source") == source)
        assert mine["rank"].min() == 1
        assert mine["rank"].max() == 10
        hits = 0
        for line, items in enumerate(viewers[:-1], start=1):
            named = mine.filter(pl.col("line") == line).sort("rank")["item"].to_list()
            assert not set(named) & set(items[:-1])
            hits += items[-1] in named
        assert hits / 60 == pytest.approx(found[name], abs=1e-5)
    assert top["line"].max() == 60


def test_test_items_change_nothing_that_is_chosen_or_learned(tmp_path, monkeypatch, capsys):
    """With other test items (of the same catalogue) the validation figures, weights of the merge included, are the same."""
    viewers = chains()
    order = np.random.default_rng(1).permutation(len(viewers))
    others = [[*items[:-1], viewers[other][-1]] for items, other in zip(viewers, order, strict=True)]
    found = []
    for name, content in (("a", viewers), ("b", others)):
        path = written(tmp_path / name, content)
        found.append(run(monkeypatch, capsys, "--sequences", path, "--held-out", "valid", *FAST))
    for figures in found:
        for name in ("train_s", "epoch_s", "run_s"):
            del figures[name]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("u1 a b c\nu2\nu3 a b c\n", r"x\.txt line 2: u2'?: line without an item"),
        ("u1 a b c\n\nu3 a b c\n", r"x\.txt line 2: '?: empty line"),
        ("u1 a b c\nu2 a b\nu1 b c a\n", r"x\.txt line 3: u1 b c a'?: second line of a viewer"),
        ("u1 a b\nu2 b a\n", "none of 2 viewers has three videos"),
        ("", "holds no line"),
    ],
)
def test_a_bad_file_is_refused_by_line(text, message, tmp_path, monkeypatch, capsys):
    path = tmp_path / "x.txt"
    path.write_text(text)
    with pytest.raises(SystemExit, match=message):
        run(monkeypatch, capsys, "--sequences", path, *FAST)


def test_a_missing_file_is_named(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"none\.txt is not a file"):
        run(monkeypatch, capsys, "--sequences", tmp_path / "none.txt")


def test_recent_watches_weigh_more():
    histories = retrieval.Sequences.of([[0, 1, 2], [2], []], videos=4)
    assert retrieval.recent(histories).tolist() == [0.25, 0.5, 2.0, 0.0]
