"""Logistic regression: the baseline for every deep model."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.embeddings import QueryFeatures, VideoFeatures

VALUES = ("user_values", "query_values", "video_values", "candidate_values", "video_vector")


def values_of(inputs: Mapping[str, Tensor], rows: int) -> Tensor:
    """Concatenate all numeric inputs (rows, width_of_values); an exported network omits empty ones."""
    return torch.cat([inputs[name].expand(rows, -1) for name in VALUES if name in inputs], dim=-1)


def width_of_values(sizes: InputSizes) -> int:
    return sizes.user_values + sizes.query_values + sizes.video_values + sizes.candidate_values + sizes.vector


class LogisticRegression(nn.Module):
    """Sum one weight per category, tag and value for every target: logits (N, targets). No history, no interactions."""

    def __init__(self, *, sizes: InputSizes, targets: int) -> None:
        super().__init__()
        self.query = QueryFeatures(sizes=sizes, dimension=targets)
        self.video = VideoFeatures(sizes=sizes, dimension=targets)
        self.targets = targets
        self.values = nn.Linear(width_of_values(sizes), targets)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        rows = inputs["video_codes"].shape[0]
        codes = torch.cat([inputs[name] for name in ("user_codes", "context_codes") if name in inputs], dim=-1)
        query = self.query.codes(codes).unflatten(-1, (-1, self.targets)).sum(-2)
        video = self.video.codes(inputs["video_codes"]).unflatten(-1, (-1, self.targets)).sum(-2)
        return self.values(values_of(inputs, rows)) + query + video + self.video.tags(inputs["video_tags"])
