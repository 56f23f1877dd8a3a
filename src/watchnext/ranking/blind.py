"""A network that does not see some of the inputs, whatever the network."""

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from watchnext.features.encoding import InputSizes
from watchnext.features.pipeline import FeaturePipeline
from watchnext.schema import Feature

HIDABLE = ("own_state", "user_id")


def hidden_places(pipeline: FeaturePipeline, hide: tuple[str, ...]) -> dict[str, list[int]]:
    """Input block > its hidden columns.

    own_state  what a viewer's own earlier outcomes changed: history, counters, user x tag, user x creator, gap
    user_id    who it is
    """
    if unknown := [name for name in hide if name not in HIDABLE]:
        raise ValueError(f"hide names {unknown[0]!r}, expected some of {', '.join(HIDABLE)}")
    schema, found = pipeline.schema, {}
    if "own_state" in hide:
        computed = [f.name for f in schema.of("user", "numerical") if f.expression]
        own = ("user ", *computed)
        for block, starts in (("query_values", own), ("candidate_values", ("user x",))):
            names = pipeline.value_names(block)
            found[block] = [place for place, name in enumerate(names) if name.startswith(starts)]
        found |= {"history_mask": [0], "history_values": list(range(pipeline.sizes.history))}
    if "user_id" in hide:
        codes = [f.name for f in schema.columns("user") if _is_code(f)]
        found["user_codes"] = [place for place, name in enumerate(codes) if name == "user_id"]
    return {block: places for block, places in found.items() if places}


def _is_code(feature: Feature) -> bool:
    return feature.kind == "categorical"


class Blind(nn.Module):
    """The `network` with the columns `hidden` of its inputs at 0: the mean, or unknown."""

    def __init__(self, *, sizes: InputSizes, targets: int, network: partial, hidden: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.network = network(sizes=sizes, targets=targets)
        self.hidden = tuple(hidden)
        widths = {name: len(size) if isinstance(size, tuple) else size for name, size in vars(sizes).items()}
        widths |= {"history_values": sizes.history, "history_mask": 1}  # any number of places: one factor for all
        for block, places in hidden.items():
            shown = torch.ones(widths[block], dtype=torch.int32 if block.endswith("_codes") else torch.float32)
            shown[[place for place in places if place < widths[block]]] = 0
            self.register_buffer(f"shown_{block}", shown, persistent=False)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        shown = {block: inputs[block] * getattr(self, f"shown_{block}") for block in self.hidden if block in inputs}
        return self.network({**inputs, **shown})
