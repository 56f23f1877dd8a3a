"""DIN: pool the history by attention from each candidate."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.attention import History, TargetAttention
from watchnext.nn.embeddings import VideoFeatures


class DIN(nn.Module):
    """Return the interest (Zhou et al., KDD 2018; see `TargetAttention`) and its product with the candidate: features (C, V) >
    (C, width). `videos` embeds the watched videos; the viewer's part is computed once for one input row."""

    def __init__(self, *, sizes: InputSizes, videos: VideoFeatures, dimension: int) -> None:
        super().__init__()
        self.history = History(sizes=sizes, videos=videos, dimension=dimension)
        self.candidate = nn.Linear(videos.width, dimension)
        self.attention = TargetAttention(dimension=dimension, hidden=dimension // 2)
        self.width = 2 * dimension

    def forward(self, video: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        candidate = self.candidate(video)
        interest = self.attention(candidate, self.history(inputs), inputs["history_mask"])
        return torch.cat([interest, interest * candidate], dim=-1)
