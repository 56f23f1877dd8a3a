"""Held-out requests of a stored log as a slate log, with the probabilities that a release gives to them."""

from collections.abc import Iterator

import numpy as np
import polars as pl

from watchnext.evaluation.off_policy.policy_rates import PolicyRates
from watchnext.evaluation.off_policy.slate_log import LOGGING, OffPolicyError, SlateLog
from watchnext.evaluation.off_policy.slates.valued_slates import LEARNED, ShownRequest, valued
from watchnext.evaluation.replay.held_out_log import HeldOutLog, LogPart
from watchnext.evaluation.replay.replay import Replay
from watchnext.serving.release.release import Release

UNNAMED = "unnamed"  # a logger without a name in `policy`


def logged_slates(
    release: Release, log: HeldOutLog, reward: np.ndarray, *, requests: int, seed: int
) -> tuple[SlateLog, PolicyRates, dict[str, int]]:
    """Return at most about `requests` slates of the held-out days, evenly spaced, the release's rates, and what was left out.

    `reward` (N,) is that of every row of the stored log. The release answers every request on the state of its moment (regime
    `streaming`). Raises OffPolicyError.
    """
    columns = ["request_id", "user_id", "video_id", "position", "propensity", "policy"]
    test = pl.concat([part.impressions.filter(pl.Series(part.held_out)).select(columns) for part in log.parts()])
    _require_logged(test)
    test = test.with_columns(
        row=pl.Series(release.video_ids.rows_of(test["video_id"])),
        reward=pl.Series(np.asarray(reward)[np.asarray(log.split) == log.held_out]),
        logger=pl.col("policy").fill_null(UNNAMED),
    )
    kept, left_out = _whole(test)
    chosen = kept.gather_every(max(1, -(-len(kept) // requests)))["request_id"].cast(pl.String).to_list()
    earlier = pl.concat([_exposures(part, release) for part in log.parts()])
    return *valued(release, test, earlier, _replayed(release, log, set(chosen)), seed), left_out


def _require_logged(test: pl.DataFrame) -> None:
    for name, repair in (("propensity", LOGGING), ("position", "log the position of each video in its slate")):
        if len(test) and test[name].null_count() == len(test):
            raise OffPolicyError(
                f"{name} is missing in all {len(test):,} impressions of the test days, expected one a row; {repair}, load the "
                "log (`python -m watchnext.data tables`), and run this again"
            )


def _whole(test: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Return the request ids that can be weighed, and the numbers of the others by what they lack. Raises OffPolicyError."""
    by_request = test.group_by("request_id", maintain_order=True).agg(
        pl.col("propensity").is_null().any().alias("a propensity is missing"),
        (pl.col("position") != pl.int_range(pl.len())).fill_null(True).any().alias("a position is missing"),
        (pl.col("row") < 0).any().alias("a video is unknown to the release"),
    )
    lacks = by_request.drop("request_id")
    kept = by_request.filter(~pl.any_horizontal(lacks.columns))
    left_out = {name: count for name, count in lacks.sum().row(0, named=True).items() if count}
    if len(test) and not len(kept):
        listed = ", ".join(f"{name}: {count:,}" for name, count in left_out.items())
        raise OffPolicyError(f"none of {len(by_request):,} test requests can be weighed ({listed}); {LOGGING}")
    return kept, left_out


def _replayed(release: Release, log: HeldOutLog, chosen: set[str]) -> Iterator[ShownRequest]:
    """Yield each chosen request with its positions among the held-out rows."""
    replay = Replay(release=release, regime="streaming", slate=1, requests=0, depth=1)
    with replay.opened(log) as (recommender, requests):
        for each in requests:
            if each.request.request_id in chosen:
                yield ShownRequest(recommender, each.request, each.positions)


def _exposures(part: LogPart, release: Release) -> pl.DataFrame:
    """Return the impressions before the held-out ones, with the columns LEARNED."""
    before = part.impressions.filter(pl.Series(~part.held_out))
    rows = pl.Series("row", release.video_ids.rows_of(before["video_id"]))
    return before.with_columns(rows, logger=pl.col("policy").fill_null(UNNAMED)).select(LEARNED)
