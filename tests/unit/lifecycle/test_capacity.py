"""A plan is the product of measured curves and assumptions, and says so by hand-made numbers."""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml

from watchnext.cli import dispatch
from watchnext.lifecycle.__main__ import COMMANDS, ERRORS, SHORT
from watchnext.lifecycle.capacity import capacity_report
from watchnext.lifecycle.capacity.assumptions import SCENARIOS, CapacityAssumptions
from watchnext.lifecycle.capacity.cost_plot import cost_plot
from watchnext.lifecycle.capacity.machine_limits import limits_of
from watchnext.lifecycle.capacity.scaling_curves import FEATURES, INDEX, RECORDS, SERVING, ScalingCurve, ScalingCurves
from watchnext.lifecycle.capacity.stage_needs import SIZES, CapacityPlan

ROOT = Path(__file__).resolve().parents[3]
ASSUMED = yaml.safe_load((ROOT / "conf/config.yaml").read_text())["capacity"]["assumptions"]
MID = CapacityAssumptions.of(ASSUMED, "mid")


def figures() -> dict:
    """Figures of round numbers, one a record."""
    serving = {"viewer_state_bytes": 4_000, "video_state_bytes": 100, "journal_event_bytes": 150,
               "served_answer_bytes": 5_000,
               "release_bytes_per_video": {"catalogue": 130, "videos": 110, "index": 250},
               "p50_ms": 5.0, "p99_ms": 9.0}  # fmt: skip
    store = [{"viewers": n, "store_bytes": 1e6 + 5_000 * n} for n in (1e2, 1e3, 1e4)]
    found = {
        "serving": serving,
        "serving-http": {"rss_mb": 600, "capacity_rps": 150, "events_per_s": 7_000},
        "store": {"curve": store, "event_bytes": 200, "known_event_cpu_us": 50},
        "ranker_training-curve": {"rows_per_cpu_s": 5_000},
    }
    found |= {name: {"videos": 2 * 10**i, "cpu_ms": 4.0 + i} for i, name in enumerate(SERVING, start=3)}
    found |= {name: {"videos": 10**i, "resident_bytes": 70, "cpu_p50_ms": 0.5} for i, name in enumerate(INDEX, start=4)}
    rows = {name: {"impressions": 2 * 10**i, "cpu_s": 0.1 * 10 ** (i - 4)} for i, name in enumerate(FEATURES, start=4)}
    return found | {name: each | {"column_bytes_per_impression": 340} for name, each in rows.items()}


CURVES = ScalingCurves.of(figures())


def stages(viewers: float, videos: float, assumed: CapacityAssumptions = MID) -> dict:
    return {stage.name: stage for stage in CapacityPlan.of(viewers, videos, assumed, CURVES).stages}


def test_a_curve_predicts_its_largest_point_from_the_others():
    line = ScalingCurve((10, 100, 1_000), (25.0, 205.0, 2_400.0))  # 5 + 2 * size would be 2,005
    assert line.step.predicted == pytest.approx(2_005)
    assert line.step.error == pytest.approx(2_005 / 2_400 - 1)
    log = ScalingCurve((10, 100, 1_000), (4.0, 5.0, 6.0), law="logarithmic")
    assert log.at(1e9) == pytest.approx(12.0)
    assert ScalingCurve((10, 100, 1_000), (5.0, 4.0, 3.0)).at(1e9) < 5.0, "noise does not make a cost fall below zero"


def test_needs_are_the_arithmetic_of_their_measurements():
    found = stages(1e6, 1e4)
    slates = 1e6 * MID.peak_per_1000 / 1e3
    assert found["slates"].cores == pytest.approx(slates * CURVES.slate_ms.at(1e4) / 1e3)
    events = 1e6 * 200 * 2 * 1.76 / 86_400
    assert found["events"].cores == pytest.approx(events * 50e-6)
    assert found["viewer state"].memory == pytest.approx(3 * (1e6 + 5_000 * 1.75e6), rel=1e-6)
    assert found["training"].cores == pytest.approx(1e6 * 200 * 0.1 / 5_000 / (6 * 3_600))
    assert found["communication"].cores == pytest.approx(found["slates"].cores), "half of serving"
    journal, served, trained = 1e6 * 400 * 150, slates / 1.76 * 86_400 * 0.1 * 5_000, 1e6 * 200 * 0.1 * 340
    assert found["storage"].stored == pytest.approx(30 * (journal + served + trained))


def test_videos_beyond_a_server_are_searched_by_shard_and_fetched_over_the_network():
    small, large = stages(1e6, 1e6), stages(1e6, 1e9)
    assert "search and video state" not in small
    held = 1e9 * (100 + 240 + 70)
    assert large["search and video state"].memory == pytest.approx(3 * held, rel=1e-3)
    shards = -(-held // (64e9 * 0.7))
    assert large["search and video state"].cores == pytest.approx(1_000 * shards * 0.5e-3, rel=1e-3)
    assert large["communication"].network - small["communication"].network == pytest.approx(1_000 * 500 * 340)


def test_the_smallest_installation_is_paid_whole_and_a_million_viewers_cost_less_on_a_large_one():
    plans = [CapacityPlan.of(size, 2 * size, MID, CURVES) for size in SIZES]
    assert plans[0].machines == MID.least
    assert plans[0].usd == pytest.approx(2 * 730 * MID.machine_usd_h, rel=0.01)
    assert plans[0].usd_a_million > 100 * plans[1].usd_a_million
    assert plans[1].usd_a_million == pytest.approx(plans[1].usd)


def test_low_costs_less_than_mid_and_mid_less_than_high():
    for size in SIZES:
        costs = [CapacityPlan.of(size, 2 * size, CapacityAssumptions.of(ASSUMED, name), CURVES).usd for name in SCENARIOS]
        assert costs == sorted(costs)
        assert costs[0] < costs[-1]


def test_what_breaks_first_is_first_and_its_need_is_one():
    found = limits_of(MID, CURVES)
    assert [limit.viewers for limit in found] == sorted(limit.viewers for limit in found)
    by_part = {limit.part: limit.viewers for limit in found}
    assert by_part["slates of one server process"] == pytest.approx(150_000, rel=1e-3)
    assert by_part["events of one server process"] == pytest.approx(7_000 / (200 * 2 * 1.76 / 86_400), rel=1e-3)
    state = by_part["viewers' state in the memory of one machine"]
    assert 1e6 + 5_000 * 1.75 * state == pytest.approx(64e9 * 0.7, rel=1e-3)
    videos = 2 * by_part["videos in the memory of one server"]
    assert 16 * (600e6 + 100 * videos) + videos * (240 + 70) == pytest.approx(64e9 * 0.7, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [("busy", 1.5, "busy.mid is 1.5, expected a share"), ("copies", 0, "copies.mid is 0, expected a number above 0"),
     ("overhead", 1, "overhead.mid is 1, expected a share below 1"), ("impressions", "many", "impressions.mid is 'many'")],
)  # fmt: skip
def test_an_impossible_assumption_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        CapacityAssumptions.of(ASSUMED | {name: ASSUMED[name] | {"mid": value}}, "mid")


@pytest.mark.parametrize(("viewers", "videos", "name"), [(0, 1, "viewers"), (1, -5, "videos"), (1, 1e20, "videos")])
def test_impossible_sizes_are_named(viewers, videos, name):
    with pytest.raises(ValueError, match=f"{name}=.*expected a number above 0"):
        CapacityPlan.of(viewers, videos, MID, CURVES)


def test_every_assumption_has_a_source_and_grows_in_cost():
    assert all(each["source"] for each in ASSUMED.values())


def test_a_missing_record_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"store.json is missing; measure it: python -m benchmarks.record store"):
        ScalingCurves.load(tmp_path)


def test_tables_have_cells_for_every_column(tmp_path):
    tables = [capacity_report.needs(CapacityPlan.of(500e6, 1e9, MID, CURVES)), capacity_report.limits(ASSUMED, CURVES),
              capacity_report.totals(capacity_report.published_sizes(), ASSUMED, CURVES), capacity_report.checks(CURVES),
              capacity_report.peers(ASSUMED, CURVES), capacity_report.assumptions(ASSUMED)]  # fmt: skip
    for rows in tables:
        assert len({len(row) for row in rows}) == 1
        assert not [cell for row in rows for cell in row if re.search(r"\b(nan|inf|None)\b|e\+", cell)]
    cost_plot(ASSUMED, CURVES, tmp_path / "cost.png")
    assert (tmp_path / "cost.png").stat().st_size > 1_000


def test_the_command_plans_from_the_records(tmp_path, monkeypatch, capsys):
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for name, each in figures().items():
        (results / f"{name}.json").write_text(json.dumps({"figures": each}))
    assert {path.stem for path in results.glob("*.json")} == RECORDS.keys()
    (tmp_path / "conf").symlink_to(ROOT / "conf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lifecycle", "capacity", "viewers=500e6", "videos=1e9", "picture=null"])
    with pytest.raises(SystemExit) as stopped:
        dispatch("watchnext.lifecycle", COMMANDS, ERRORS, short=SHORT)
    assert stopped.value.code is None
    printed = capsys.readouterr().out
    assert "500M viewers a day, 1G videos, mid:" in printed
    assert "search and video state" in printed
    assert not (tmp_path / "outputs").exists()
