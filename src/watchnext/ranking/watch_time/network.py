"""Any ranking network with any watch-time head, to the rest a network like all others."""

import importlib
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.features.encoding import InputSizes
from watchnext.nn.weights import build_network
from watchnext.ranking.heads import WATCH
from watchnext.ranking.watch_time.head import WatchTime
from watchnext.types import TARGETS


def build_head(recipe: Mapping) -> WatchTime:
    """The head that a recipe's target and arguments name, not fitted."""
    module, name = recipe["target"].rsplit(".", 1)
    return getattr(importlib.import_module(module), name)(**recipe["arguments"])


class WatchTimeNetwork(nn.Module):
    """The `network` (a recipe's target and arguments) with the head `watch_time` (likewise) on its last columns.

    In training, logits (N, T - 1 + L) for the losses: outcomes, then the head's. Else (N, T), whose watch-time column is log1p
    of the head's seconds, as `heads.predictions`, committees and releases expect. Needs the input `duration_s` (N,).
    """

    def __init__(self, *, sizes: InputSizes, targets: int, network: Mapping, watch_time: Mapping) -> None:
        super().__init__()
        if targets != len(TARGETS):
            raise ValueError(f"a network with a watch-time head has the {len(TARGETS)} targets of types.TARGETS, not {targets}")
        self.watch_time = build_head(watch_time)
        arguments = {**network["arguments"], "targets": WATCH + self.watch_time.logits}
        self.network = build_network({**network, "arguments": arguments, "sizes": vars(sizes)})

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        logits = self.network(inputs)
        if self.training:
            return logits
        seconds = self.watch_time.seconds(logits[:, WATCH:], inputs["duration_s"])
        return torch.cat([logits[:, :WATCH], seconds.log1p().unsqueeze(-1)], dim=-1)
