"""DCN-V2: cross network, task towers, history attention per candidate, and piecewise-linear terms for numbers."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.attention import ContentAffinity
from watchnext.nn.cross import CrossNetwork
from watchnext.nn.embeddings import QueryFeatures, VideoFeatures
from watchnext.nn.piecewise_linear import PiecewiseLinear

OF_VIEWER, OF_VIDEO = ("user_values", "query_values"), ("video_values", "candidate_values")


class PiecewiseLinearTerms(nn.Module):
    """Sum of one piecewise-linear function per number of the inputs `names`: logits (N, targets). The wide part of a
    wide-and-deep network (Cheng et al., 2016), for numbers instead of crossed categories."""

    def __init__(self, *, sizes: InputSizes, names: tuple[str, ...], targets: int) -> None:
        super().__init__()
        self.names = names
        self.pieces = PiecewiseLinear(values=sum(getattr(sizes, name) for name in names))
        self.weigh = nn.Linear(self.pieces.width, targets)
        nn.init.zeros_(self.weigh.weight)  # random terms would be noise that training has to undo first

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.weigh(self.pieces(torch.cat([inputs[name] for name in self.names if name in inputs], dim=-1)))


class DCN(nn.Module):
    """Compute logits (C, targets). The viewer's inputs have C rows, or one shared by all candidates.

    interest  reader of the history, of width `attention`: `DIN`, `BehaviourTransformer`, or None
    tasks     task towers over features and crosses: `SharedBottom`, `MMoE` or `PLE`, with MLPs of widths `hidden`
    """

    def __init__(
        self,
        *,
        sizes: InputSizes,
        targets: int,
        embedding: int,
        attention: int,
        interest: partial | None,
        cross_layers: int,
        rank: int,
        tasks: partial,
        hidden: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        self.query = QueryFeatures(sizes=sizes, dimension=embedding)
        self.video = VideoFeatures(sizes=sizes, dimension=embedding)
        self.interest = interest(sizes=sizes, videos=self.video, dimension=attention) if interest else None
        self.affinity = ContentAffinity() if sizes.vector > 1 else None
        content = sizes.history + 1 if self.affinity else 0
        width = self.query.width + self.video.width + sizes.video_values + sizes.candidate_values + content
        width += self.interest.width if self.interest else 0
        self.cross = CrossNetwork(inputs=width, layers=cross_layers, rank=rank)
        self.tasks = tasks(inputs=width, crossed=width, targets=targets, hidden=hidden, dropout=dropout)
        parts = [names for names in (OF_VIEWER, OF_VIDEO) if any(getattr(sizes, name) for name in names)]
        self.bends = nn.ModuleList(PiecewiseLinearTerms(sizes=sizes, names=names, targets=targets) for names in parts)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        video = self.video(inputs["video_codes"], inputs["video_tags"], inputs["video_vector"])
        parts = [video, *(inputs[name] for name in ("video_values", "candidate_values") if name in inputs)]
        if self.affinity:
            content_inputs = (inputs[name] for name in ("video_vector", "history_vector", "history_values", "history_mask"))
            parts.append(self.affinity(*content_inputs))
        if self.interest:
            parts.append(self.interest(video, inputs))
        query = self.query(inputs).expand(video.shape[0], -1)
        features = torch.cat([query, *parts], dim=-1)
        logits = self.tasks(features, self.cross(features))
        for bends in self.bends:  # viewer terms are separate: computed once for one input row
            logits = logits + bends(inputs)
        return logits
