"""Hyperparameter search with optuna, imported only here: the search space, and a resumable study of trials on disk.

The sampler is TPE (Bergstra et al., NeurIPS 2011), seeded for every trial by the number of ended trials, so that a resumed
study tries the same settings as an uninterrupted one. The pruner is the median rule (Golovin et al., KDD 2017).
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

Pruned = optuna.TrialPruned
Space = Mapping[str, BaseDistribution]
LEAF = ({"choices"}, {"low", "high"}, {"low", "high", "log"})
DIGITS = 4  # significant digits of a sampled number


def space_of(declared: Mapping, prefix: str = "") -> dict[str, BaseDistribution]:
    """Return dotted key > distribution. `declared` is nested like the configuration and ends in `{low, high}`, with `log: true`
    for a log-uniform distribution, or in `{choices}`; integer bounds give integers. Raises ValueError naming the key.
    """
    space: dict[str, BaseDistribution] = {}
    for name, value in declared.items():
        key = f"{prefix}{name}"
        if not isinstance(value, Mapping) or not value:
            raise ValueError(f"tune.space.{key} is {value!r}, expected {{low: 1, high: 9}} or {{choices: [1, 9]}}")
        if {"low", "high", "choices"} & set(value):
            space[key] = _distribution(key, value)
        else:
            space |= space_of(value, f"{key}.")
    return space


def _distribution(key: str, declared: Mapping) -> BaseDistribution:
    if set(declared) not in LEAF:
        raise ValueError(f"tune.space.{key} has {', '.join(declared)}, expected low and high, perhaps log, or choices alone")
    if "choices" in declared:
        return CategoricalDistribution([text(value) for value in declared["choices"]])
    low, high = declared["low"], declared["high"]
    kind = IntDistribution if isinstance(low, int) and isinstance(high, int) else FloatDistribution
    try:
        return kind(low, high, log=bool(declared.get("log", False)))
    except (ValueError, TypeError) as error:
        raise ValueError(f"tune.space.{key} goes from {low} to {high}: {error}") from None


def text(value: object) -> str:
    """Format a value for an override."""
    if isinstance(value, float):
        value = float(f"{value:.{DIGITS}g}")
    return value if isinstance(value, str) else json.dumps(value)


def overrides_of(settings: Mapping[str, object]) -> list[str]:
    return [f"{key}={text(value)}" for key, value in settings.items()]


def _lies_in(value: object, distribution: BaseDistribution) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return text(value) in distribution.choices
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


class Trial:
    """One trial. `run` is the id of its tracked run; an interrupted trial already has one when it is tried again."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial
        self.overrides = overrides_of(trial.params)

    @property
    def run(self) -> str | None:
        return self._trial.user_attrs.get("run")

    @run.setter
    def run(self, id: str) -> None:
        self._trial.set_user_attr("run", id)

    def report(self, value: float, step: int) -> None:
        """Report an intermediate value, larger being better. Raises Pruned if it is below the median of earlier trials."""
        self._trial.report(value, step)
        if self._trial.should_prune():
            raise Pruned(f"{value:.4f} at step {step}")

    def ends(self, objective: Callable[[], float]) -> str:
        """Run the trial to its end. Returns its value, `pruned ...` or `failed: ...`.

        A trial that raises ValueError, or has no finite value, has failed and is not tried again.
        """
        study, number = self._trial.study, self._trial.number
        try:
            value = objective()
            if not math.isfinite(value):
                raise ValueError(f"it reached {value}, expected a finite figure; validation days with one class only have none")
        except Pruned as pruned:
            study.tell(number, state=TrialState.PRUNED)
            return f"pruned, {pruned}"
        except ValueError as error:
            self._trial.set_user_attr("error", str(error))
            study.tell(number, state=TrialState.FAIL)
            return f"failed: {error}"
        study.tell(number, value)
        return f"{value:.5f}"


class Study:
    """The trials in `folder`/study.db.

    space    the search space
    first    key > value of the configuration: the first trial, as far as it lies in the space
    startup  number of first trials, which are random and never pruned
    warmup   steps before a trial may be pruned
    """

    def __init__(
        self, folder: Path, *, space: Space, first: Mapping[str, object], seed: int, startup: int, warmup: int
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.space, self._seed, self._startup = dict(space), seed, startup
        self._study = optuna.create_study(
            storage=f"sqlite:///{Path(folder).absolute() / 'study.db'}",  # a journal file does not survive a truncated line
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
            pruner=optuna.pruners.MedianPruner(n_startup_trials=startup, n_warmup_steps=warmup),
        )
        if not self._study.get_trials(deepcopy=False):
            initial = {key: value for key, value in first.items() if _lies_in(value, self.space[key])}
            self._study.enqueue_trial(
                {k: text(v) if isinstance(self.space[k], CategoricalDistribution) else v for k, v in initial.items()}
            )
        self._try_again()

    def _try_again(self) -> None:
        """Mark trials of killed processes as failed, and enqueue them again."""
        for trial in self._study.get_trials(states=(TrialState.RUNNING,)):
            whole = trial.params.keys() == self.space.keys()
            if wanted := trial.params if whole else trial.system_attrs.get("fixed_params"):
                self._study.enqueue_trial(wanted, user_attrs=trial.user_attrs)
            # Else it was killed while it was sampled: the same seed samples the same setting next.
            self._study.tell(trial.number, state=TrialState.FAIL)

    @property
    def run(self) -> str | None:
        """The id of the study's tracked run."""
        return self._study.user_attrs.get("run")

    @run.setter
    def run(self, id: str) -> None:
        self._study.set_user_attr("run", id)

    @property
    def ended(self) -> list[FrozenTrial]:
        """The ended trials, without killed ones."""
        trials = self._study.get_trials(deepcopy=False)
        return [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED) or "error" in t.user_attrs]

    @property
    def spent_s(self) -> float:
        return sum(trial.duration.total_seconds() for trial in self.ended)

    def trials(self, most: int, seconds: float | None) -> Iterator[Trial]:
        """Yield trials until `most` have ended or they took `seconds` in total, those of earlier processes included.

        A running trial is not interrupted.
        """
        while len(self.ended) < most and (seconds is None or self.spent_s < seconds):
            seed = self._seed + 1000 * len(self.ended)
            self._study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=self._startup)
            yield Trial(self._study.ask(self.space))

    @property
    def best(self) -> tuple[float, list[str]]:
        """The best value and its overrides. Raises ValueError if no trial has a value."""
        if not any(trial.state == TrialState.COMPLETE for trial in self.ended):
            errors = [trial.user_attrs["error"] for trial in self.ended if "error" in trial.user_attrs]
            raise ValueError(f"none of {len(self.ended)} trials reached a figure; the last failure: {(errors or ['none'])[-1]}")
        return self._study.best_value, overrides_of(self._study.best_params)
