"""Features > logits of every task: what tasks share, and what is their own.

A task is an outcome, or watch time, whose head may read several columns: columns from `heads.WATCH` on are one task.
"""

import torch
from torch import Tensor, nn

from watchnext.nn.cross import MLP
from watchnext.ranking.heads import WATCH


def columns_of_tasks(targets: int) -> list[int]:
    """How many of `targets` columns each task has."""
    return [1] * min(targets, WATCH) + ([targets - WATCH] if targets > WATCH else [])


class SharedBottom(nn.Module):
    """Logits (N, targets) of features (N, inputs) and their crosses (N, crossed): one MLP for all tasks (Caruana, 1997)."""

    def __init__(self, *, inputs: int, crossed: int, targets: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.deep = MLP(inputs=inputs, hidden=hidden, dropout=dropout)
        self.heads = nn.Linear(crossed + hidden[-1], targets)

    def forward(self, features: Tensor, crosses: Tensor) -> Tensor:
        return self.heads(torch.cat([crosses, self.deep(features)], dim=-1))


class Heads(nn.Module):
    """Logits (N, targets) of crosses (N, crossed) and a state (N, width) a task."""

    def __init__(self, *, crossed: int, width: int, targets: int) -> None:
        super().__init__()
        self.of_tasks = nn.ModuleList(nn.Linear(crossed + width, columns) for columns in columns_of_tasks(targets))

    def forward(self, crosses: Tensor, states: list[Tensor]) -> Tensor:
        own = zip(self.of_tasks, states, strict=True)
        return torch.cat([head(torch.cat([crosses, state], dim=-1)) for head, state in own], dim=-1)


class Gate(nn.Module):
    """A softmax over experts, decided by (N, inputs): the mean of their outputs (N, E, width) under it."""

    def __init__(self, *, inputs: int, experts: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(inputs, experts)

    def forward(self, decides: Tensor, outputs: Tensor) -> Tensor:
        return (self.weigh(decides).softmax(-1).unsqueeze(-1) * outputs).sum(1)
