"""Boosted trees as a network without gradients, so that a release, a committee and the reports take them like any other."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.ranking.models.trees.forest import CODES, INPUT, LEAVES, Forest, Splits, TreeInputs


class Trees(nn.Module):
    """Logits (N, targets) of fitted trees. Its arrays are those of `forest.Splits`.

    An exported graph cannot follow trees at the pace of a compiled loop: where the inputs hold `forest.INPUT`, the logits (N,
    targets) are those.

    watches      see `forest.TreeInputs`
    cardinality  codes of a feature with more values are left out: a tree would split them by the order of their names
    """

    def __init__(
        self, *, sizes: InputSizes, targets: int, watches: int, cardinality: int, trees: int = 0, splits: int = 0
    ) -> None:
        super().__init__()
        of = dict(zip(CODES, (sizes.context_codes, sizes.user_codes, sizes.video_codes), strict=True))
        kept = {name: [place for place, size in enumerate(of[name]) if size <= cardinality] for name in CODES}
        self.columns = TreeInputs(watches, kept)
        for name, count in (("feature", splits), ("below", splits), ("above", splits), ("first", trees + 1), ("target", trees)):
            self.register_buffer(name, torch.zeros(count, dtype=torch.int32))
        self.register_buffer("threshold", torch.zeros(splits))
        self.register_buffer("value", torch.zeros(trees, LEAVES))
        self.register_buffer("intercept", torch.zeros(targets))

    @property
    def forest(self) -> Forest:
        return Forest(self.columns, Splits(**{name: values.numpy() for name, values in self.named_buffers()}))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        if INPUT in inputs:
            return inputs[INPUT]
        return torch.from_numpy(self.forest({name: values.numpy() for name, values in inputs.items()}))

    def fill(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the arrays of fitted trees."""
        for name, values in arrays.items():
            getattr(self, name).copy_(torch.from_numpy(values))


def forest_of(network: nn.Module) -> Forest | None:
    """The trees inside of a network. Raises ValueError where it has more than one forest: an exported graph reads one."""
    found = [module for module in network.modules() if isinstance(module, Trees)]
    if len(found) > 1:
        raise ValueError(f"the ranker holds {len(found)} forests, expected one at most; drop members of the committee")
    return found[0].forest if found else None
