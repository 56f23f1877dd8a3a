"""DCN-V2 beside a body of tasks, over all features and the history as each candidate sees it, and a bent line a number."""

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
    """Logits (N, targets) as a sum of one bent line a number: the numbers `names` of the inputs in pieces, through one layer.
    The wide part beside a deep one (Cheng et al., 2016), for numbers instead of crossed categories."""

    def __init__(self, *, sizes: InputSizes, names: tuple[str, ...], targets: int) -> None:
        super().__init__()
        self.names = names
        self.pieces = PiecewiseLinear(values=sum(getattr(sizes, name) for name in names))
        self.weigh = nn.Linear(self.pieces.width, targets)
        nn.init.zeros_(self.weigh.weight)  # so many small lines at random would be noise that training has to undo first

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.weigh(self.pieces(torch.cat([inputs[name] for name in self.names if name in inputs], dim=-1)))


class DCN(nn.Module):
    """Logits (C, targets). The viewer's inputs have C rows, or one that all candidates share.

    interest  what reads the history, `attention` wide: `DIN`, `BehaviourTransformer`, or None for nothing
    tasks     what makes logits of features and crosses: `SharedBottom`, `MMoE` or `PLE`, of MLPs `hidden` wide
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
            read = (inputs[name] for name in ("video_vector", "history_vector", "history_values", "history_mask"))
            parts.append(self.affinity(*read))
        if self.interest:
            parts.append(self.interest(video, inputs))
        query = self.query(inputs).expand(video.shape[0], -1)
        features = torch.cat([query, *parts], dim=-1)
        logits = self.tasks(features, self.cross(features))
        for bends in self.bends:  # the viewer's apart, so that they are computed once where the inputs have one row
            logits = logits + bends(inputs)
        return logits
