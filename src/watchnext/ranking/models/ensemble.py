"""Ensemble of rankers: a weighted mean of their logits, with weights chosen on validation days."""

import sys
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from watchnext import metrics
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.trainable import Trainable, Training
from watchnext.nn.weights import build_network, save_network
from watchnext.ranking.heads import WATCH
from watchnext.ranking.scoring import CHUNK, held_out_metrics, waiting
from watchnext.ranking.target_metrics import objective
from watchnext.ranking.watch_time.expectation import from_log
from watchnext.types import TARGETS

WEIGHED = 200_000  # impressions for choosing weights, whole requests; more change little and cost hours
NEWTON = 50  # maximum steps; a two-parameter fit usually converges in a few
BOUNDS = np.array([[0.1, -10.0], [10.0, 10.0]])  # of scale and shift


class Ensemble(nn.Module):
    """Combine members into logits (C, targets): scale * weighted mean + shift, per target."""

    def __init__(self, *, sizes: InputSizes, targets: int, members: tuple[partial, ...]) -> None:
        super().__init__()
        self.members = nn.ModuleList(member(sizes=sizes) for member in members)
        self.register_buffer("weights", torch.full((len(members), targets), 1.0 / len(members)))
        self.register_buffer("scale", torch.ones(targets))
        self.register_buffer("shift", torch.zeros(targets))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.joined(torch.stack([member(inputs) for member in self.members]))

    def joined(self, logits: Tensor) -> Tensor:
        """Combine member logits (M, C, targets) > (C, targets)."""
        return (logits * self.weights.unsqueeze(1)).sum(0) * self.scale + self.shift


class EnsembleModule:
    """Fit members by their presets, `name > {module}`, then choose the member weights.

    Outcomes are weighed by `target_metrics.objective` on validation days, watch time by the squared error of seconds.

    steps  weights are multiples of 1 / steps
    """

    def __init__(self, *, features: FeatureSet, members: Mapping[str, Mapping], steps: int) -> None:
        self.features, self.steps = features, steps
        self.members: dict[str, Trainable] = {name: each["module"](features=features) for name, each in members.items()}
        self._lengths: dict[str, float] = {}
        self._compose()

    @property
    def figures(self) -> dict[str, float]:
        """Return each member's weight per target, between 0 and 1, the length of its fit, and scale and shift of the logits."""
        network = self.network
        weights = {f"weight/{name}": row for name, row in zip(self.members, network.weights.tolist(), strict=True)}
        each = weights | {"scale": network.scale.tolist(), "shift": network.shift.tolist()}
        return self._lengths | {
            f"{name}/{target}": value for name, row in each.items() for target, value in zip(TARGETS, row, strict=True)
        }

    def _compose(self) -> None:
        """Build the network from the members' current weights."""
        recipes = [{key: member.recipe[key] for key in ("target", "arguments")} for member in self.members.values()]
        self.recipe = {
            "target": f"{Ensemble.__module__}.{Ensemble.__qualname__}",
            "arguments": {"targets": len(TARGETS), "members": recipes},
            "sizes": vars(self.features.pipeline.sizes),
        }
        self.network: Ensemble = build_network(self.recipe).eval()
        for copy, member in zip(self.network.members, self.members.values(), strict=True):
            copy.load_state_dict(member.network.state_dict())

    def fit(self, training: Training) -> dict[str, float]:
        """Fit the members, then weigh them; return `figures` and metrics of validation days."""
        for index, (name, module) in enumerate(self.members.items()):
            tqdm.write(f"member {index + 1} of {len(self.members)}: {name}", file=sys.stderr)
            torch.manual_seed(training.seed + index)
            fitted = module.fit(training.of_member(index, name).within(f"{name}/"))
            self._lengths |= {f"{name}/{key}": value for key, value in fitted.items() if not key.startswith("valid/")}
        if training.evaluated is not None:
            self._weigh_as(training)
            return self.figures
        self.weigh(self.features.rows("valid"))
        return self.figures | held_out_metrics(self.features, self.network, "valid")

    def tested(self) -> dict[str, float]:
        return held_out_metrics(self.features, self.network, "test")

    @torch.no_grad()
    def _weigh_as(self, training: Training) -> None:
        """Join the fitted members with the weights of an evaluated fit."""
        self._compose()
        for index, target in enumerate(TARGETS):
            weights = [training.repeated(f"weight/{name}/{target}") for name in self.members]
            self.network.weights[:, index] = torch.tensor(weights)
            self.network.scale[index] = training.repeated(f"scale/{target}")
            self.network.shift[index] = training.repeated(f"shift/{target}")

    @torch.no_grad()
    def weigh(self, valid: np.ndarray) -> None:
        """Join the fitted members; choose weights, scale and shift on impressions `valid`; of many, on every n-th request."""
        self._compose()
        valid = valid[self.features.requests(valid) % max(-(-len(valid) // WEIGHED), 1) == 0]
        starts, network = waiting(range(0, len(valid), CHUNK), desc="members' scores"), self.network
        batches = (self.features.batch(valid[start : start + CHUNK]) for start in starts)
        parts = [torch.stack([each(batch) for each in network.members]) for batch in batches]
        logits = torch.cat(parts, dim=1).double()
        targets, requests = self.features.columns["targets"][valid], self.features.requests(valid)
        for index in range(len(TARGETS)):
            member_logits, target = logits[:, :, index].numpy(), targets[:, index]
            objective = partial(_negative_squared_error, target) if index == WATCH else partial(_objective, target, requests)
            candidates = waiting(list(simplex(len(member_logits), self.steps)), desc=f"weights of {TARGETS[index]}")
            weights = max(candidates, key=lambda w, logits=member_logits, objective=objective: objective(w @ logits))
            network.weights[:, index] = torch.from_numpy(weights)
            if index != WATCH:
                network.scale[index], network.shift[index] = platt(weights @ member_logits, target)

    def save(self, folder: Path) -> None:
        save_network(folder, self.network, schema=self.features.pipeline.schema, recipe=self.recipe)


def _objective(target: np.ndarray, requests: np.ndarray, logit: np.ndarray) -> float:
    """Evaluate the objective of an outcome; -inf if validation has one class only, so that the first weights stay."""
    found = objective(metrics.auc(target, logit), metrics.gauc(target, logit, requests))
    return float(np.nan_to_num(found, nan=-np.inf))


def _negative_squared_error(seconds: np.ndarray, logit: np.ndarray) -> float:
    """Compare seconds (n,) with predicted log1p seconds (n,); squared error is minimal at the expectation."""
    return -float(np.square(from_log(logit) - seconds).mean())


def simplex(members: int, steps: int) -> Iterator[np.ndarray]:
    """Yield all weights (members,) that are multiples of 1 / steps and sum to 1, most even first."""
    bars = combinations(range(steps + members - 1), members - 1)
    counts = [np.diff([-1, *bar, steps + members - 1]) - 1 for bar in bars]
    yield from (count / steps for count in sorted(counts, key=lambda count: float((count**2).sum())))


def platt(logit: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Fit scale and shift (a, b) of sigmoid(a * logit + b) by maximum likelihood (Platt 1999) with Newton's method. A single
    class gives (1, 0). Separable classes have no maximum; BOUNDS limit the fit."""
    if target.min() == target.max():
        return 1.0, 0.0
    design, result = np.stack([logit, np.ones_like(logit)], axis=1), np.array([1.0, 0.0])
    for _ in range(NEWTON):
        probability = 1.0 / (1.0 + np.exp(np.clip(-design @ result, -50.0, 50.0)))
        curvature = (design * (probability * (1.0 - probability))[:, None]).T @ design + 1e-9 * np.eye(2)
        gradient = design.T @ (target - probability)
        outward = np.where(gradient < 0, result <= BOUNDS[0], result >= BOUNDS[1])
        free = np.flatnonzero(~outward)  # the other parameter is fitted for the bound that one stands at
        step = np.linalg.solve(curvature[np.ix_(free, free)], gradient[free])
        result[free] = np.clip(result[free] + np.clip(step, -0.5, 0.5), *BOUNDS[:, free])  # full steps overshoot from far away
    return float(result[0]), float(result[1])
