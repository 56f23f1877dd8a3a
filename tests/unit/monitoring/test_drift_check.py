"""Windows of a real served log against the sketch of real features: verdicts, their history, and the report."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from benchmarks.drift import lost, shifted, stuck, write_log
from omegaconf import OmegaConf

from watchnext.features.dataset.labels import Labels
from watchnext.monitoring.__main__ import _held_out
from watchnext.monitoring.drift_check import DriftCheck
from watchnext.monitoring.report.drift_report import DriftReport
from watchnext.monitoring.sketch.rows import Coded, Impressions
from watchnext.monitoring.sketch.sketch import Sketch
from watchnext.monitoring.verdict.checked_window import Check, CheckedSlice, CheckedWindow, checked
from watchnext.monitoring.verdict.verdict_history import PastWindow, held, read_history, write_history
from watchnext.monitoring.windows.reference import Reference, drift_tests, impressions_of, vectors_of, write_reference
from watchnext.monitoring.windows.served_rows import ServedLogReader, outcomes_of
from watchnext.schema import SchemaError
from watchnext.serving.release.manifest import ReleaseError, digest_of, read_manifest
from watchnext.serving.store.tables.journal import Event
from watchnext.types import TARGETS

DAY_MS = 86_400_000
SETTINGS = {"alpha": 0.05, "hours": 24, "settling": 0, "in_a_row": 2, "margin": 1_000.0}
COLUMN = "video impression 24h"
DRIFTED = Check(0.4, 0.1, 1e-9, True, "retrain", "", (0.0, 0.0))


@pytest.fixture(scope="module")
def rows(world_features):
    """Impressions of the whole log with scores that have a part of the truth."""
    random, numbers = np.random.default_rng(0), np.arange(len(world_features.columns["time_ms"]) // 20 * 20)
    targets = np.asarray(world_features.columns["targets"][numbers])
    scores = np.clip(0.3 * targets.clip(0, 1) + random.random(targets.shape) * 0.7, 0, 1).astype(np.float32)
    made = impressions_of(world_features, numbers, scores)
    names = drift_tests(world_features.pipeline.schema, made.columns.columns)
    return replace(made, columns=made.columns.select(*names))


@pytest.fixture(scope="module")
def folder(rows, world_features, tmp_path_factory):
    made = tmp_path_factory.mktemp("reference")
    write_reference(rows, world_features, made)
    return made


@pytest.fixture(scope="module")
def check(folder, world_features):
    tests = dict.fromkeys((COLUMN, "device", "score long_view"), "auto")
    return DriftCheck(reference=Reference.load(folder), tests=tests, **SETTINGS)


def read(world_features, folder, events=()) -> ServedLogReader:
    return ServedLogReader(folder, world_features.folder, outcomes_of(events), Labels())


def logged(rows, world_features, folder, *days) -> ServedLogReader:
    """Write a day of the served log for each of `days`: rows, or None for a day without traffic."""
    for number, of_day in enumerate(days, 1):
        if of_day is not None:
            write_log(of_day, world_features, len(rows), folder, at_ms=number * DAY_MS)
    return read(world_features, folder)


def test_a_sketch_without_rows_of_the_log_gives_the_same_verdict_again(rows, folder, world_features):
    vectors, broken = vectors_of(world_features.videos), stuck(rows, 1.0, np.random.default_rng(0), COLUMN)
    made, loaded = Sketch.of(rows, vectors), Sketch.load(folder / "sketch")
    for window, names in ((rows, []), (broken, [COLUMN])):
        one, other = (checked(each, window.coded(each.bins), vectors, alpha=0.05) for each in (made, loaded))
        assert one.drifted == other.drifted == names
        for name, each in one.columns.items():
            assert (each.p, each.effect) == pytest.approx(
                (other.columns[name].p, other.columns[name].effect), rel=1e-3, abs=1e-9
            )
    files = {path.suffix for path in (folder / "sketch").rglob("*") if path.is_file()}
    assert files == {".json", ".npy"}


def test_a_served_log_is_read_as_it_was_written_part_by_part(rows, world_features, tmp_path):
    log = logged(rows, world_features, tmp_path, rows)
    window = Coded.joined([each.coded(bins := Sketch.of(rows, log.vectors).bins) for each in log.window(DAY_MS, 2 * DAY_MS)])
    expected = rows.coded(bins)
    assert window.codes.keys() >= set(rows.columns.columns)
    for name in rows.columns.columns:
        np.testing.assert_array_equal(window.codes[name], expected.codes[name], err_msg=name)
    np.testing.assert_array_equal(window.predictions, rows.predictions)
    np.testing.assert_array_equal(window.videos, rows.videos)
    assert np.isnan(window.outcomes).all()
    assert list(log.window(3 * DAY_MS, 4 * DAY_MS)) == []


def test_a_broken_column_is_named_after_two_windows_with_what_to_do(rows, check, world_features, tmp_path):
    broken = stuck(rows, 1.0, np.random.default_rng(0), COLUMN)
    log = logged(rows, world_features, tmp_path, rows, None, broken, broken)
    report = check.served(log, [], tmp_path / "own")
    assert [each.verdict for each in report.history] == ["none", "no data", "drift", "drift"]
    assert list(report.holds) == ["none", "no data", "none", "drift"]
    assert (report.verdict, report.exit_code, report.window.drifted) == ("drift", 2, [COLUMN])
    assert (report.steps[0].columns, report.steps[0].command) == ([COLUMN], "python -m watchnext.monitoring skew")
    write_history(tmp_path / "out", report.history)
    again = check.served(log, read_history(tmp_path / "out"), tmp_path / "own")
    assert list(again.history) == list(report.history)

    report.write(tmp_path / "out")
    summary = json.loads((tmp_path / "out/drift.json").read_text())
    assert (summary["verdict"], summary["drifted"], summary["columns"][COLUMN]["drifted"]) == ("drift", [COLUMN], True)
    assert summary["evidently"][COLUMN]["drifted"] is True
    assert "NaN" not in (tmp_path / "out/drift.json").read_text()
    page = (tmp_path / "out/drift.html").read_text()
    assert page.index("Drift: drift") < page.index("What to do") < page.index("Windows before") < page.index("</body>")
    assert (tmp_path / "out/history.png").read_bytes().startswith(b"\x89PNG")


def test_a_large_drift_is_a_verdict_at_once(rows, check, world_features, tmp_path):
    log = logged(rows, world_features, tmp_path, rows, lost(rows, 0.5, np.random.default_rng(0), COLUMN))
    assert check.served(log, [], tmp_path / "own").verdict == "none"
    assert replace(check, margin=2.0).served(log, [], tmp_path / "own").verdict == "drift"


def test_what_a_release_shows_first_becomes_its_reference(rows, check, world_features, tmp_path):
    random = np.random.default_rng(0)

    def moved(of: Impressions) -> Impressions:
        made = shifted(of, 1.0, random, COLUMN)
        return replace(made, columns=made.columns.cast({COLUMN: pl.Float32}))  # a log has one type a column

    own_policy, missing = moved(rows), lost(moved(rows), 0.5, random, "device")
    further = moved(own_policy)
    settling = replace(check, settling=2, in_a_row=1)

    log = logged(rows, world_features, tmp_path / "log", own_policy, None, missing, own_policy, further)
    report = settling.served(log, [], tmp_path / "own")
    assert [each.verdict for each in report.history] == ["none", "no data", "drift", "none", "drift"]
    assert (list(report.history[2].drifted), report.window.drifted) == (["device"], [COLUMN])
    assert "what the release itself served from 1970-01-02 00:00 to 1970-01-06 00:00 UTC" in str(report)
    assert Reference.load(tmp_path / "own").sketch.rows == 2 * len(rows)
    again = settling.served(log, report.history, tmp_path / "own")
    assert (list(again.history), again.window.drifted) == (list(report.history), [COLUMN])

    without = replace(settling, settling=0).served(log, [], tmp_path / "own")
    assert [each.verdict for each in without.history] == ["drift", "no data", "drift", "drift", "drift"]
    first = logged(rows, world_features, tmp_path / "first", own_policy)
    assert "until then, broken inputs alone are drift" in str(settling.served(first, [], tmp_path / "other"))


def test_outcomes_that_never_arrive_are_told_from_those_that_did(rows, check, world_features, tmp_path):
    log = logged(rows, world_features, tmp_path, rows)
    report = check.served(log, [], tmp_path / "own")
    assert report.verdict == "none"
    assert report.window.columns["calibration click"].verdict == report.window.columns["outcome click"].verdict == "no data"
    assert any("no outcome came" in note for note in report.notes)
    shown = pl.read_parquet(tmp_path / "hour=1970010200" / "part-0.parquet").select("request_id", "user_id", "video_ids")
    shown = shown.explode("video_ids").with_columns(click=rows.outcomes[:, 0] > 0).unique(["request_id", "video_ids"])
    events = [
        Event(kind="outcome", user_id=user, video_id=video, known_at=2 * DAY_MS, click=click, request_id=request)
        for request, user, video, click in shown.filter("click").rows()
    ]
    log = read(world_features, tmp_path, events)
    [window] = log.window(DAY_MS, 2 * DAY_MS)
    assert window.outcomes[:, 0].sum() >= len(events) > 0
    assert not np.isnan(window.outcomes).any()  # later than half an hour: not watched
    report = check.served(log, [], tmp_path / "own")
    assert report.window.columns["calibration click"].verdict == "none"
    assert report.window.columns["outcome click"].verdict == "none"
    assert sum(report.reliability["current"]["click"]["rows"]) == len(rows)
    assert report.notes == []


def test_nothing_served_is_no_data_with_its_reason(rows, check, world_features, tmp_path):
    report = check.served(read(world_features, tmp_path), [], tmp_path / "own")
    assert (report.verdict, report.exit_code, report.evidently) == ("no data", 3, None)
    assert "has no answer of features" in str(report)
    report.write(tmp_path / "out")
    assert "Drift: no data" in (tmp_path / "out/drift.html").read_text()
    log = logged(rows, world_features, tmp_path, rows)
    path = tmp_path / "hour=1970010200" / "part-0.parquet"
    pl.read_parquet(path).with_columns(release=pl.lit("other")).write_parquet(path)
    assert f"left out: {len(rows) // 20} of other" in str(check.served(log, [], tmp_path / "own"))


def test_a_newest_window_without_data_is_no_data_whatever_held_before(rows, check, world_features, tmp_path):
    broken = stuck(rows, 1.0, np.random.default_rng(0), COLUMN)
    write_log(rows, world_features, 20, tmp_path, at_ms=3 * DAY_MS)  # a request of one viewer
    report = check.served(logged(rows, world_features, tmp_path, broken, broken), [], tmp_path / "own")
    assert list(report.holds) == ["none", "drift", "no data"]
    assert (report.verdict, report.exit_code) == ("no data", 3)
    assert str(report).startswith("drift: no data\n")
    assert "the verdict of the window before is drift" in str(report)
    report.write(tmp_path / "out")
    assert "checks drifted" not in (tmp_path / "out/drift.html").read_text()


def test_few_viewers_are_no_data(rows, check, world_features):
    few = rows.take(rows.viewers.is_in(rows.viewers.unique().sort()[:20].implode()).arg_true().to_numpy())
    report = check.held_out(few, vectors_of(world_features.videos))
    assert report.verdict == "no data"
    assert "19 in the window, expected at least 30" in report.window.reason


def past(*verdicts: str, size: float = 1.0) -> list[PastWindow]:
    return [PastWindow("r", i, i + 1, each, 9, {"x": size} if each == "drift" else {}) for i, each in enumerate(verdicts)]


def test_a_verdict_holds_until_windows_in_a_row_disagree():
    short = {"n": "none", "d": "drift", "-": "no data"}

    def letters(windows: str, **change: float) -> str:
        settings = {"in_a_row": 2, "margin": 3.0} | change
        size = settings.pop("size", 1.0)
        found = held(past(*(short[each] for each in windows), size=size), **settings)
        return "".join(next(letter for letter, name in short.items() if name == each) for each in found)

    assert letters("ndnddnn") == "nnnnddn"
    assert letters("dd") == "nd"
    assert letters("n-n--n") == "n-n--n"
    assert letters("dd-d-n") == "nd-d-d"
    assert letters("nd", size=3.0) == "nd"
    assert letters("ndn", in_a_row=1) == "ndn"
    assert letters("") == ""


def test_drift_that_is_held_over_a_clean_window_names_the_checks_that_hold_it(tmp_path):
    history = past("drift", "drift", "none", size=3.0)
    assert held(history[1:], in_a_row=2, margin=2.5) == ["drift"] * 2
    clean = CheckedWindow("none", {"x": replace(DRIFTED, drifted=False)}, {}, (9, 9), (50.0, 50.0))
    report = DriftReport("drift", clean, history, ["drift"] * 3)
    assert report.held_by == report.json["sizes"] == {"x": 3.0}
    assert "held by the windows before: x;" in str(report)
    report.write(tmp_path)
    page = (tmp_path / "drift.html").read_text()
    assert "in those before: <b>x</b>" in page
    assert "Nothing." not in page
    assert DriftReport("none", clean, history, ["none"] * 3).held_by == {}


def test_what_drifts_in_a_slice_alone_has_a_size():
    parts = {"home": CheckedSlice("drift", 9, {"hour": DRIFTED})}
    report = DriftReport(
        "drift", CheckedWindow("drift", {"hour": replace(DRIFTED, drifted=False)}, parts, (9, 9), (50.0, 50.0))
    )
    assert report.json["sizes"] == {"hour (home)": pytest.approx(4.0)}
    [step] = report.steps
    assert step.command.startswith("python -m watchnext.lifecycle run")  # served days enter the log by it alone


def test_a_damaged_history_and_wrong_settings_are_named(check, tmp_path):
    (tmp_path / "history.jsonl").write_text('{"release": "r"}\n')
    with pytest.raises(ValueError, match=r"history.jsonl: line 1 is no window"):
        read_history(tmp_path)
    with pytest.raises(ValueError, match=r"monitoring.alpha is 0"):
        replace(check, alpha=0)


def test_a_release_of_another_version_or_schema_is_refused_with_the_command_that_repairs_it(
    folder, release, world_folder, tmp_path
):
    with pytest.raises(ReleaseError, match=r"earlier version built this release; run `dvc repro release`"):
        Sketch.load(tmp_path)
    declared = json.loads((folder / "sketch" / "sketch.json").read_text()) | {"format": 0}
    (tmp_path / "sketch.json").write_text(json.dumps(declared))
    with pytest.raises(ReleaseError, match=r"has the format 0, expected 1; run `dvc repro release`"):
        Sketch.load(tmp_path)
    other = {name: value for name, value in read_manifest(release.folder).items() if name != "digest"} | {"schema": "another"}
    (tmp_path / "manifest.json").write_text(json.dumps(other | {"digest": digest_of(other)}))
    config = OmegaConf.create({"data": {"outputs": str(world_folder.parent)}})
    with pytest.raises(SchemaError, match=r"has another; run `dvc repro release`"):
        _held_out(config, tmp_path)


def test_heads_that_were_not_trained_are_not_compared(rows, world_features):
    unscored = replace(rows, predictions=np.full((len(rows), len(TARGETS)), np.nan, np.float32))
    sketch = Sketch.of(unscored, vectors_of(world_features.videos))
    result = checked(sketch, rows.coded(sketch.bins), vectors_of(world_features.videos), alpha=0.05)
    assert result.verdict == "none"
    assert not [name for name in result.columns if name.startswith(("score", "calibration", "auc"))]
