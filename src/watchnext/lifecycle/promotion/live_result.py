"""Read the outcome of live traffic for a candidate beside the champion: seconds a viewer, with an always-valid interval.

`live_result` reads what the server logged while both answered viewers of their own (a canary); `simulated_result` lets the
viewers of a simulated world meet both in interleaved slates.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from omegaconf import DictConfig

from watchnext.evaluation.experiment.relative import UNKNOWN, relative_of_arms
from watchnext.features.catalogue import Ids
from watchnext.sequential import Spread
from watchnext.serving.funnel.served.repeated import id_of
from watchnext.serving.funnel.served.served_log import answers_in
from watchnext.serving.release.canary_plan import CHALLENGER, CONTROL, CanaryPlan

COLUMNS = ("request_id", "release", "user_id", "as_of_ms", "asked")
OUTCOME_MS = 30 * 60_000  # an outcome that has not come after so long counts as a watch of 0


@dataclass(frozen=True)
class LiveResult:
    """Outcome of live traffic.

    source    "canary" or "interleaved"
    relative  seconds of the candidate over those of the champion, less 1, always valid
    viewers   of candidate and champion; of interleaved slates the same ones
    requests  of both
    ended     why a canary ended, None while it goes on
    """

    source: str
    relative: Spread
    viewers: tuple[int, int]
    requests: int
    ended: str | None = None

    @property
    def verdict(self) -> str:
        """Return "win", "loss", or "open" where the interval holds 0."""
        return "win" if self.relative.low > 0 else "loss" if self.relative.high < 0 else "open"

    def report(self) -> dict:
        return {**asdict(self), "relative": list(self.relative), "verdict": self.verdict}


def live_result(
    served: Path, outcomes: pl.DataFrame, *, plan: CanaryPlan, champion: str, ids: Ids, planned: float, since_ms: int | None
) -> LiveResult | None:
    """Compare the arms of a canary by the seconds that their viewers watched since it began.

    served    folder of the served log, read without a server
    outcomes  first outcome of each video in a request: request_id, video_id, known_at, watch_ms (`served_rows.outcomes_of`)
    ids       of the viewers, which say whether the log's texts were numbers
    planned   number of requests at which the interval is narrowest
    since_ms  beginning of the canary by the servers' clock; None is the candidate's first answer

    A viewer counts for the arm that the plan gives, whoever answered: where the challenger fails, or a slate was stored, the
    champion answers its viewers too, and leaving these out would compare unlike viewers. Mirrored answers, which nobody saw,
    and answers whose outcomes are still to come do not count. None if the candidate answered nobody.
    """
    answers = answers_in(served, COLUMNS).filter(
        pl.col("release").is_in([plan.release, champion]) & ~pl.col("asked").str.contains('"mirrored":true', literal=True)
    )
    own = answers.filter(pl.col("release") == plan.release)
    if not len(own):
        return None
    start = own["as_of_ms"].min() if since_ms is None else since_ms
    end = (outcomes["known_at"].max() or 0) - OUTCOME_MS
    answers = answers.filter(pl.col("as_of_ms").is_between(start, end))
    watched = outcomes.group_by("request_id").agg(seconds=pl.col("watch_ms").sum() / 1000.0)
    viewers = (
        answers.join(watched, on="request_id", how="left")
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("seconds").sum(), requests=pl.len())
    )
    arms = np.array([plan.arm_of(id_of(each, ids)) or "" for each in viewers["user_id"]], object)
    seconds, requests = viewers["seconds"].to_numpy(), viewers["requests"].to_numpy()
    challenger, control = (arms == name for name in (CHALLENGER, CONTROL))
    counted = int(requests[challenger | control].sum())
    relative = relative_of_arms(seconds[challenger], seconds[control], requests=counted, planned=planned)
    return LiveResult("canary", relative, (int(challenger.sum()), int(control.sum())), counted, plan.ended)


def simulated_result(config: DictConfig, candidate: str, champion: str) -> LiveResult:
    """Let simulated viewers meet interleaved slates of both releases, from the end of their log on.

    Raises ExperimentError where the log is not that of a simulated world.
    """
    from watchnext.cli import instantiate
    from watchnext.evaluation.experiment.command import world_of
    from watchnext.evaluation.experiment.experiment import Experiment
    from watchnext.evaluation.experiment.simulation import Simulation
    from watchnext.serving.release.release import Release, release_in

    options, folder = config.experiment, Path(config.data.outputs) / "promotion" / "arms"
    _, world = world_of(config)
    simulation = Simulation.of(world, loyalty=instantiate(options.loyalty), days=options.days, viewers=options.viewers)
    release = Release.load(release_in(config.data.releases, candidate))
    runner = Experiment(release, simulation, releases=config.data.releases, folder=folder, seed=config.seed)
    return interleaved_result(runner.run(design="interleaved", policies=[candidate, champion])["interleaved"])


def interleaved_result(preference: Mapping) -> LiveResult:
    """Read the result of interleaved slates, the candidate's team first, from `ab_test.preference`."""
    seconds = Spread(*preference["seconds"])
    viewers = preference["viewers"]
    relative = seconds if np.isfinite(seconds.value) else UNKNOWN
    return LiveResult("interleaved", relative, (viewers, viewers), preference["requests"])
