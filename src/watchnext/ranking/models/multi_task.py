"""Multi-task towers: shared bottom, MMoE and PLE.

A task is an outcome, or watch time, whose head may read several columns: columns from `heads.WATCH` on are one task.
"""

import torch
from torch import Tensor, nn

from watchnext.nn.cross import MLP
from watchnext.ranking.heads import WATCH


def columns_of_tasks(targets: int) -> list[int]:
    """Return the number of columns of each task."""
    return [1] * min(targets, WATCH) + ([targets - WATCH] if targets > WATCH else [])


class SharedBottom(nn.Module):
    """One MLP for all tasks (Caruana, 1997): features (N, inputs) and crosses (N, crossed) > logits (N, targets)."""

    def __init__(self, *, inputs: int, crossed: int, targets: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.deep = MLP(inputs=inputs, hidden=hidden, dropout=dropout)
        self.heads = nn.Linear(crossed + hidden[-1], targets)

    def forward(self, features: Tensor, crosses: Tensor) -> Tensor:
        return self.heads(torch.cat([crosses, self.deep(features)], dim=-1))


class Heads(nn.Module):
    """Output layers: crosses (N, crossed) and one state (N, width) per task > logits (N, targets)."""

    def __init__(self, *, crossed: int, width: int, targets: int) -> None:
        super().__init__()
        self.of_tasks = nn.ModuleList(nn.Linear(crossed + width, columns) for columns in columns_of_tasks(targets))

    def forward(self, crosses: Tensor, states: list[Tensor]) -> Tensor:
        own = zip(self.of_tasks, states, strict=True)
        return torch.cat([head(torch.cat([crosses, state], dim=-1)) for head, state in own], dim=-1)


class Gate(nn.Module):
    """Softmax gate over experts: inputs (N, inputs) weight the outputs (N, E, width)."""

    def __init__(self, *, inputs: int, experts: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(inputs, experts)

    def forward(self, inputs: Tensor, outputs: Tensor) -> Tensor:
        return (self.weigh(inputs).softmax(-1).unsqueeze(-1) * outputs).sum(1)


class MMoE(nn.Module):
    """Multi-gate mixture of experts (Ma et al., KDD 2018): features (N, inputs) and crosses (N, crossed) > logits (N, targets).
    Each task mixes `experts` MLPs by its own gate. Deviation: heads also read the crosses."""

    def __init__(
        self, *, inputs: int, crossed: int, targets: int, hidden: tuple[int, ...], dropout: float, experts: int
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(MLP(inputs=inputs, hidden=hidden, dropout=dropout) for _ in range(experts))
        self.gates = nn.ModuleList(Gate(inputs=inputs, experts=experts) for _ in columns_of_tasks(targets))
        self.heads = Heads(crossed=crossed, width=hidden[-1], targets=targets)

    def forward(self, features: Tensor, crosses: Tensor) -> Tensor:
        outputs = torch.stack([expert(features) for expert in self.experts], dim=1)
        return self.heads(crosses, [gate(features, outputs) for gate in self.gates])


class PLE(nn.Module):
    """Progressive layered extraction (Tang et al., RecSys 2020): features (N, inputs) and crosses (N, crossed) > logits (N,
    targets). Each width in `hidden` is a level with `shared` experts and `own` experts per task. A task's gate mixes its own
    and the shared experts; the shared gate mixes all. Deviation: heads also read the crosses."""

    def __init__(
        self, *, inputs: int, crossed: int, targets: int, hidden: tuple[int, ...], dropout: float, shared: int, own: int
    ) -> None:
        super().__init__()
        tasks = len(columns_of_tasks(targets))
        widths = [inputs, *hidden]
        self.levels = nn.ModuleList(
            _Level(inputs=width, outputs=out, tasks=tasks, shared=shared, own=own, dropout=dropout, last=depth == len(hidden))
            for depth, (width, out) in enumerate(zip(widths[:-1], hidden, strict=True), start=1)
        )
        self.heads = Heads(crossed=crossed, width=hidden[-1], targets=targets)
        self.tasks = tasks

    def forward(self, features: Tensor, crosses: Tensor) -> Tensor:
        states = [features] * (self.tasks + 1)  # one state per task, and the shared state
        for level in self.levels:
            states = level(states)
        return self.heads(crosses, states)


class _Level(nn.Module):
    """One extraction level: states (N, inputs) of T tasks and the shared state > (N, outputs); the last level drops the shared
    state."""

    def __init__(self, *, inputs: int, outputs: int, tasks: int, shared: int, own: int, dropout: float, last: bool) -> None:
        super().__init__()
        counts = [own] * tasks + [shared]
        self.experts = nn.ModuleList(
            nn.ModuleList(MLP(inputs=inputs, hidden=(outputs,), dropout=dropout) for _ in range(count)) for count in counts
        )
        sizes = [own + shared] * tasks + ([] if last else [sum(counts)])
        self.gates = nn.ModuleList(Gate(inputs=inputs, experts=size) for size in sizes)

    def forward(self, states: list[Tensor]) -> list[Tensor]:
        *own, shared = [
            torch.stack([expert(state) for expert in experts], dim=1)
            for experts, state in zip(self.experts, states, strict=True)
        ]
        visible = [torch.cat([task, shared], dim=1) for task in own] + [torch.cat([*own, shared], dim=1)]
        return [gate(state, outputs) for gate, state, outputs in zip(self.gates, states, visible, strict=False)]
