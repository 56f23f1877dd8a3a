"""Combine any ranking network with any watch-time head."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.ranking.heads import WATCH
from watchnext.types import TARGETS


class WatchTimeNetwork(nn.Module):
    """Apply the head `watch_time` to the last columns of `network`: logits (N, T) with log1p of the expected seconds in the
    watch-time column, as `heads.predictions`, ensembles and releases expect. Needs the input `video_duration_s` (N, 1)."""

    def __init__(self, *, sizes: InputSizes, targets: int, network: partial, watch_time: partial) -> None:
        super().__init__()
        if targets != len(TARGETS):
            raise ValueError(
                f"targets is {targets}, expected the {len(TARGETS)} of types.TARGETS for a network with a watch-time head"
            )
        self.watch_time = watch_time()
        self.network = network(sizes=sizes, targets=WATCH + self.watch_time.logits)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        logits = self.network(inputs)
        seconds = self.watch_time.seconds(logits[:, WATCH:], inputs["video_duration_s"][:, 0])
        return torch.cat([logits[:, :WATCH], seconds.log1p().unsqueeze(-1)], dim=-1)
