"""Answers of a served log as a slate log: their own propensities, and the outcomes that the journal of the store holds."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import polars as pl

from watchnext.data.tables import OUTCOMES
from watchnext.evaluation.off_policy.policy_rates import PolicyRates
from watchnext.evaluation.off_policy.slate_log import OffPolicyError, SlateLog
from watchnext.evaluation.off_policy.slates.valued_slates import ShownRequest, valued
from watchnext.evaluation.replay.event_stream import EventStream, fresh_store
from watchnext.features.dataset.labels import Labels
from watchnext.serving.funnel.recommender import Recommender
from watchnext.serving.funnel.served.repeated import id_of, repeatable, request_of
from watchnext.serving.funnel.served.served_log import answers_in
from watchnext.serving.release.release import Release
from watchnext.serving.store.store import Store
from watchnext.serving.store.tables.journal import Event
from watchnext.types import TARGETS

OUTCOME_MS = 30 * 60_000  # after this long without an outcome, a video counts as not watched
READ = ("request_id", "release", "mode", "user_id", "as_of_ms", "k", "asked", "why", "journal_position", "video_ids",
        "propensities")  # fmt: skip


def served_slates(
    release: Release, served: Path, store: Store, labels: Labels, reward: str, *, requests: int, seed: int
) -> tuple[SlateLog, PolicyRates, dict[str, int]]:
    """Return at most about `requests` slates of the later half of a served log, the release's rates, and what was left out.

    How often the log shows each cluster to a viewer is learned of the earlier half. Releases are the loggers. `reward` is one
    of TARGETS by `labels`, of the outcomes in the journal of `store`; without one it is that of a watch of 0. The release
    answers every request on the state of its moment. Raises OffPolicyError.
    """
    events = list(store.journal())
    answers, left_out = _weighable(answers_in(served, READ), release, _last_ms(events))
    if not len(answers):
        listed = ", ".join(f"{name}: {count:,}" for name, count in left_out.items()) or "it is empty"
        raise OffPolicyError(f"{served} has no answer that can be weighed ({listed}); serve more viewers, or name another log")
    rows = _videos(answers, release)
    shown = rows.with_columns(reward=_rewards(rows, events, release, labels, reward))
    unknown = shown.filter(pl.col("row") < 0)["request_id"].unique()
    left_out |= {"a video is unknown to the release": len(unknown)} if len(unknown) else {}
    half = answers["as_of_ms"].sort()[len(answers) // 2]
    later = answers.filter((pl.col("as_of_ms") >= half) & ~pl.col("request_id").is_in(unknown.implode()))
    chosen = later.gather_every(max(1, -(-len(later) // requests)))
    shown, earlier = shown.filter(pl.col("as_of_ms") >= half), shown.filter(pl.col("as_of_ms") < half)
    return *valued(release, shown, earlier, _asked(release, events, chosen, shown), seed), left_out


def _weighable(answers: pl.DataFrame, release: Release, last_ms: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the answers that viewers saw and whose draw can be weighed, in time order, and the numbers of the others."""
    asked = [orjson.loads(text) for text in answers["asked"]]
    rows = [bool(each.get("exclude")) or each.get("seed") is not None for each in asked]
    lacks = {
        "nobody saw it": pl.Series([bool(each.get("mirrored")) for each in asked], dtype=pl.Boolean),
        "it was precomputed or degraded, or events came meanwhile": ~answers["request_id"].is_in(
            repeatable(answers)["request_id"].implode()
        ),
        "it names videos by rows of another release": pl.Series(rows, dtype=pl.Boolean) & (answers["release"] != release.id),
        "the release knows it already": answers["as_of_ms"] < release.as_of_ms,
        "outcomes may still come": answers["as_of_ms"] > last_ms - OUTCOME_MS,
        "its slate is empty": answers["video_ids"].list.len() == 0,
    }
    marks = pl.DataFrame(lacks)
    kept = answers.filter(~marks.select(pl.any_horizontal(pl.all())).to_series()).sort("as_of_ms", maintain_order=True)
    return kept, {name: int(count) for name, count in marks.sum().row(0, named=True).items() if count}


def _last_ms(events: list[Event]) -> int:
    return max((event.known_at for event in events), default=0)


def _videos(answers: pl.DataFrame, release: Release) -> pl.DataFrame:
    """Unfold answers into one row a shown video."""
    positions = pl.int_ranges(pl.col("video_ids").list.len()).alias("position")
    videos = answers.select(
        "request_id", "user_id", "as_of_ms", positions, pl.col("release").alias("logger"), video_id="video_ids",
        propensity="propensities",
    ).explode("video_id", "position", "propensity")  # fmt: skip
    names = videos["video_id"].unique()
    known = dict(zip(names, release.video_ids.rows([id_of(each, release.video_ids) for each in names]).tolist(), strict=True))
    return videos.with_columns(row=pl.col("video_id").replace_strict(known, return_dtype=pl.Int64))


def _rewards(videos: pl.DataFrame, events: list[Event], release: Release, labels: Labels, reward: str) -> pl.Series:
    """Return the reward of each shown video by its first outcome."""
    names = ("watch_ms", *OUTCOMES)
    rows = [
        (event.request_id, str(event.video_id), *(getattr(event, name) for name in names))
        for event in events
        if event.kind == "outcome"
    ]
    schema = {"request_id": pl.String, "video_id": pl.String, "watch_ms": pl.Int64, **dict.fromkeys(OUTCOMES, pl.Boolean)}
    first = pl.DataFrame(rows, schema, orient="row").unique(["request_id", "video_id"], keep="first", maintain_order=True)
    joined = videos.join(first, on=["request_id", "video_id"], how="left", maintain_order="left")
    joined = joined.with_columns(pl.col("watch_ms").fill_null(0), *(pl.col(name).fill_null(False) for name in OUTCOMES))
    at = joined["row"].to_numpy()
    duration_ms = np.where(at >= 0, np.asarray(release.catalogue.duration_ms)[at], np.nan)
    return pl.Series(labels.targets(joined, duration_ms)[:, TARGETS.index(reward)].astype(np.float64))


def _asked(release: Release, events: list[Event], answers: pl.DataFrame, shown: pl.DataFrame) -> Iterator[ShownRequest]:
    """Yield the request of each answer on the state of its moment, with its positions in `shown`."""
    positions = dict(shown.with_row_index("at").group_by("request_id").agg("at").iter_rows())
    with fresh_store(release) as store:
        recommender, stream = Recommender(release, store), EventStream(store, regime="streaming")
        stream.add([event for event in events if event.known_at >= release.as_of_ms], np.zeros(0))
        for row in answers.iter_rows(named=True):
            stream.advance(row["as_of_ms"])
            yield ShownRequest(recommender, request_of(row, release), np.array(positions[row["request_id"]]))
