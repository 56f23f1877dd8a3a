"""Losses of ranking networks: (logits (N, T), targets (N, T), groups (N,), watch (N,), weights (N,)) > scalar.

`watch` is the watch-time loss of each row if a head of `watch_time` reads the last logits; None if the last column is log1p
seconds. `weights` are row weights from `debias`; None is 1 each. `heads` are the targets that a loss trains; predictions of
other targets are meaningless. `ordered` are those that it trains by their order in a group. `groups` numbers the viewer or
request of each row, as the loss's `within` requires, or is None.

Pairs of one viewer over time carry an artefact: a long view raises the viewer's counters for all later rows, so of two rows the
one with the lower counter is more often the long view, although viewers with high counters watch longer. A pairwise loss learns
this artefact, and GAUC rewards it. Train such losses on networks without the viewer's own state (`hide=[own_state]`), or
within requests.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.ranking.heads import WATCH, outcome
from watchnext.ranking.training.debias import weighted_mean
from watchnext.ranking.training.groups import GROUPS
from watchnext.types import TARGETS


def _checked(within: str) -> str:
    if within not in GROUPS:
        raise ValueError(f"the loss ranks within {within!r}, expected {' or '.join(GROUPS)}")
    return within


def _same(groups: Tensor | None) -> Tensor:
    """Mark pairs of rows in one group (N, N). Raises ValueError without groups."""
    if groups is None:
        raise ValueError("a pairwise or listwise loss needs groups; use GroupedBatches")
    return groups.unsqueeze(1) == groups.unsqueeze(0)


def _mean(losses: Tensor, weights: Tensor | None) -> Tensor:
    """Average `losses` (P,), weighted by `weights` (P,) if given; 0 without losses."""
    if not len(losses):
        return losses.sum()
    return losses.mean() if weights is None else weighted_mean(losses, weights)


class MultiTask(nn.Module):
    """Weighted sum over targets: cross entropy for outcomes, Huber on log1p seconds for watch time.

    weights  target > weight; other targets are not trained. Raises ValueError for a misspelt target.
    """

    within, ordered = None, ()

    def __init__(self, *, weights: Mapping[str, float]) -> None:
        super().__init__()
        if unknown := [name for name in weights if name not in TARGETS]:
            raise ValueError(f"the loss has a weight for {unknown[0]!r}, expected some of {', '.join(TARGETS)}")
        self.register_buffer("weights", torch.tensor([float(weights.get(name, 0.0)) for name in TARGETS]), persistent=False)
        self.heads = tuple(name for name in TARGETS if weights.get(name))

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        groups: Tensor | None = None,
        watch: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        happened = targets[:, :WATCH].clamp(0.0, 1.0)
        outcomes = nn.functional.binary_cross_entropy_with_logits(logits[:, :WATCH], happened, reduction="none")
        if watch is None:
            watch = nn.functional.smooth_l1_loss(logits[:, WATCH], targets[:, WATCH].log1p(), reduction="none")
        losses = torch.cat([outcomes, watch.unsqueeze(-1)], dim=-1)
        mean = losses.mean(0) if weights is None else weighted_mean(losses, weights)
        return (mean * self.weights).sum()


class WithinGroups(nn.Module, ABC):
    """Loss over the order of one target within groups; `within` is one of GROUPS."""

    def __init__(self, *, target: str, within: str) -> None:
        super().__init__()
        self.column, self.within = outcome(target, prefix="the loss ranks by"), _checked(within)
        self.heads = self.ordered = (target,)

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        groups: Tensor | None,
        watch: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        losses, rows = self._losses(logits[:, self.column], targets[:, self.column] > 0, _same(groups))
        return _mean(losses, None if weights is None else weights[rows])

    @abstractmethod
    def _losses(self, logit: Tensor, positive: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
        """Return losses (P,) and the rows that weight them; `logit` (N,), `positive` (N,) bool, `same` (N, N) bool."""


class Pairwise(WithinGroups):
    """RankNet (Burges et al., ICML 2005) within a group: mean over its pairs of log(1 + exp(other - positive)).

    Every pair counts equally, so a group with many pairs has more weight; with row weights, a pair has the weight of its
    positive (Joachims et al., WSDM 2017). 0 if no group has both labels.
    """

    def _losses(self, logit: Tensor, positive: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
        pairs = same & positive.unsqueeze(1) & ~positive.unsqueeze(0)
        better, worse = pairs.nonzero(as_tuple=True)
        return nn.functional.softplus(logit[worse] - logit[better]), better


class Listwise(WithinGroups):
    """Softmax over a group: mean over its positives of -log(exp(positive) / sum of exp over the group).

    ListNet's top-one probability (Cao et al., ICML 2007) with the labels as the true distribution. As in GAUC, a group counts
    by its positives, or by their weights. Groups with a single label are skipped; 0 if none is left.
    """

    def _losses(self, logit: Tensor, positive: Tensor, same: Tensor) -> tuple[Tensor, Tensor]:
        total = logit.expand(len(logit), -1).masked_fill(~same, -torch.inf).logsumexp(1)
        counted = positive & (same & ~positive.unsqueeze(0)).any(1)
        return (total - logit)[counted], counted


class WeightedLosses(nn.Module):
    """Weighted sum of other losses, `weights` and `losses` by name. Grouped losses share one kind of group."""

    def __init__(self, *, losses: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        super().__init__()
        if set(losses) != set(weights):
            raise ValueError(
                f"the mixture has weights for {', '.join(weights)} and losses {', '.join(losses)}, expected the same names"
            )
        self.losses, self.weights = nn.ModuleDict(losses), {name: float(weight) for name, weight in weights.items()}
        grouped = {loss.within for loss in self.losses.values()} - {None}
        if len(grouped) > 1:
            raise ValueError(
                f"the losses of the mixture rank within {' and '.join(sorted(grouped))}, expected one kind of group"
            )
        self.within = next(iter(grouped), None)
        self.heads = tuple(name for name in TARGETS if any(name in loss.heads for loss in self.losses.values()))
        self.ordered = tuple(name for name in TARGETS if any(name in loss.ordered for loss in self.losses.values()))

    def forward(
        self,
        logits: Tensor,
        targets: Tensor,
        groups: Tensor | None = None,
        watch: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        arguments = (logits, targets, groups, watch, weights)
        parts = [self.weights[name] * loss(*arguments) for name, loss in self.losses.items()]
        return torch.stack(parts).sum()
