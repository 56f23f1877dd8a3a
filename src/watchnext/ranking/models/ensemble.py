"""Several rankers as one: their logits averaged with weights that the validation days choose."""

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from watchnext import metrics
from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.weights import build_network, save_network
from watchnext.ranking.heads import WATCH
from watchnext.ranking.scoring import CHUNK, waiting
from watchnext.ranking.watch_time.expectation import from_log
from watchnext.types import TARGETS

NEWTON = 50  # steps; a fit of two numbers is done after a handful, if it does not start far away
BOUNDS = np.array([[0.1, -10.0], [10.0, 10.0]])  # of scale and shift


class Member(Protocol):
    """A model's module once it is fitted: RankingModule or BoostedModule."""

    network: nn.Module
    recipe: dict


class Ensemble(nn.Module):
    """Logits (C, targets): scale * weighted mean of the members' logits + shift, each target with its own numbers."""

    def __init__(self, *, sizes: InputSizes, targets: int, members: tuple[partial, ...]) -> None:
        super().__init__()
        self.members = nn.ModuleList(member(sizes=sizes) for member in members)
        self.register_buffer("weights", torch.full((len(members), targets), 1.0 / len(members)))
        self.register_buffer("scale", torch.ones(targets))
        self.register_buffer("shift", torch.zeros(targets))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.joined(torch.stack([member(inputs) for member in self.members]))

    def joined(self, logits: Tensor) -> Tensor:
        """(M, C, targets) logits of the members > (C, targets)."""
        return (logits * self.weights.unsqueeze(1)).sum(0) * self.scale + self.shift


class EnsembleModule:
    """Members as their own presets describe them, `name > {module, best}`, and how much each says.

    steps  weights are multiples of 1 / steps
    value  what they maximise on validation days for an outcome: `auc` and `gauc`, weighted. AUC tells viewers apart as well
           as videos, GAUC only the videos of one viewer; what raises one of them may lower the other. Of watch time it is the
           squared error of seconds.
    """

    def __init__(self, *, features: FeatureSet, members: Mapping[str, Mapping], steps: int, value: Mapping[str, float]) -> None:
        if unknown := [name for name in value if name not in ("auc", "gauc")]:
            raise ValueError(f"the committee's value names {unknown[0]!r}, expected auc and gauc")
        self.features, self.steps, self.value = features, steps, dict(value)
        self.members = {name: member["module"](features=features) for name, member in members.items()}
        self.best = {name: member.get("best") for name, member in members.items()}
        self._compose()

    @property
    def figures(self) -> dict[str, float]:
        """How much each member says of each target, between 0 and 1."""
        weights = self.network.weights.tolist()
        return {
            f"weight/{name}/{target}": weights[member][place]
            for member, name in enumerate(self.members)
            for place, target in enumerate(TARGETS)
        }

    def _compose(self) -> None:
        """The network of the members as they are now."""
        recipes = [{key: member.recipe[key] for key in ("target", "arguments")} for member in self.members.values()]
        self.recipe = {
            "target": f"{Ensemble.__module__}.{Ensemble.__qualname__}",
            "arguments": {"targets": len(TARGETS), "members": recipes},
            "sizes": vars(self.features.pipeline.sizes),
        }
        self.network: Ensemble = build_network(self.recipe).eval()
        for own, member in zip(self.network.members, self.members.values(), strict=True):
            own.load_state_dict(member.network.state_dict())

    def fit(self, valid: np.ndarray, *, seed: int, member: Callable[[str, Member, object, int], None]) -> None:
        """Fit each by `member(name, module, best, seed)`, and then their weights on the impressions `valid`."""
        for place, (name, module) in enumerate(self.members.items()):
            tqdm.write(f"member {place + 1} of {len(self.members)}: {name}", file=sys.stderr)
            member(name, module, self.best[name], seed + place)
        self._compose()
        self.weigh(valid)

    @torch.no_grad()
    def weigh(self, valid: np.ndarray) -> None:
        """Choose weights, scale and shift on the impressions `valid`."""
        starts, network = waiting(range(0, len(valid), CHUNK), desc="members' scores"), self.network
        batches = (self.features.batch(valid[start : start + CHUNK]) for start in starts)
        parts = [torch.stack([each(batch) for each in network.members]) for batch in batches]
        logits = torch.cat(parts, dim=1).double()
        targets, users = self.features.columns["targets"][valid], self.features.columns["user_rows"][valid]
        for place in range(len(TARGETS)):
            mine, target = logits[:, :, place].numpy(), targets[:, place]
            worth = partial(_closeness, target) if place == WATCH else partial(self._worth, target, users)
            tried = waiting(list(simplex(len(mine), self.steps)), desc=f"weights of {TARGETS[place]}")
            weights = max(tried, key=lambda weights, mine=mine, worth=worth: worth(weights @ mine))
            network.weights[:, place] = torch.from_numpy(weights)
            if place != WATCH:
                network.scale[place], network.shift[place] = platt(weights @ mine, target)

    def _worth(self, target: np.ndarray, users: np.ndarray, logit: np.ndarray) -> float:
        """nan where validation shows one class only; then all weights are as good, and the first stays."""
        found = {"auc": metrics.auc(target, logit), "gauc": metrics.gauc(target, logit, users)}
        return float(np.nan_to_num(sum(weight * found[name] for name, weight in self.value.items()), nan=-np.inf))

    def save(self, folder: Path) -> None:
        save_network(folder, self.network, schema=self.features.pipeline.schema, recipe=self.recipe)


def _closeness(seconds: np.ndarray, logit: np.ndarray) -> float:
    """Of seconds (n,) to log1p of others (n,): their squared error, as it is least for the expectation."""
    return -float(np.square(from_log(logit) - seconds).mean())


def simplex(members: int, steps: int) -> Iterator[np.ndarray]:
    """All weights (members,) that are multiples of 1 / steps and sum to 1, the most even ones first."""
    bars = combinations(range(steps + members - 1), members - 1)
    counts = [np.diff([-1, *bar, steps + members - 1]) - 1 for bar in bars]
    yield from (count / steps for count in sorted(counts, key=lambda count: float((count**2).sum())))


def platt(logit: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    """Scale and shift (a, b) that maximise the likelihood of sigmoid(a * logit + b) (Platt 1999), by Newton's method; (1, 0)
    where there is one class only. Where the classes are apart the likelihood has no maximum: BOUNDS end it."""
    if target.min() == target.max():
        return 1.0, 0.0
    design, found = np.stack([logit, np.ones_like(logit)], axis=1), np.array([1.0, 0.0])
    for _ in range(NEWTON):
        probability = 1.0 / (1.0 + np.exp(np.clip(-design @ found, -50.0, 50.0)))
        curvature = (design * (probability * (1.0 - probability))[:, None]).T @ design
        step = np.linalg.solve(curvature + 1e-9 * np.eye(2), design.T @ (target - probability))
        found = np.clip(found + np.clip(step, -0.5, 0.5), *BOUNDS)  # a full step from far away overshoots
    return float(found[0]), float(found[1])
