"""Any ranking network with any watch-time head, to the rest a network like all others."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.ranking.heads import WATCH
from watchnext.types import TARGETS


class WatchTimeNetwork(nn.Module):
    """The `network` with the head `watch_time` on its last columns: logits (N, T), whose watch-time column is log1p of the
    head's seconds, as `heads.predictions`, committees and releases expect. Needs the input `video_duration_s` (N, 1)."""

    def __init__(self, *, sizes: InputSizes, targets: int, network: partial, watch_time: partial) -> None:
        super().__init__()
        if targets != len(TARGETS):
            raise ValueError(f"a network with a watch-time head has the {len(TARGETS)} targets of types.TARGETS, not {targets}")
        self.watch_time = watch_time()
        self.network = network(sizes=sizes, targets=WATCH + self.watch_time.logits)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        logits = self.network(inputs)
        seconds = self.watch_time.seconds(logits[:, WATCH:], inputs["video_duration_s"][:, 0])
        return torch.cat([logits[:, :WATCH], seconds.log1p().unsqueeze(-1)], dim=-1)
