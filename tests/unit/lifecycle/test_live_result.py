"""Live traffic of two releases: seconds a viewer from a served log that a real server's thread wrote, and its outcomes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from watchnext.evaluation.experiment.relative import FEWEST, relative_of_arms, relative_of_teams
from watchnext.lifecycle.promotion.live_result import interleaved_result, live_result
from watchnext.monitoring.windows.served_rows import outcomes_of
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.served_log import ServedLog
from watchnext.serving.release.canary_plan import CHALLENGER, CONTROL, CanaryPlan
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.types import Request

VIEWERS, MINUTE_MS = 110, 60_000


PLAN = CanaryPlan(release="new", share=0.5)
ARMS = {arm: [user for user in range(1, 400) if PLAN.arm_of(user) == arm][:VIEWERS] for arm in (CHALLENGER, CONTROL)}


def canary(release, folder: Path, watched_ms: dict[str, int], *, fallen: int = 0, mirrored: int = 0) -> pl.DataFrame:
    """Log an answer to VIEWERS of each arm, and return outcomes: the first video is watched for about `watched_ms`, by arm.

    The champion answers the first `fallen` viewers of the challenger; the last `mirrored` ones see nothing.
    """
    log, events = ServedLog(folder, max_bytes=1 << 30, flush_rows=500), []
    store = Store.open(folder.parent / "store", release, durable=False)
    random, start = np.random.default_rng(0), release.as_of_ms + MINUTE_MS
    answer = Recommender(release, store).recommend(Request("r", 100, 3, start))
    store.close()
    for arm, typical in watched_ms.items():
        for number, user in enumerate(ARMS[arm]):
            name = "new" if arm == CHALLENGER and number >= fallen else "old"
            request = Request(f"request-{user}", user, 3, start + number, mirrored=number >= VIEWERS - mirrored)
            log.append(replace(answer, release=name, request=request))
            given = {"user_id": user, "video_id": answer.ids[0], "request_id": request.request_id}
            spent = int(typical * random.uniform(0.9, 1.1))
            events.append(Event(kind="outcome", known_at=start + number + 1, watch_ms=spent, **given))
    log.close()
    last = {"user_id": 7, "video_id": answer.ids[0], "request_id": "later"}
    return outcomes_of([*events, Event(kind="outcome", known_at=start + 60 * MINUTE_MS, watch_ms=1, **last)])


def told(release, folder: Path, outcomes: pl.DataFrame, plan: CanaryPlan = PLAN, since_ms: int | None = None):
    settings = {"ids": release.user_ids, "planned": 100.0, "since_ms": since_ms}
    return live_result(folder, outcomes, plan=plan, champion="old", **settings)


@pytest.mark.parametrize(("new_ms", "verdict"), [(30_000, "win"), (10_000, "open"), (3_000, "loss")])
def test_a_canary_is_won_lost_or_open(release, tmp_path, new_ms, verdict):
    outcomes = canary(release, tmp_path / "served", {CONTROL: 10_000, CHALLENGER: new_ms})
    found = told(release, tmp_path / "served", outcomes, since_ms=0)
    assert found.verdict == verdict
    assert found.relative.value == pytest.approx(new_ms / 10_000 - 1, rel=0.1, abs=0.05)
    assert (found.viewers, found.requests, found.ended) == ((VIEWERS, VIEWERS), 2 * VIEWERS, None)


def test_a_viewer_counts_for_the_arm_whoever_answered_and_what_nobody_saw_does_not(release, tmp_path):
    outcomes = canary(release, tmp_path / "served", {CONTROL: 10_000, CHALLENGER: 10_000}, fallen=3, mirrored=2)
    assert told(release, tmp_path / "served", outcomes, since_ms=0).viewers == (VIEWERS - 2, VIEWERS - 2)
    assert told(release, tmp_path / "served", outcomes).viewers == (
        VIEWERS - 5,
        VIEWERS - 5,
    )  # from the first answer of its own


def test_only_answers_whose_outcomes_have_come_count(release, tmp_path):
    outcomes = canary(release, tmp_path / "served", {CONTROL: 10_000, CHALLENGER: 30_000})
    late = told(release, tmp_path / "served", outcomes.filter(pl.col("request_id") != "later"))
    assert late.viewers == (0, 0)
    assert late.verdict == "open"
    assert told(release, tmp_path / "served", outcomes_of(())).verdict == "open"
    assert told(release, tmp_path / "served", outcomes, since_ms=release.as_of_ms + 2 * MINUTE_MS).verdict == "open"


def test_without_an_answer_of_the_candidate_there_is_no_result_and_the_end_of_a_canary_is_told(release, tmp_path):
    outcomes = canary(release, tmp_path / "served", {CONTROL: 10_000, CHALLENGER: 10_000})
    assert told(release, tmp_path / "served", outcomes, replace(PLAN, release="other")) is None
    assert told(release, tmp_path / "empty", outcomes) is None
    assert told(release, tmp_path / "served", outcomes, replace(PLAN, ended="errors")).ended == "errors"


def test_standard_errors_are_those_of_a_bootstrap():
    """The half width at the planned number is the standard error of the logarithm times the same factor as in `sequential`."""

    def half(found):
        return (np.log1p(found.high) - np.log1p(found.low)) / 2

    random = np.random.default_rng(1)
    first, second = random.lognormal(0, 0.5, 400), random.lognormal(0.1, 0.5, 500)
    unit = relative_of_arms(first, second, requests=900, planned=900)
    draws = [random.choice(first, 400).mean() / random.choice(second, 500).mean() for _ in range(2_000)]
    factor = half(unit) / np.std(np.log(draws))
    assert factor == pytest.approx(3.04, rel=0.08)
    pair = np.stack([first, 0.5 * first + random.lognormal(0, 0.5, 400)])
    told = relative_of_teams(*pair, requests=900, planned=900)
    drawn = (pair[:, random.integers(400, size=400)].sum(axis=1) for _ in range(2_000))
    assert half(told) / np.std([np.log(one / other) for one, other in drawn]) == pytest.approx(3.04, rel=0.08)


def test_too_few_viewers_or_nothing_watched_decides_nothing():
    few, enough, none = np.ones(FEWEST - 1), np.ones(FEWEST), np.zeros(FEWEST)
    for first, second in ((few, enough), (enough, few), (enough, none), (none, enough)):
        found = interleaved_result(
            {"seconds": relative_of_arms(first, second, requests=9, planned=9), "viewers": 5, "requests": 9}
        )
        assert found.verdict == "open"
        assert relative_of_teams(first, second[: len(first)], requests=9, planned=9).low == float("-inf")
    assert relative_of_arms(enough, enough, requests=9, planned=9).value == 0.0
