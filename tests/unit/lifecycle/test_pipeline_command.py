"""The pipeline outside DVC: what is given to it reaches every stage, or is refused before the first."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from watchnext.cli import dispatch
from watchnext.lifecycle.__main__ import COMMANDS, ERRORS
from watchnext.lifecycle.dvc_stages import stages

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def piped(monkeypatch):
    """Words > the stages' commands, which are not run, and the exit code."""

    def piped(*words: str) -> tuple[list[list[str]], object]:
        ran = []
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(subprocess, "run", lambda words, **_: ran.append(words) or subprocess.CompletedProcess(words, 0))
        monkeypatch.setattr(sys, "argv", ["lifecycle", "pipeline", *words])
        with pytest.raises(SystemExit) as stopped:
            dispatch("watchnext.lifecycle", COMMANDS, ERRORS)
        return ran, stopped.value.code

    return piped


def test_overrides_reach_every_stage(piped):
    ran, code = piped("data=world", "trainer.max_epochs=2", "data.split.test_days=2", "--data.outputs", "some/where")
    assert code is None
    assert len(ran) == len(stages(ROOT, {}))
    for words in ran:
        assert words[-3:] == ["trainer.max_epochs=2", "data.split.test_days=2", "data.outputs=some/where"]
        assert [word for word in words if word.startswith("data=")] == ["data=world"]
    (ranker,) = (words for words in ran if "model=ranker" in words)
    assert "out=some/where/ranker" in ranker


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("model=dcn", r"model=dcn: stage two_tower sets model=two_tower"),
        ("model.module.epochs=2", r"model\.module\.epochs=2: stage two_tower sets model=two_tower"),
        ("out=elsewhere", r"out=elsewhere: stage two_tower sets out=outputs/two_tower"),
        ("monitoring.window=served", r"stage drift sets monitoring\.window=held_out"),
        ("trainer.max_epoch=2", r"unknown key 'trainer\.max_epoch'; did you mean trainer\.max_epochs\?"),
    ],
)
def test_an_override_of_a_key_that_stages_set_is_refused_before_the_first(piped, override, says):
    ran, code = piped(override)
    assert ran == []
    assert re.search(says, code)
