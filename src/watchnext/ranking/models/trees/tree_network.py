"""Wrap boosted trees as a network without gradients, for releases, ensembles and reports."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.ranking.models.trees.forest import CODES, INPUT, LEAVES, Forest, Splits, TreeInputs


class Trees(nn.Module):
    """Compute logits (N, targets) of fitted trees, stored as the arrays of `forest.Splits`.

    An exported network evaluates trees slower than a compiled loop: if the inputs hold `forest.INPUT`, those logits (N,
    targets) are returned.

    watches      see `forest.TreeInputs`
    cardinality  categorical features with more values are omitted: trees would split them by the order of their codes
    """

    def __init__(
        self, *, sizes: InputSizes, targets: int, watches: int, cardinality: int, trees: int = 0, splits: int = 0
    ) -> None:
        super().__init__()
        sizes_of = dict(zip(CODES, (sizes.context_codes, sizes.user_codes, sizes.video_codes), strict=True))
        kept = {name: [column for column, size in enumerate(sizes_of[name]) if size <= cardinality] for name in CODES}
        self.columns = TreeInputs(watches, kept)
        for name, count in (("feature", splits), ("below", splits), ("above", splits), ("first", trees + 1), ("target", trees)):
            self.register_buffer(name, torch.zeros(count, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(splits))
        self.register_buffer("value", torch.zeros(trees, LEAVES))
        self.register_buffer("intercept", torch.zeros(targets))

    @property
    def forest(self) -> Forest:
        return Forest(self.columns, Splits(**{name: values.cpu().numpy() for name, values in self.named_buffers()}))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if INPUT in inputs:
            return inputs[INPUT]
        logits = self.forest({name: values.cpu().numpy() for name, values in inputs.items()})
        return torch.from_numpy(logits).to(self.intercept.device)

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Load the arrays of fitted trees."""
        for name, values in arrays.items():
            getattr(self, name).copy_(torch.from_numpy(values))


def forest_of(network: nn.Module) -> Forest | None:
    """Return the trees inside a network, or None. Raises ValueError for more than one forest: an exported network reads one."""
    forests = [module for module in network.modules() if isinstance(module, Trees)]
    if len(forests) > 1:
        raise ValueError(f"the ranker holds {len(forests)} forests, expected at most one; remove members of the ensemble")
    return forests[0].forest if forests else None
