"""What a ranking network learns from: (logits (N, T), targets (N, T), groups (N,)) > scalar.

`groups` says which rows belong together: those of a viewer, or of a request, as the loss's `within` asks; None without one.
Within a viewer over time, beware of the viewer's own counters: a long view raises them for all later rows, so that of two rows
of one viewer the one with the lower counter is more often the long view, although viewers with high counters watch longer.
A loss over such pairs learns the artefact, and GAUC rewards it. Train it on networks that read nothing of the viewer's own
state (`model=preference`), or within requests.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.ranking.groups import GROUPS
from watchnext.ranking.heads import WATCH
from watchnext.types import TARGETS


def place_of(target: str) -> int:
    """Column of a 0/1 target. Raises ValueError for a misspelt one and for watch time."""
    if target not in TARGETS or target == TARGETS[WATCH]:
        outcomes = ", ".join(name for name in TARGETS if name != TARGETS[WATCH])
        raise ValueError(f"the loss ranks by {target!r}, expected one of {outcomes}")
    return TARGETS.index(target)


def _checked(within: str) -> str:
    if within not in GROUPS:
        raise ValueError(f"the loss ranks within {within!r}, expected {' or '.join(GROUPS)}")
    return within


def _same(groups: Tensor | None) -> Tensor:
    """(N, N) bool, rows of one group. Raises ValueError without groups."""
    if groups is None:
        raise ValueError("a loss over pairs or lists needs the groups of its rows; take the batches of GroupedBatches")
    return groups.unsqueeze(1) == groups.unsqueeze(0)


class MultiTask(nn.Module):
    """Weighted sum over targets: cross entropy for outcomes, Huber on log1p seconds for watch time.

    weights  target > weight; a target that is not named is not trained. Raises ValueError for a misspelt one.
    """

    within = None

    def __init__(self, *, weights: Mapping[str, float]) -> None:
        super().__init__()
        if unknown := [name for name in weights if name not in TARGETS]:
            raise ValueError(f"the loss weighs {unknown[0]!r}, expected some of {', '.join(TARGETS)}")
        self.register_buffer("weights", torch.tensor([float(weights.get(name, 0.0)) for name in TARGETS]), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor, groups: Tensor | None = None) -> Tensor:
        outcomes = nn.functional.binary_cross_entropy_with_logits(logits, targets.clamp(0.0, 1.0), reduction="none")
        seconds = nn.functional.smooth_l1_loss(logits[:, WATCH], targets[:, WATCH].log1p(), reduction="none")
        losses = torch.cat([outcomes[:, :WATCH], seconds.unsqueeze(-1), outcomes[:, WATCH + 1 :]], dim=-1)
        return (losses.mean(0) * self.weights).sum()


class Pairwise(nn.Module):
    """RankNet (Burges et al., ICML 2005) within a group: mean over its pairs of log(1 + exp(other - positive)).

    Every pair of the batch counts alike, so a group with many pairs weighs more. 0 where no group has both labels.
    """

    def __init__(self, *, target: str, within: str) -> None:
        super().__init__()
        self.place, self.within = place_of(target), _checked(within)

    def forward(self, logits: Tensor, targets: Tensor, groups: Tensor | None) -> Tensor:
        logit, label = logits[:, self.place], targets[:, self.place]
        pairs = _same(groups) & (label.unsqueeze(1) > label.unsqueeze(0))
        better, worse = pairs.nonzero(as_tuple=True)
        return nn.functional.softplus(logit[worse] - logit[better]).sum() / max(len(better), 1)


class Listwise(nn.Module):
    """Softmax over a group: mean over its positives of -log(exp(positive) / sum of exp over the group).

    ListNet's top-one probability (Cao et al., ICML 2007) with the labels as the true distribution, so GAUC's weights: a group
    counts by its positives. Groups with one label only say nothing and are left out; 0 where none is left.
    """

    def __init__(self, *, target: str, within: str) -> None:
        super().__init__()
        self.place, self.within = place_of(target), _checked(within)

    def forward(self, logits: Tensor, targets: Tensor, groups: Tensor | None) -> Tensor:
        logit, positive = logits[:, self.place], targets[:, self.place] > 0
        same = _same(groups)
        total = logit.expand(len(logit), -1).masked_fill(~same, -torch.inf).logsumexp(1)
        counted = positive & (same & ~positive.unsqueeze(0)).any(1)
        return ((total - logit) * counted).sum() / counted.sum().clamp(min=1)


class Mixture(nn.Module):
    """Weighted sum of other losses, `weights` and `losses` by name. Those over groups share their groups."""

    def __init__(self, *, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if set(losses) != set(weights):
            raise ValueError(f"the mixture weighs {', '.join(weights)} and has {', '.join(losses)}, expected the same names")
        self.losses, self.weights = nn.ModuleDict(losses), {name: float(weight) for name, weight in weights.items()}
        grouped = {loss.within for loss in self.losses.values()} - {None}
        if len(grouped) > 1:
            raise ValueError(f"the mixture ranks within {' and '.join(sorted(grouped))}, expected one of them")
        self.within = next(iter(grouped), None)

    def forward(self, logits: Tensor, targets: Tensor, groups: Tensor | None = None) -> Tensor:
        parts = [self.weights[name] * loss(logits, targets, groups) for name, loss in self.losses.items()]
        return torch.stack(parts).sum()
