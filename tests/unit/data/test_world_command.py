"""The commands `world` of the simulator and `compare` of the data stage, as they are typed."""

import runpy
from pathlib import Path

import polars as pl
import pytest

ROOT = Path(__file__).resolve().parents[3]


def run(monkeypatch, *words: str) -> object:
    """Run a command; returns the exit code, or the message that the program ends with."""
    module = "watchnext.simulator" if words[0] == "world" else "watchnext.data"
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", [module, *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module(module, run_name="__main__")
    return stopped.value.code


def test_worlds_are_written_by_short_keys_and_laid_beside_each_other(monkeypatch, tmp_path, capsys):
    sizes = ("users=150", "videos=200", "days=2")
    assert run(monkeypatch, "world", *sizes, f"out={tmp_path / 'first'}") is None
    assert "150 users, 200 videos, 2 days" in capsys.readouterr().out
    assert run(monkeypatch, "world", "data=world_popular", *sizes, f"out={tmp_path / 'other'}") is None
    logs = [pl.read_parquet(tmp_path / name / "impressions" / "**" / "*.parquet") for name in ("first", "other")]
    assert not logs[0]["watch_ms"].equals(logs[1]["watch_ms"])
    capsys.readouterr()
    assert run(monkeypatch, "compare", tmp_path / "first", tmp_path / "other", f"out={tmp_path / 'world.png'}") is None
    table = capsys.readouterr().out.splitlines()
    assert table[0] == "|  | first | other |"
    assert table[2] == f"| impressions | {len(logs[0]):,} | {len(logs[1]):,} |"
    assert (tmp_path / "world.png").read_bytes().startswith(b"\x89PNG")


def test_a_missing_argument_is_named(monkeypatch):
    assert "run `python -m watchnext.simulator world out=DIR`" in run(monkeypatch, "world")
    assert "data is 'sample'" in run(monkeypatch, "world", "data=sample", "out=x")
    assert "compare FOLDER FOLDER" in run(monkeypatch, "compare")
    assert "unknown key 'viewers'" in run(monkeypatch, "world", "viewers=3")
