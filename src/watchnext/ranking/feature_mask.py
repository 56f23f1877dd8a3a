"""A network that does not see some of the inputs, whatever the network."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.ranking.input_groups import GROUPS, input_groups

OWN_STATE = ("user_counters", "gap", "history", "user_tag_counters", "user_creator_counters")
MASKABLE = ("own_state", *GROUPS)
MASKED = ("history_codes", "history_tags", "history_vector")  # nothing reads them where the mask is 0


def masked_columns(pipeline: FeaturePipeline, hide: tuple[str, ...]) -> dict[str, list[int]]:
    """Input block > its hidden columns.

    hide  groups of `input_groups`, or `own_state` for OWN_STATE, what a viewer's own earlier outcomes changed
    """
    if unknown := [name for name in hide if name not in MASKABLE]:
        raise ValueError(f"hide names {unknown[0]!r}, expected some of {', '.join(MASKABLE)}")
    wanted = {group for name in hide for group in (OWN_STATE if name == "own_state" else (name,))}
    found: dict[str, list[int]] = {}
    for group, blocks in input_groups(pipeline).items():
        for block, places in blocks.items() if group in wanted else ():
            found.setdefault(block, []).extend(places)
    return {block: sorted(places) for block, places in found.items() if block not in MASKED}


class FeatureMask(nn.Module):
    """The `network` with the columns `hidden` of its inputs at 0: the mean, or unknown."""

    def __init__(self, *, sizes: InputSizes, targets: int, network: partial, hidden: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.network = network(sizes=sizes, targets=targets)
        self.hidden = tuple(hidden)
        widths = {name: len(size) if isinstance(size, tuple) else size for name, size in vars(sizes).items()}
        # Any number of watches and tags: one factor for all.
        widths |= {"history_values": sizes.history, "history_mask": 1, "video_tags": 1}
        widths |= {"video_vector": sizes.vector, "video_duration_s": 1}
        for block, places in hidden.items():
            shown = torch.ones(widths[block], dtype=torch.int32 if block.endswith(("_codes", "_tags")) else torch.float32)
            shown[[place for place in places if place < widths[block]]] = 0
            self.register_buffer(f"shown_{block}", shown, persistent=False)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        shown = {block: inputs[block] * getattr(self, f"shown_{block}") for block in self.hidden if block in inputs}
        return self.network({**inputs, **shown})
