"""Features and scores of held-out impressions by name: the sample of a release, and a window to compare with it."""

import polars as pl

from watchnext.features.dataset.batches import FeatureSet
from watchnext.ranking.scoring import Ranker
from watchnext.serving.funnel.query import features_by_name
from watchnext.types import TARGETS

ROWS = 10_000


def reference(features: FeatureSet, ranker: Ranker, split: str) -> pl.DataFrame:
    """Sample up to ROWS impressions of a split, evenly spaced in time: features as in the served log, `score <target>`."""
    rows = features.rows(split)
    rows = rows[:: max(1, -(-len(rows) // ROWS))]
    inputs = {name: tensor.numpy() for name, tensor in features.batch(rows).items()}
    predictions = ranker.scored(features, rows)
    scores = {f"score {name}": predictions[:, column] for column, name in enumerate(TARGETS)}
    columns = features_by_name(features.pipeline, inputs) | scores
    # Decoded categories are objects; without a type, a column that starts with None would remain one.
    typed = {
        name: pl.Series(values.tolist(), dtype=pl.String) if values.dtype == object else values
        for name, values in columns.items()
    }
    return pl.DataFrame(typed)
