"""The flagship: DCN-V2 beside an MLP, over all features and the history as each candidate sees it."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from watchnext.features.encoding import InputSizes
from watchnext.nn.attention import ContentAffinity, History, TargetAttention
from watchnext.nn.cross import MLP, CrossNetwork
from watchnext.nn.embeddings import QueryFeatures, VideoFeatures


class DCN(nn.Module):
    """Logits (C, targets). The viewer's inputs have C rows, or one that all candidates share."""

    def __init__(
        self,
        *,
        sizes: InputSizes,
        targets: int,
        embedding: int,
        attention: int,
        cross_layers: int,
        rank: int,
        hidden: tuple[int, ...],
        dropout: float,
    ) -> None:
        super().__init__()
        self.query = QueryFeatures(sizes=sizes, dimension=embedding)
        self.video = VideoFeatures(sizes=sizes, dimension=embedding)
        self.history = History(sizes=sizes, videos=self.video, dimension=attention)
        self.candidate = nn.Linear(self.video.width, attention)
        self.attention = TargetAttention(dimension=attention, hidden=attention)
        self.affinity = ContentAffinity() if sizes.vector > 1 else None
        content = sizes.history + 1 if self.affinity else 0
        width = self.query.width + self.video.width + sizes.video_values + sizes.candidate_values + 2 * attention + content
        self.cross = CrossNetwork(inputs=width, layers=cross_layers, rank=rank)
        self.deep = MLP(inputs=width, hidden=hidden, dropout=dropout)
        self.heads = nn.Linear(width + hidden[-1], targets)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        video = self.video(inputs["video_codes"], inputs["video_tags"], inputs["video_vector"])
        candidate = self.candidate(video)
        interest = self.attention(candidate, self.history(inputs), inputs["history_mask"])
        values = [inputs[name] for name in ("video_values", "candidate_values") if name in inputs]
        if self.affinity:
            parts = (inputs[name] for name in ("video_vector", "history_vector", "history_values", "history_mask"))
            values.append(self.affinity(*parts))
        query = self.query(inputs).expand(video.shape[0], -1)
        x = torch.cat([query, video, *values, interest, interest * candidate], dim=-1)
        return self.heads(torch.cat([self.cross(x), self.deep(x)], dim=-1))
