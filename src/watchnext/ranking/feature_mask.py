"""Feature mask: train any network without some of its inputs."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.ranking.input_groups import GROUPS, input_groups

OWN_STATE = ("user_counters", "gap", "history", "user_tag_counters", "user_creator_counters")
MASKABLE = ("own_state", *GROUPS)
ZERO_ANYWAY = ("history_codes", "history_tags", "history_vector")  # never read where history_mask is 0


def masked_columns(pipeline: FeaturePipeline, hide: tuple[str, ...]) -> dict[str, list[int]]:
    """Return the masked columns of each input block.

    hide  groups of `input_groups`, or `own_state` for OWN_STATE: all inputs that depend on the viewer's earlier outcomes
    """
    if unknown := [name for name in hide if name not in MASKABLE]:
        raise ValueError(f"hide names {unknown[0]!r}, expected some of {', '.join(MASKABLE)}")
    wanted = {group for name in hide for group in (OWN_STATE if name == "own_state" else (name,))}
    columns_by_block: dict[str, list[int]] = {}
    for group, blocks in input_groups(pipeline).items():
        for block, columns in blocks.items() if group in wanted else ():
            columns_by_block.setdefault(block, []).extend(columns)
    return {block: sorted(columns) for block, columns in columns_by_block.items() if block not in ZERO_ANYWAY}


class FeatureMask(nn.Module):
    """Run `network` with the columns `masked` of its inputs at 0: the mean, or unknown."""

    def __init__(self, *, sizes: InputSizes, targets: int, network: partial, masked: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.network = network(sizes=sizes, targets=targets)
        self.blocks = tuple(masked)
        widths = {name: len(size) if isinstance(size, tuple) else size for name, size in vars(sizes).items()}
        # Watches and tags vary in number: one factor for all.
        widths |= {"history_values": sizes.history, "history_mask": 1, "video_tags": 1}
        widths |= {"video_vector": sizes.vector, "video_duration_s": 1}
        for block, columns in masked.items():
            keep = torch.ones(widths[block], dtype=torch.int32 if block.endswith(("_codes", "_tags")) else torch.float32)
            keep[[column for column in columns if column < widths[block]]] = 0
            self.register_buffer(f"keep_{block}", keep, persistent=False)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        kept = {block: inputs[block] * getattr(self, f"keep_{block}") for block in self.blocks if block in inputs}
        return self.network({**inputs, **kept})
