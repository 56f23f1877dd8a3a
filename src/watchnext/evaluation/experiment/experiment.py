"""Run an experiment: arms one after another, each kept as a file, then figures, differences and tests.

paired       every viewer meets every policy, each in a world of its own, with the same luck: what the policies differ in, at
             the least noise. Only a simulator can do this
split        every viewer meets one policy, by stable hash: an A/B test
interleaved  every viewer meets slates drafted by two policies
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.code_digest import code_of
from watchnext.evaluation.experiment.ab_test import ab_test, preference
from watchnext.evaluation.experiment.ablations import policy_of
from watchnext.evaluation.experiment.arm_figures import ArmFigures, summarised
from watchnext.evaluation.experiment.assignment import Assignment, ExperimentError, require_disjoint
from watchnext.evaluation.experiment.simulation import Simulation
from watchnext.evaluation.experiment.traffic import run_arm
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

    folder  where every arm's impressions are kept; an arm that is there with the same settings and code is not run again
    """

    def __init__(self, release: Release, simulation: Simulation, *, releases: Path, folder: Path, seed: int) -> None:
        simulation.require(release)
        self._release, self._simulation, self._releases = release, simulation, Path(releases)
        self._folder, self._seed = Path(folder), seed

    def run(self, *, design: str, policies: Sequence[str], shares: Mapping[str, float] | None = None) -> dict:
        """Return the report. Raises ExperimentError before anything is run."""
        require_design(design, policies)
        answering = {name: policy_of(name, self._release, self._releases) for name in policies}
        arms = arms_of(design, policies, shares, self._simulation, salt=f"experiment {self._seed}")
        shown = {}
        for name, users in arms.items():
            of_arm = [answering[each] for each in (policies if design == "interleaved" else [name])]
            shown[name] = self._arm(name, of_arm, users)
        figures = {name: ArmFigures.of(shown[name], self._simulation, users) for name, users in arms.items()}
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

    def _arm(self, name: str, policies: Sequence[Release], users: np.ndarray) -> pl.DataFrame:
        path = self._folder / f"{name.replace(' ', '-')}.parquet"
        settings = {**self._settings(policies), "arm": name, "users": digest_of_rows(users)}
        kept = path.with_suffix(".json")
        if kept.exists() and json.loads(kept.read_text()) == settings:
            return pl.read_parquet(path)
        kept.unlink(missing_ok=True)
        shown = run_arm(name, policies, self._simulation, users, seed=self._seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        shown.write_parquet(path)
        replaced(kept, json.dumps(settings))  # last: an arm that was cut short is run again
        return shown

    def _settings(self, policies: Sequence[Release]) -> dict:
        simulation = self._simulation
        return {
            "releases": [release.id for release in policies],
            "world": [simulation.world.seed, str(simulation.world.mechanisms), simulation.released],
            "loyalty": str(simulation.loyalty),
            "days": simulation.days,
            "seed": self._seed,
            "code": code_of("watchnext.evaluation.experiment.traffic"),
        }


def digest_of_rows(users: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(users, np.int64).tobytes()).hexdigest()[:16]
