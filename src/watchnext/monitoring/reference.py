"""Features and scores of held-out impressions by name: the sample a release carries, and the window it is compared with."""

import polars as pl

from watchnext.features.dataset.batches import FeatureSet
from watchnext.ranking.scoring import Ranker
from watchnext.serving.funnel.query import named
from watchnext.types import TARGETS

ROWS = 10_000


def reference(features: FeatureSet, ranker: Ranker, split: str) -> pl.DataFrame:
    """Up to ROWS impressions of a split, evenly spaced in time: features as the served log names them, then `score
    <target>`."""
    rows = features.rows(split)
    rows = rows[:: max(1, -(-len(rows) // ROWS))]
    inputs = {name: tensor.numpy() for name, tensor in features.batch(rows).items()}
    predictions = ranker.scored(features, rows)
    scores = {f"score {name}": predictions[:, place] for place, name in enumerate(TARGETS)}
    columns = named(features.pipeline, inputs) | scores
    # Decoded categories are objects; without a type, a column that starts with None would stay one.
    typed = {
        name: pl.Series(values.tolist(), dtype=pl.String) if values.dtype == object else values
        for name, values in columns.items()
    }
    return pl.DataFrame(typed)
