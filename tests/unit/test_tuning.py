"""A study of trials: what it draws, that it goes on where it was killed, and what it gives up."""

import math

import pytest

from watchnext.tuning import Study, Trial, overrides_of, space_of

DECLARED = {
    "model": {
        "rate": {"low": 0.001, "high": 1.0, "log": True},
        "net": {"layers": {"low": 1, "high": 6}, "hidden": {"choices": [[8], [16, 8], None]}},
    }
}
FIRST = {"model.rate": 0.01, "model.net.layers": 2, "model.net.hidden": [16, 8]}


def study_of(folder, **changed) -> Study:
    told = {"space": space_of(DECLARED), "first": FIRST, "seed": 3, "startup": 4, "warmup": 0, **changed}
    folder.mkdir(exist_ok=True)
    return Study(folder, **told)


def settings(trial: Trial) -> dict[str, str]:
    return dict(override.split("=", 1) for override in trial.overrides)


def worth(trial: Trial) -> float:
    """Best at a rate of .1, many layers."""
    told = settings(trial)
    return int(told["model.net.layers"]) - math.log10(float(told["model.rate"]) * 10) ** 2


def tried(study: Study, most: int, objective=worth) -> list[list[str]]:
    found = []
    for trial in study.trials(most, None):
        found.append(trial.overrides)
        trial.ends(lambda trial=trial: objective(trial))
    return found


def test_the_presets_own_setting_is_first_and_draws_lie_in_the_space(tmp_path):
    study = study_of(tmp_path)
    found = tried(study, 12)
    assert found[0] == ["model.rate=0.01", "model.net.layers=2", "model.net.hidden=[16, 8]"]
    assert len({tuple(each) for each in found}) == 12
    for each in found:
        rate, layers, hidden = (override.split("=")[1] for override in each)
        assert 0.001 <= float(rate) <= 1.0
        assert int(layers) in range(1, 7)
        assert hidden in ("[8]", "[16, 8]", "null")
    value, best = study.best
    assert value == pytest.approx(max(int(layers.split("=")[1]) - math.log10(10 * float(rate.split("=")[1])) ** 2
                                      for rate, layers, _ in found), abs=1e-3)  # fmt: skip
    assert best in found


def test_a_value_of_the_preset_outside_the_space_is_drawn(tmp_path):
    (first, *_) = tried(study_of(tmp_path, first={**FIRST, "model.rate": 7.0}), 1)
    assert first[0] != "model.rate=7"
    assert first[1:] == ["model.net.layers=2", "model.net.hidden=[16, 8]"]


@pytest.mark.parametrize("killed_at", [0, 3, 7])
def test_a_killed_study_tries_what_it_would_have_tried(tmp_path, killed_at):
    whole = study_of(tmp_path / "whole")
    expected = tried(whole, 10)
    cut = study_of(tmp_path / "cut")
    cut.run = "the study's"
    assert tried(cut, killed_at) == expected[:killed_at]
    killed = next(cut.trials(10, None))
    killed.run = "the trial's"
    del cut, killed
    again = study_of(tmp_path / "cut")
    assert again.run == "the study's"
    retried = next(again.trials(10, None))
    assert (retried.overrides, retried.run) == (expected[killed_at], "the trial's")
    retried.ends(lambda: worth(retried))
    assert tried(again, 10) == expected[killed_at + 1 :]
    assert again.best == whole.best
    assert len(again.ended) == 10
    assert tried(study_of(tmp_path / "cut"), 10) == []  # nothing is left to do
    assert len(tried(study_of(tmp_path / "cut"), 12)) == 2  # unless the budget grows


def test_hopeless_trials_are_given_up_on_the_way(tmp_path):
    study, printed = study_of(tmp_path), []

    def objective(trial: Trial) -> float:
        for step in range(5):
            trial.report(worth(trial) * step, step)
        return worth(trial) * 4

    for trial in study.trials(25, None):
        printed.append(trial.ends(lambda trial=trial: objective(trial)))
    pruned = [words for words in printed if words.startswith("pruned")]
    assert not any(words.startswith("pruned") for words in printed[:4])
    assert 3 <= len(pruned) < 20
    assert study.best[0] == pytest.approx(max(float(words) for words in printed if words not in pruned), abs=1e-4)


def test_a_failure_counts_and_is_not_tried_again(tmp_path):
    study, printed = study_of(tmp_path), []

    def objective(trial: Trial) -> float:
        if settings(trial)["model.net.layers"] in "456":
            raise ValueError("too deep")
        return worth(trial)

    for trial in study.trials(9, None):
        printed.append(trial.ends(lambda trial=trial: objective(trial)))
    assert len(study.ended) == 9
    assert 1 <= printed.count("failed: too deep") < 9
    assert len(study_of(tmp_path).ended) == 9


def test_nothing_reached_is_said_with_the_last_failure(tmp_path):
    study = study_of(tmp_path)
    trial = next(study.trials(1, None))
    assert trial.ends(lambda: float("nan")).startswith("failed: it reached nan")
    with pytest.raises(ValueError, match="none of 1 trials reached a figure; the last failure: it reached nan"):
        _ = study.best


def test_no_trial_begins_after_the_seconds(tmp_path):
    study = study_of(tmp_path)
    for trial in study.trials(5, 1e-9):
        trial.ends(lambda trial=trial: worth(trial))
    assert len(study.ended) == 1


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"a": {"b": 3}}, r"tune.space.a.b is 3, expected \{low: 1, high: 9\}"),
        ({"a": {"low": 1, "hihg": 2}}, "tune.space.a has low, hihg, expected low and high"),
        ({"a": {"low": 1, "high": 2, "choices": [1]}}, "tune.space.a has low, high, choices, expected"),
        ({"a": {"low": 3.0, "high": 2.0}}, "tune.space.a goes from 3.0 to 2.0"),
        ({"a": {"low": 0.0, "high": 2.0, "log": True}}, "tune.space.a goes from 0.0 to 2.0"),
        ({"a": {"low": "x", "high": 2.0}}, "tune.space.a goes from x to 2.0"),
        ({"a": {}}, "tune.space.a is {}"),
    ],
)
def test_a_space_that_cannot_be_drawn_from_is_named(declared, message):
    with pytest.raises(ValueError, match=message):
        space_of(declared)


def test_values_become_overrides():
    found = overrides_of({"a": 0.00123456, "b": True, "c": None, "d": "relu", "e": "[8, 4]", "f": 3})
    assert found == ["a=0.001235", "b=true", "c=null", "d=relu", "e=[8, 4]", "f=3"]
