"""Metrics have bounded labels, the dashboard names only what is exported, and JSON logs carry the request's id."""

import json
import logging
import re
from pathlib import Path

import pytest
from api import written

from watchnext.serving.http.access.middleware import ACCESS
from watchnext.serving.http.shell.logs import configure
from watchnext.types import SOURCES

DASHBOARD = Path(__file__).resolve().parents[3] / "deploy" / "grafana" / "watchnext.json"


@pytest.fixture
def metrics(api, viewer) -> str:
    slate = api.slate(viewer, k=10)
    api.outcome(viewer, slate["items"][0]["video_id"], "k", watch_ms=9000)
    api("GET", "/v1/trending?surface=" + "x" * 60)
    api("GET", "/junk/" + "y" * 60)
    written(api)
    return api("GET", "/metrics").text


def test_a_dashboard_names_only_metrics_that_are_exported(metrics):
    exported = {*re.findall(r"^# TYPE (\w+) ", metrics, re.MULTILINE)} | {*re.findall(r"^(\w+)(?:{| )", metrics, re.MULTILINE)}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    named = {name for panel in panels for each in panel["targets"] for name in re.findall(r"watchnext_\w+", each["expr"])}
    assert len(named) > 15
    assert named <= exported


def test_a_slate_is_counted_by_source_stage_and_what_it_is_made_of(metrics):
    values = dict(re.findall(r"^(watchnext_\S+) (\S+)$", metrics, re.MULTILINE))
    by_source = [float(values[f'watchnext_candidates_total{{source="{name}"}}']) for name in SOURCES]
    shown = [float(values[f'watchnext_shown_total{{source="{name}"}}']) for name in SOURCES]
    assert sum(by_source) > sum(shown) >= 10
    assert 0 < float(values["watchnext_slate_creators_sum"]) <= 1
    assert float(values["watchnext_slate_value_count"]) == 1
    assert 0 < float(values['watchnext_slate_prediction_sum{target="click"}']) < 1


def test_no_label_holds_what_a_client_sent(metrics):
    assert "xxx" not in metrics
    assert "yyy" not in metrics
    assert 'route="unmatched",status="404"' in metrics


def test_json_logs_carry_the_requests_id_from_threads_too(api, viewer, capsys):
    root, level = logging.getLogger(), ACCESS.level
    before = root.handlers[:]
    try:
        configure("json")
        slate = api.slate(viewer)
        api("GET", "/nothing")
        written(api)
        lines = [json.loads(line) for line in capsys.readouterr().err.splitlines() if line.startswith("{")]
    finally:
        root.handlers[:] = before
        root.setLevel(logging.WARNING)
        ACCESS.setLevel(level)
    first, second = (line for line in lines if line["logger"] == ACCESS.name)
    assert (first["request_id"], first["route"], first["status"]) == (slate["request_id"], "/v1/recommend", 200)
    assert (second["route"], second["status"]) == ("unmatched", 404)
    assert second["request_id"] != first["request_id"]


def test_an_answer_names_its_request(api, viewer):
    answer = api("POST", "/v1/recommend", body={"user_id": viewer})
    assert answer.headers["x-request-id"] == answer.json()["request_id"]
