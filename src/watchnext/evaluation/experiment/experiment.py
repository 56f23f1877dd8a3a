"""Run an experiment: simulated traffic, kept as files, then figures of each arm, differences and tests.

paired       every viewer meets every policy, each in a world of its own, with the same luck: what the policies differ in, at
             the least noise. Only a simulator can do this
split        every viewer meets one policy, by stable hash, and all policies hear of all viewers: an A/B test
interleaved  every viewer meets slates drafted by two policies
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.assignment import Assignment, ExperimentError, require_disjoint
from watchnext.code_digest import code_of
from watchnext.evaluation.experiment.ab_test import ab_test, preference
from watchnext.evaluation.experiment.ablations import policy_named
from watchnext.evaluation.experiment.arm_figures import ArmFigures, summarised
from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.evaluation.experiment.traffic import run_arms
from watchnext.files import replaced
from watchnext.serving.release.release import Release

DESIGNS = ("paired", "split", "interleaved")


def require_design(design: str, policies: Sequence[str]) -> None:
    """Raise ExperimentError for an unknown design, or policies that do not fit it."""
    if design not in DESIGNS:
        raise ExperimentError(f"design is {design!r}, expected one of {', '.join(DESIGNS)}")
    if twice := [name for name in dict.fromkeys(policies) if list(policies).count(name) > 1]:
        raise ExperimentError(
            f"policy {twice[0]!r} is named twice, so that its viewers would be in two arms; name each policy once"
        )
    if not policies or (design == "interleaved" and len(policies) != 2):
        wanted = "two policies" if design == "interleaved" else "at least one policy"
        raise ExperimentError(f"policies are {list(policies)}, expected {wanted} for the design {design}")


def arms_of(
    design: str, policies: Sequence[str], shares: Mapping[str, float] | None, simulation: Simulation, *, salt: str
) -> dict[str, np.ndarray]:
    """Return arm > its viewers, rows of the world. Raises ExperimentError for an arm without viewers."""
    if design == "interleaved":
        return {" with ".join(policies): simulation.users}
    if design == "paired":
        return dict.fromkeys(policies, simulation.users)
    shares = shares or dict.fromkeys(policies, 1 / len(policies))
    if sorted(shares) != sorted(policies):
        raise ExperimentError(f"shares are of {', '.join(shares)}, expected one for each of {', '.join(policies)}")
    ids = simulation.world.viewers["id"][simulation.users].tolist()
    found = Assignment.of_shares(salt, shares).positions(ids)
    arms = {name: simulation.users[found[name]] for name in policies}
    require_disjoint(arms)
    return arms


class Experiment:
    """An experiment on a release in the world that made its log.

    folder  where the traffic is kept, by arm where arms do not meet; with the same settings and code it is not run again
    """

    def __init__(self, release: Release, simulation: Simulation, *, releases: Path, folder: Path, seed: int) -> None:
        simulation.require(release)
        self._release, self._simulation, self._releases = release, simulation, Path(releases)
        self._folder, self._seed = Path(folder), seed

    def run(self, *, design: str, policies: Sequence[str], shares: Mapping[str, float] | None = None) -> dict:
        """Return the report. Raises ExperimentError before anything is run."""
        require_design(design, policies)
        releases = {name: policy_named(name, self._release, self._releases) for name in policies}
        arms = arms_of(design, policies, shares, self._simulation, salt=f"experiment {self._seed}")
        people = {name: self._simulation.people(users) for name, users in arms.items()}
        shown = self._shown(design, releases, arms)
        shown = {name: shown[name].filter(pl.col("viewer").is_in(users)) for name, users in people.items()}
        figures = {name: ArmFigures.of(shown[name], self._simulation, users) for name, users in people.items()}
        report = {
            "release": self._release.id,
            "design": design,
            "days": self._simulation.days,
            "viewers": len(self._simulation.users),
            **summarised(figures, seed=self._seed),
            "daily": {name: each.daily() for name, each in figures.items()},
        }
        if design == "split":
            report["ab_test"] = ab_test(figures, shown, start_ms=self._simulation.start_ms, days=self._simulation.days)
        if design == "interleaved":
            report["interleaved"] = {"policies": list(policies), **preference(*shown.values())}
        return report

    def _shown(self, design: str, releases: Mapping[str, Release], arms: Mapping[str, np.ndarray]) -> dict[str, pl.DataFrame]:
        """Return arm > impressions, of its viewers and perhaps others."""
        policy_of = np.zeros(len(self._simulation.world.viewers), np.int64)
        if design == "paired":
            return {name: self._traffic(name, {name: releases[name]}, policy_of) for name in arms}
        for number, users in enumerate(arms.values()):
            policy_of[users] = number
        shown = self._traffic(" with ".join(releases), releases, policy_of if design == "split" else None)
        return dict.fromkeys(arms, shown)

    def _traffic(self, name: str, policies: Mapping[str, Release], policy_of: np.ndarray | None) -> pl.DataFrame:
        path = self._folder / f"{name.replace(' ', '-')}.parquet"
        settings = {
            **self._settings(policies),
            "policy_of": "interleaved" if policy_of is None else digest_of_rows(policy_of),
        }
        kept = path.with_suffix(".json")
        if kept.exists() and json.loads(kept.read_text()) == settings:
            return pl.read_parquet(path)
        kept.unlink(missing_ok=True)
        shown = run_arms(name, [*policies.values()], self._simulation, policy_of, seed=self._seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        shown.write_parquet(path)
        replaced(kept, json.dumps(settings))  # last: an arm that was cut short is run again
        return shown

    def _settings(self, policies: Mapping[str, Release]) -> dict:
        simulation = self._simulation
        return {
            "policies": {name: release.id for name, release in policies.items()},
            "users": digest_of_rows(simulation.users),
            "world": [simulation.world.seed, str(simulation.world.mechanisms), simulation.released],
            "loyalty": str(simulation.loyalty),
            "days": simulation.days,
            "seed": self._seed,
            "code": code_of(*(f"watchnext.evaluation.experiment.{name}" for name in ("traffic", "ablations"))),
        }


def digest_of_rows(users: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(users, np.int64).tobytes()).hexdigest()[:16]
