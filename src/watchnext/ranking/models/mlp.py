"""Embeddings and an MLP: a deep baseline without crosses or history."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.cross import MLP
from watchnext.nn.embeddings import QueryFeatures, VideoFeatures


class DeepNetwork(nn.Module):
    """Compute logits (C, targets) without history. The viewer's inputs have C rows, or one shared by all candidates."""

    def __init__(self, *, sizes: InputSizes, targets: int, embedding: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.query = QueryFeatures(sizes=sizes, dimension=embedding)
        self.video = VideoFeatures(sizes=sizes, dimension=embedding)
        width = self.query.width + self.video.width + sizes.video_values + sizes.candidate_values
        self.deep = MLP(inputs=width, hidden=hidden, dropout=dropout)
        self.heads = nn.Linear(hidden[-1], targets)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        video = self.video(inputs["video_codes"], inputs["video_tags"], inputs["video_vector"])
        values = [inputs[name] for name in ("video_values", "candidate_values") if name in inputs]
        query = self.query(inputs).expand(video.shape[0], -1)
        return self.heads(self.deep(torch.cat([query, video, *values], dim=-1)))
