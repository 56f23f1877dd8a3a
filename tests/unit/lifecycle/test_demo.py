"""The demo on the tiniest world: two arms, two days, a shift on the second, and a run that was cut short."""

import json
from pathlib import Path

import polars as pl
import pytest

from watchnext.cli import composed
from watchnext.lifecycle.demo.demo_command import run_demo
from watchnext.lifecycle.demo.demo_run import DemoRun
from watchnext.lifecycle.loop.loop_state import LoopError

ROOT = Path(__file__).resolve().parents[3]
SMALL = [
    "demo.days=2", "demo.arms=[streamed]", "demo.shift.day=2", "demo.shift.videos=20", "demo.world.users=60",
    "demo.world.videos=150", "demo.world.creators=20", "demo.world.tags=8", "demo.world.days=4",
    "demo.settings=['refit=true','trainer.max_epochs=1','selection.requests=10','evaluation.requests=10','tripwire.rows=300',"
    "'tripwire.requests=5']",
]  # fmt: skip


def demo(folder: Path, *words: str) -> dict:
    return run_demo(composed([*SMALL, f"demo.folder={folder}", *words]))


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def test_two_days_with_a_shift_and_one_cut_short(tmp_path, monkeypatch, capsys):
    cut = _cut_short(tmp_path, monkeypatch)
    report = demo(tmp_path)
    assert pl.read_parquet(tmp_path / "streamed/days/02.parquet").equals(cut)  # as if nothing had stopped it
    arms = report["figures"]["arms"]
    assert list(arms) == ["undisturbed", "streamed"]
    assert arms["streamed"]["train_s"] == 0
    first_day = {name: arm["daily"]["watch_s"][0] for name, arm in arms.items()}
    assert first_day["streamed"] == first_day["undisturbed"] > 0  # the same release and viewers, before the shift
    assert (tmp_path / "demo.md").read_text().count("![") == 1
    assert (tmp_path / "demo.png").exists()
    assert json.loads((tmp_path / "demo.json").read_text()) == report
    assert capsys.readouterr().out.count("first release") == 2
    with pytest.raises(LoopError, match=r"has a demo of other settings"):
        demo(tmp_path, "demo.world.seed=2")


def _cut_short(folder: Path, monkeypatch) -> pl.DataFrame:
    """Stop the demo where the second day of `streamed` would be kept; return the impressions of that day."""
    whole, cut = DemoRun._close, []

    def close(self: DemoRun, shown: pl.DataFrame, path: Path, day: int) -> None:
        if path == folder / "streamed/days/02.parquet":
            cut.append(shown)
            raise KeyboardInterrupt
        whole(self, shown, path, day)

    with monkeypatch.context() as patched:
        patched.setattr(DemoRun, "_close", close)
        with pytest.raises(KeyboardInterrupt):
            demo(folder)
    return cut[0]


def test_bad_input_is_named_before_anything_runs(tmp_path):
    with pytest.raises(LoopError, match=r"demo.days is 0, expected at least 1"):
        demo(tmp_path, "demo.days=0")
    with pytest.raises(LoopError, match=r"demo.arms has 'hourly', expected some of frozen"):
        demo(tmp_path, "demo.arms=[hourly]")
    with pytest.raises(ValueError, match=r"shift.day is 7, expected one of the 2 days"):
        demo(tmp_path, "demo.shift.day=7")
    assert not (tmp_path / "first").exists()
