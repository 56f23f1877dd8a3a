"""Scores of logged impressions, from built features and the training network."""

import numpy as np
import torch

from watchnext.features.batches import FeatureSet
from watchnext.ranking.heads import Scorer
from watchnext.types import TARGETS

CHUNK = 1024


@torch.no_grad()
def scored(features: FeatureSet, network: torch.nn.Module, rows: np.ndarray) -> np.ndarray:
    """Predictions (n, T) of the impressions `rows` (n,) of the feature set."""
    scorer = Scorer(network).eval()
    parts = [scorer(features.batch(rows[start : start + CHUNK])).numpy() for start in range(0, len(rows), CHUNK)]
    return np.concatenate(parts) if parts else np.zeros((0, len(TARGETS)), np.float32)
