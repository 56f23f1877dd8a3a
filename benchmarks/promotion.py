"""Count wrong promotions: `python -m benchmarks.promotion [--runs 1000] [--policies full popular ...] [data=sample]`.

    aa     share of A/A canaries that are ever promoted, or ever decided at all, in hourly looks over a week, at a tenth and at
           half of the viewers. Viewers are those of `benchmarks.experiments`: heavy-tailed, and they come again and again
    power  viewers that a canary of `--lift` more seconds takes for 80%: for one look at the end by calculation, and the share
           that an always-valid interval finds in daily looks with so many, and with `--more` times as many. Sums of a day are
           drawn as gamma variables with the same moments as the sessions of `aa`
    pairs  releases of known truth: the last built release and ablations of it, every ordered pair. The truth is seconds a
           viewer with every viewer in both worlds (`experiment design=paired`). Replay is that of `promote` on test days; live
           traffic is interleaved slates. Guards are left out, as they are no estimates. A promotion is false where the truth is
           not above 0; a rejection is false where the truth is clearly above it, its 95% interval beyond 0. Run again, it
           goes on with the traffic that it has

The last line is one JSON object.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
from benchmarks.experiments import SECONDS, SECONDS_SPREAD, SESSIONS_A_DAY, weeks
from omegaconf import DictConfig

from watchnext.cli import composed, exits_on, instantiate
from watchnext.evaluation.comparison.side_by_side import Replayed, compare_slates
from watchnext.evaluation.experiment.ablations import ABLATIONS, policy_named
from watchnext.evaluation.experiment.command import world_of
from watchnext.evaluation.experiment.experiment import Experiment
from watchnext.evaluation.experiment.power import viewers_needed
from watchnext.evaluation.experiment.relative import relative_of_arms
from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.features.dataset.batches import FeatureSet
from watchnext.lifecycle.promotion.live_result import LiveResult, interleaved_result
from watchnext.lifecycle.promotion.promotion_decision import PROMOTED, REJECTED, decide
from watchnext.metrics import rank_correlation, rounded
from watchnext.sequential import Spread
from watchnext.serving.release.release import Release, last_built
from watchnext.simulator.population import ACTIVITY_SPREAD, EAGERNESS_SPREAD

SHARES = (0.1, 0.5)  # of the viewers, who meet the candidate


# ---- A/A and power ---------------------------------------------------------------------------------------------------


def wrong_promotions(runs: int, viewers: int, days: int, planned: float, seed: int) -> dict:
    """Look at A/A canaries every hour; return share > the shares of runs that are ever promoted, and ever decided."""
    found = {}
    for share in SHARES:
        won = lost = 0
        for run in range(runs):
            seconds, sessions = weeks(np.random.default_rng([seed, run, round(100 * share)]), viewers, days)
            cut, arms = round(share * viewers), (seconds[: round(share * viewers)], seconds[round(share * viewers) :])
            at_hours = [
                relative_of_arms(*(arm[:, hour] for arm in arms), requests=float(sessions[hour]), planned=planned)
                for hour in range(seconds.shape[1])
                if cut
            ]
            won += any(each.low > 0 for each in at_hours)
            lost += any(each.high < 0 for each in at_hours)
        found[f"{share:g}"] = {"promoted": won / runs, "decided": (won + lost) / runs}
    return {**found, "runs": runs, "viewers": viewers, "planned": planned}


def seconds_by_day(random: np.random.Generator, viewers: int, days: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw seconds (viewers, days) watched so far by the end of each day, and the sessions (days,) so far."""
    rate = np.exp(ACTIVITY_SPREAD * random.standard_normal(viewers) - ACTIVITY_SPREAD**2 / 2)
    length = SECONDS * np.exp(0.5 * EAGERNESS_SPREAD * random.standard_normal(viewers))
    sessions = random.poisson(rate[:, None] * SESSIONS_A_DAY, (viewers, days))
    spread = np.exp(SECONDS_SPREAD**2) - 1.0  # squared coefficient of variation of one session
    seconds = length[:, None] * random.gamma(sessions / spread) * spread
    return seconds.cumsum(axis=1), sessions.sum(axis=0).cumsum()


def power(runs: int, lift: float, days: int, more: float, seed: int, *, most: int) -> dict:
    """Return the viewers that a single look takes for 80%, and the share of canaries at half of the viewers that are promoted.

    At `most` viewers are simulated: a larger lift stands for a larger platform where more would be needed, as the share depends
    on lift² times viewers alone.
    """
    week, _ = seconds_by_day(np.random.default_rng([seed, 0]), 100_000, days)
    needed = viewers_needed(week[:, -1], lift)
    report = {"lift": lift, "days": days, "viewers_single_look": needed, "runs": runs}
    for factor in (1.0, more):
        viewers = min(most, round(factor * needed))
        simulated = lift * np.sqrt(factor * needed / viewers)
        won = single = 0
        for run in range(runs):
            random = np.random.default_rng([seed, 1, run])
            (first, some), (second, others) = (seconds_by_day(random, viewers // 2, days) for _ in range(2))
            sessions = (some + others).astype(float)
            at_days = [
                relative_of_arms((1 + simulated) * first[:, day], second[:, day], requests=sessions[day], planned=sessions[-1])
                for day in range(days)
            ]
            won += any(each.low > 0 for each in at_days)
            error = np.hypot(*(arm[:, -1].std() / arm[:, -1].mean() / len(arm) ** 0.5 for arm in (first, second)))
            single += at_days[-1].value > 1.96 * error
        report[f"{factor:g}x"] = {"viewers": round(factor * needed), "promoted": won / runs, "single_look": single / runs}
    return report


# ---- pairs of known truth --------------------------------------------------------------------------------------------


def judged(
    config: DictConfig, release: Release, simulation: Simulation, policies: Sequence[str], folder: Path, *, requests: int
) -> dict:
    """Decide on every ordered pair of policies, and count wrong decisions; one traffic of a pair tries either as the candidate.

    Traffic is kept in `folder`, so that a benchmark that was cut short goes on where it was.
    """
    root, outputs = Path(config.data.releases), Path(config.data.outputs)
    features = FeatureSet.load(outputs / "features")
    log, slate = HeldOutLog.of_outputs(outputs, features), config.evaluation.slate
    settings = {"regime": config.regime, "requests": requests, "given": {}, "traced_only": True}
    replays = {
        name: Replayed.of(policy_named(name, release, root), log, slate=slate, **settings) for name in dict.fromkeys(policies)
    }
    runner = Experiment(release, simulation, releases=root, folder=folder, seed=config.seed)
    truth = runner.run(design="paired", policies=policies)["differences"]
    pairs = []
    for one, other in combinations(policies, 2):
        live = interleaved_result(runner.run(design="interleaved", policies=[one, other])["interleaved"])
        print(f"{one} with {other}: {live.relative}", file=sys.stderr, flush=True)
        for candidate, champion, seen in ((one, other, live), (other, one, mirrored(live))):
            figures = compare_slates(replays[candidate], replays[champion], k=slate, seed=config.seed)
            figure = figures[f"{config.promotion.figure}@{slate}"]
            decision = decide(figure, [], seen, least=config.promotion.least)
            pairs.append(
                {
                    "candidate": candidate,
                    "champion": champion,
                    "truth": relative_truth(truth, candidate, champion),
                    "replay": figure["difference"],
                    "replay_rejects": decide(figure, [], None, least=config.promotion.least).verdict == REJECTED,
                    "live": list(seen.relative),
                    "verdict": decision.verdict,
                }
            )
    return {**counted(pairs), "viewers": len(simulation.users), "days": simulation.days, "requests": requests, "each": pairs}


def mirrored(live: LiveResult) -> LiveResult:
    """Return what the same slates say of the other release: the interval is one of the ratio's logarithm."""
    value, low, high = live.relative
    if not np.isfinite(live.relative).all():
        return live
    return replace(live, relative=Spread(*(1 / (1 + each) - 1 for each in (value, high, low))))


def relative_truth(differences: dict, candidate: str, champion: str) -> list[float]:
    """Return by which part the candidate's seconds exceed those of the champion, low and high."""
    if (pair := f"{candidate} - {champion}") in differences:
        return list(differences[pair]["watch_s"]["relative"])
    value, low, high = differences[f"{champion} - {candidate}"]["watch_s"]["relative"]
    return [1 / (1 + each) - 1 for each in (value, high, low)]


def counted(pairs: Sequence[dict]) -> dict:
    """Count decisions that the truth contradicts, and how replay and live traffic order the pairs."""
    truth = np.array([pair["truth"][0] for pair in pairs])
    better = [pair for pair in pairs if pair["truth"][1] > 0]
    promoted = [pair for pair in pairs if pair["verdict"] == PROMOTED]
    return {
        "pairs": len(pairs),
        "promoted": len(promoted),
        "false_promotions": sum(pair["truth"][0] <= 0 for pair in promoted),
        "clearly_better": len(better),
        "false_rejections": sum(pair["verdict"] == REJECTED for pair in better),
        "false_rejections_by_replay": sum(pair["replay_rejects"] for pair in better),
        "not_decided_of_better": sum(pair["verdict"] not in (REJECTED, PROMOTED) for pair in better),
        "replay_rank_correlation": rank_correlation(np.array([pair["replay"] for pair in pairs]), truth),
        "live_rank_correlation": rank_correlation(np.array([pair["live"][0] for pair in pairs]), truth),
    }


@exits_on(ValueError, FileNotFoundError)
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000, help="A/A canaries at each share")
    parser.add_argument("--viewers", type=int, default=1000, help="of a canary, both releases together")
    parser.add_argument("--days", type=int, default=7)
    parser.add_argument("--lift", type=float, default=0.01, help="whose power is measured")
    parser.add_argument("--more", type=float, default=2.0, help="times the viewers of a single look")
    parser.add_argument("--most", type=int, default=20_000, help="viewers simulated for the power")
    parser.add_argument("--power-runs", type=int, default=200)
    parser.add_argument("--policies", nargs="*", default=[*ABLATIONS], help="of the pairs; none leaves the pairs out")
    parser.add_argument("--pair-viewers", type=int, default=300, help="who live with each pair")
    parser.add_argument("--pair-days", type=int, default=3)
    parser.add_argument("--requests", type=int, default=300, help="replayed for each release")
    options, overrides = parser.parse_known_args()
    if min(options.runs, options.power_runs, options.days) < 1 or options.viewers < 20:
        raise ValueError(f"{options}: expected at least 1 run and day, and 20 viewers")
    began, config = time.process_time(), composed(overrides)
    planned = float(config.promotion.requests)
    figures = {"aa": wrong_promotions(options.runs, options.viewers, options.days, planned, config.seed)}
    figures["power"] = power(options.power_runs, options.lift, options.days, options.more, config.seed, most=options.most)
    if options.policies:
        release = Release.load(last_built(config.data.releases, Path(config.data.outputs)))
        loyalty = instantiate(config.experiment.loyalty)
        simulation = Simulation.of(world_of(config)[1], loyalty=loyalty, days=options.pair_days, viewers=options.pair_viewers)
        folder = Path(config.data.outputs) / "promotion" / "pairs"
        figures["pairs"] = judged(config, release, simulation, options.policies, folder, requests=options.requests)
    print(json.dumps({**rounded(figures, 4), "seed": config.seed, "cpu_s": round(time.process_time() - began, 1)}))


if __name__ == "__main__":
    main()
