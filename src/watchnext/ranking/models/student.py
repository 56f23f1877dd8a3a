"""Student: one small network that scores as an ensemble does, shaped for serving many candidates of one viewer."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.attention import ContentAffinity, History, ProductAttention
from watchnext.nn.cross import MLP
from watchnext.nn.embeddings import QueryFeatures, VideoFeatures
from watchnext.nn.piecewise_linear import PiecewiseLinear
from watchnext.ranking.models.dcn import OF_VIDEO, OF_VIEWER, PiecewiseLinearTerms


class Student(nn.Module):
    """Compute logits (C, targets). The viewer's inputs have C rows, or one shared by all candidates.

    The viewer's part, with the mean of the history and the encoded numbers, ends in a vector of width `viewer`, once a request.
    It shifts the first layer over a candidate and scales its output (FiLM, Perez et al., AAAI 2018) in place of crosses between
    the two. A candidate costs that layer, a second one, and one product with each watch (`ProductAttention`).

    hidden  widths of the two layers over a candidate
    """

    def __init__(
        self, *, sizes: InputSizes, targets: int, embedding: int, attention: int, viewer: int, hidden: tuple[int, int]
    ) -> None:
        super().__init__()
        self.query = QueryFeatures(sizes=sizes, dimension=embedding)
        self.video = VideoFeatures(sizes=sizes, dimension=embedding)
        self.history = History(sizes=sizes, videos=self.video, dimension=attention)
        self.numbers = PiecewiseLinear(values=sum(getattr(sizes, name) for name in OF_VIEWER))
        self.viewer = MLP(inputs=self.query.width + attention + self.numbers.width, hidden=(viewer,), dropout=0.0)
        self.shift, self.scale = nn.Linear(viewer, hidden[0]), nn.Linear(viewer, hidden[0])

        self.candidate = nn.Linear(self.video.width, attention)
        self.attention = ProductAttention(dimension=attention)
        self.affinity = ContentAffinity() if sizes.vector > 1 else None
        values = sum(getattr(sizes, name) for name in OF_VIDEO)
        width = self.video.width + values + attention + (sizes.history + 1 if self.affinity else 0)
        self.first = nn.Linear(width, hidden[0], bias=False)
        self.second = nn.Linear(*hidden)
        self.heads = nn.Linear(sum(hidden), targets)
        self.of_viewer = nn.Linear(viewer, targets, bias=False)
        self.bends = PiecewiseLinearTerms(sizes=sizes, names=OF_VIDEO, targets=targets) if values else None

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        history, mask = self.history(inputs), inputs["history_mask"]
        viewer = self._viewer(inputs, history, mask)
        first = torch.relu(self.first(self._candidate(inputs, history, mask)) + self.shift(viewer))
        first = first * (1.0 + self.scale(viewer))
        logits = self.heads(torch.cat([first, torch.relu(self.second(first))], dim=-1)) + self.of_viewer(viewer)
        return logits + self.bends(inputs) if self.bends else logits

    def _viewer(self, inputs: Mapping[str, Tensor], history: Tensor, mask: Tensor) -> Tensor:
        mean = history.sum(1) / mask.sum(-1, keepdim=True).clamp(min=1.0)
        values = [inputs[name] for name in OF_VIEWER if name in inputs]
        numbers = [self.numbers(torch.cat(values, dim=-1))] if values else []
        return self.viewer(torch.cat([self.query(inputs), mean, *numbers], dim=-1))

    def _candidate(self, inputs: Mapping[str, Tensor], history: Tensor, mask: Tensor) -> Tensor:
        """Return the features of each candidate (C, width)."""
        video = self.video(inputs["video_codes"], inputs["video_tags"], inputs["video_vector"])
        parts = [video, *(inputs[name] for name in OF_VIDEO if name in inputs)]
        if self.affinity:
            parts.append(self.affinity(inputs["video_vector"], inputs["history_vector"], inputs["history_values"], mask))
        candidate = self.candidate(video)
        return torch.cat([*parts, candidate * self.attention(candidate, history, mask)], dim=-1)


class Standardised(nn.Module):
    """Run `network`, whose outputs are in units of the logits that it learns: output * spread + mean, per target.

    A target whose logit is the same everywhere, as that of an outcome that never happens, has spread 0 and stays constant.
    """

    def __init__(self, *, sizes: InputSizes, targets: int, network: partial) -> None:
        super().__init__()
        self.network = network(sizes=sizes, targets=targets)
        self.register_buffer("mean", torch.zeros(targets))
        self.register_buffer("spread", torch.ones(targets))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.network(inputs) * self.spread + self.mean

    def fit(self, logits: Tensor) -> None:
        """Take mean and spread of the logits (N, targets)."""
        self.mean.copy_(logits.mean(0))
        self.spread.copy_(logits.std(0, correction=0))
