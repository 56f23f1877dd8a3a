"""Placeholder ranker for a log without usable training data."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.trainable import Training
from watchnext.nn.weights import build_network, recipe_of, save_network
from watchnext.types import TARGETS


class Unranked(nn.Module):
    """Predict nan for every target. A release built from it has no ranker and answers in retrieval order."""

    def __init__(self, *, sizes: InputSizes, targets: int) -> None:
        super().__init__()
        self.targets = targets

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return torch.full((len(inputs["video_codes"]), self.targets), float("nan"))


class UnrankedModule:
    """Counterpart of `RankingModule` without training."""

    def __init__(self, *, features: FeatureSet) -> None:
        self.features = features
        self.recipe = recipe_of(partial(Unranked, targets=len(TARGETS)), features.pipeline.sizes)
        self.network = build_network(self.recipe)

    def fit(self, training: Training) -> dict[str, float]:
        """Fit nothing; there is nothing to measure."""
        return {}

    def tested(self) -> dict[str, float]:
        return {}

    def save(self, folder: Path) -> None:
        save_network(folder, self.network, schema=self.features.pipeline.schema, recipe=self.recipe)
