"""Factorization machine: pairwise feature interactions by inner products of vectors."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.embeddings import QueryFeatures, VideoFeatures
from watchnext.ranking.models.linear import LogisticRegression, values_of, width_of_values


class FactorizationMachine(nn.Module):
    """Rendle, ICDM 2010: logits (N, targets) of weights plus the sum over pairs of features of <v_i, v_j> x_i x_j.

    Deviation: targets share the vectors and weight the dimensions individually. No history.
    """

    def __init__(self, *, sizes: InputSizes, targets: int, dimension: int) -> None:
        super().__init__()
        self.dimension = dimension
        self.weights = LogisticRegression(sizes=sizes, targets=targets)
        self.query = QueryFeatures(sizes=sizes, dimension=dimension)
        self.video = VideoFeatures(sizes=sizes, dimension=dimension)
        self.values = nn.Parameter(torch.randn(width_of_values(sizes), dimension) * 0.01)
        self.heads = nn.Linear(dimension, targets, bias=False)
        nn.init.ones_(self.heads.weight)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        rows = inputs["video_codes"].shape[0]
        codes = torch.cat([inputs[name] for name in ("user_codes", "context_codes") if name in inputs], dim=-1)
        query = self.query.codes(codes).unflatten(-1, (-1, self.dimension)).expand(rows, -1, -1)
        video = self.video.codes(inputs["video_codes"]).unflatten(-1, (-1, self.dimension))
        tags = self.video.tags(inputs["video_tags"]).unsqueeze(1)
        fields, values = torch.cat([query, video, tags], dim=1), values_of(inputs, rows)
        total = fields.sum(1) + values @ self.values
        squares = fields.square().sum(1) + values.square() @ self.values.square()
        # (sum)^2 - sum of squares is twice the sum over pairs, in linear time.
        return self.weights(inputs) + self.heads(0.5 * (total.square() - squares))
