"""The status names what serves, as the page shows it: the release, its verdict, and the last report of drift."""

import json
import logging
import os

import pytest
from api import Api, app_over

from watchnext.monitoring.report.drift_report import DriftReport
from watchnext.monitoring.verdict.checked_window import Check, CheckedWindow
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.http.api import status
from watchnext.serving.http.api.schemas import StatusResponse


@pytest.fixture
def drift(tmp_path):
    return tmp_path / "drift" / "drift.json"


@pytest.fixture
def read(release, store, served, drift):
    app = app_over(Recommender(release, store), store, served, drift=drift)

    def get() -> dict:
        answer = Api(app)("GET", "/v1/status")
        assert answer.status_code == 200
        return StatusResponse.model_validate(answer.json(), strict=False).model_dump()

    yield get
    app.state.close()


def test_it_names_the_release_and_what_one_may_ask_of_it(read, release):
    answer = read()
    assert answer["release"]["id"] == release.id
    assert (answer["release"]["videos"], answer["release"]["viewers"]) == (len(release.catalogue), len(release.user_ids.ids))
    assert answer["release"]["lost_to"] == {}
    assert answer["viewer_ids"] == "number"
    assert set(answer["surfaces"]) == {"home", "next"}
    assert "de" in answer["regions"]
    assert "" not in answer["regions"] + answer["surfaces"]
    assert answer["drift"] is None


def checked(drifted: bool | None) -> Check:
    return Check(0.2, 0.1, 0.0, drifted, "retrain", "", (0.0, 0.0))


def test_a_report_is_read_as_it_was_written(read, drift):
    columns = {"hour": checked(True), "click": checked(False), "empty": checked(None)}
    DriftReport("drift", CheckedWindow("drift", columns, {}, (100, 40), (90.0, 40.0))).write(drift.parent)
    os.utime(drift, (1_700_000_000, 1_700_000_000))
    expected = {"verdict": "drift", "rows": 40, "columns": 3, "drifted": ["hour"], "reported_ms": 1_700_000_000_000}
    assert read()["drift"] == expected


@pytest.mark.parametrize(
    "content", ["", "[]", "null", json.dumps({"verdict": "none"}), json.dumps({"verdict": 1, "rows": [], "columns": {}})]
)
def test_a_file_that_is_no_report_is_named_in_the_log_and_left_out(read, drift, content, caplog):
    drift.parent.mkdir()
    drift.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert read()["drift"] is None
    assert str(drift) in caplog.text


def test_a_report_of_any_size_is_not_read(read, drift, monkeypatch):
    DriftReport("none", CheckedWindow("none", {}, {}, (1, 1), (1.0, 1.0))).write(drift.parent)
    assert read()["drift"]["verdict"] == "none"
    monkeypatch.setattr(status, "REPORT_BYTES", 10)
    assert read()["drift"] is None
