"""Content-only retrieval without parameters: the cold-start model, and a baseline for trained towers."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from watchnext.features.dataset.batches import FeatureSet
from watchnext.features.encode.encodings import InputSizes
from watchnext.nn.trainable import Training
from watchnext.nn.weights import build_network, recipe_of, save_network
from watchnext.retrieval.towers.recall import recall_among_all
from watchnext.types import TARGETS

QUERIES = 1000  # queries for the recall check of the index
CHUNK = 4096
WATCHED_S = 1  # column of log watched seconds in the history values


class ContentEncoder(nn.Module):
    """Encode content vector and tags as vectors (..., width) of norm 1, or 0 for a video with neither.

    Tags are random directions, so that the similarity of two tag sets is that of their shared tags. Both parts have equal
    weight. A video without a content vector is retrieved by its tags.
    """

    def __init__(self, *, sizes: InputSizes, tag_directions: int) -> None:
        super().__init__()
        self.dimension = sizes.vector - 1  # the last column flags a present vector and is not part of the direction
        drawn = torch.randn(sizes.tags, tag_directions, generator=torch.Generator().manual_seed(0))
        drawn[0] = 0.0
        self.register_buffer("tags", drawn)

    def forward(self, tags: Tensor, vector: Tensor) -> Tensor:
        known = normalize(self.tags[tags.long()].sum(-2), dim=-1)
        if self.dimension:
            known = torch.cat([known, vector[..., : self.dimension]], dim=-1)
        return normalize(known, dim=-1)


class VideoContent(nn.Module):
    """Encode videos by content (N, width)."""

    def __init__(self, content: ContentEncoder) -> None:
        super().__init__()
        self.content = content

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.content(inputs["video_tags"], inputs["video_vector"])


class WatchedContent(nn.Module):
    """Average the content of the last watches (B, width), norm 1; 0 without watches.

    The i-th last watch has weight decay^i times the log of its seconds.
    """

    def __init__(self, content: ContentEncoder, *, decay: float) -> None:
        super().__init__()
        self.content, self.decay = content, decay

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        mask = inputs["history_mask"]
        recency = self.decay ** torch.arange(mask.shape[1], device=mask.device)
        weights = mask * recency * inputs["history_values"][..., WATCHED_S]
        watched = self.content(inputs["history_tags"], inputs["history_vector"])
        return normalize((watched * weights.unsqueeze(-1)).sum(1), dim=-1)


class ContentTowers(nn.Module):
    """Parameter-free towers: retrieve videos similar to the watched ones."""

    def __init__(self, *, sizes: InputSizes, decay: float, tag_directions: int) -> None:
        super().__init__()
        content = ContentEncoder(sizes=sizes, tag_directions=tag_directions)
        self.video, self.query = VideoContent(content), WatchedContent(content, decay=decay)


class ContentModule:
    """Counterpart of `RetrievalModule` without training; `positive` and `recall_at` have the same meaning."""

    def __init__(self, *, features: FeatureSet, network: partial, positive: str, recall_at: int) -> None:
        self.features, self.positive, self.recall_at = features, TARGETS.index(positive), recall_at
        self.recipe = recipe_of(network, features.pipeline.sizes)
        self.network = build_network(self.recipe).eval()

    def fit(self, training: Training) -> dict[str, float]:
        """Fit nothing; return the recall of validation days."""
        return self._recall("valid")

    def tested(self) -> dict[str, float]:
        return self._recall("test")

    def _recall(self, split: str) -> dict[str, float]:
        """Compute recall over the whole catalogue on the days of a split, if they hold positives."""
        rows = self._positives(split)
        if not len(rows):
            return {}
        queries, wanted = self.queries(rows)[:, None], self.features.columns["video_rows"][rows]
        return {f"{split}/recall_at_{self.recall_at}": recall_among_all(self.embeddings(), queries, wanted, self.recall_at)}

    def _positives(self, split: str) -> np.ndarray:
        rows = self.features.rows(split)
        return rows[self.features.columns["targets"][rows, self.positive] > 0]

    @torch.no_grad()
    def embeddings(self, chunk: int = 8192) -> np.ndarray:
        """Compute the vectors of the whole catalogue (V, D) float32."""
        videos, count = self.features.videos, len(self.features.catalogue)
        parts = []
        for first in range(0, count, chunk):
            rows = slice(first, min(first + chunk, count))
            parts.append(
                self.network.video({name: torch.from_numpy(np.array(values[rows])) for name, values in videos.items()})
            )
        return torch.cat(parts).numpy()

    @torch.no_grad()
    def queries(self, rows: np.ndarray) -> np.ndarray:
        """Compute query vectors (n, D) float32 for the impressions `rows`, as of their requests."""
        parts = [self.network.query(self.features.batch(rows[start : start + CHUNK])) for start in range(0, len(rows), CHUNK)]
        return torch.cat(parts).numpy()

    def save(self, folder: Path) -> None:
        """Write network, catalogue vectors (embeddings.npy), validation queries (queries.npy) and their impressions
        (query_rows.npy). Without validation positives, queries are the video vectors themselves and have no impressions."""
        save_network(folder, self.network, schema=self.features.pipeline.schema, recipe=self.recipe)
        vectors, valid = self.embeddings(), self._positives("valid")
        np.save(Path(folder) / "embeddings.npy", vectors)
        evenly = slice(None, None, max(1, len(valid if len(valid) else vectors) // QUERIES))
        np.save(Path(folder) / "query_rows.npy", valid[evenly])
        np.save(Path(folder) / "queries.npy", self.queries(valid[evenly]) if len(valid) else vectors[evenly])
