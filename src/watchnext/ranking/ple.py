"""PLE: experts of all tasks and experts of one, level by level."""

import torch
from torch import Tensor, nn

from watchnext.nn.cross import MLP
from watchnext.ranking.tasks import Gate, Heads, columns_of_tasks


class PLE(nn.Module):
    """Logits (N, targets) of features (N, inputs) and their crosses (N, crossed), by progressive layered extraction (Tang et
    al., RecSys 2020): a level a width in `hidden`, each of `shared` experts of all tasks and `own` of each task. A task's gate
    mixes its own and the shared ones, the shared gate mixes all. Deviation: heads also read the crosses."""

    def __init__(
        self, *, inputs: int, crossed: int, targets: int, hidden: tuple[int, ...], dropout: float, shared: int, own: int
    ) -> None:
        super().__init__()
        tasks = len(columns_of_tasks(targets))
        widths = [inputs, *hidden]
        self.levels = nn.ModuleList(
            _Level(inputs=width, outputs=out, tasks=tasks, shared=shared, own=own, dropout=dropout, last=place == len(hidden))
            for place, (width, out) in enumerate(zip(widths[:-1], hidden, strict=True), start=1)
        )
        self.heads = Heads(crossed=crossed, width=hidden[-1], targets=targets)
        self.tasks = tasks

    def forward(self, features: Tensor, crosses: Tensor) -> Tensor:
        states = [features] * (self.tasks + 1)  # of every task, and what they share
        for level in self.levels:
            states = level(states)
        return self.heads(crosses, states)


class _Level(nn.Module):
    """States (N, inputs) of T tasks and the shared one > (N, outputs) of the same, without the shared one after the last."""

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
        seen = [torch.cat([mine, shared], dim=1) for mine in own] + [torch.cat([*own, shared], dim=1)]
        return [gate(state, outputs) for gate, state, outputs in zip(self.gates, states, seen, strict=False)]
