"""MMoE: experts that all tasks share, and a gate a task."""

import torch
from torch import Tensor, nn

from watchnext.nn.cross import MLP
from watchnext.ranking.tasks import Gate, Heads, columns_of_tasks


class MMoE(nn.Module):
    """Logits (N, targets) of features (N, inputs) and their crosses (N, crossed), by the multi-gate mixture of experts (Ma et
    al., KDD 2018): `experts` MLPs, of which each task mixes its own state. Deviation: heads also read the crosses."""

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
