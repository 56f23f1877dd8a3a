"""Whether the compiled ranker answers as the trained network does: asked of every release before it is published."""

from collections.abc import Mapping

import numpy as np
import torch

from watchnext.features.batches import NO_INPUTS, FeatureSet
from watchnext.metrics import rank_correlation
from watchnext.ranking.heads import WATCH, Scorer
from watchnext.serving.graph import CompiledRanker
from watchnext.types import TARGETS

ROWS, CANDIDATES = 4_000, 100  # held-out impressions that are asked for, and how many of them share a viewer
LEAST_RANK, MOST_APART = 0.999, 0.01
CANDIDATE_INPUTS = ("video_codes", "video_tags", "video_vector", "video_values", "video_duration_s", "candidate_values")


class AgreementError(ValueError):
    """A compiled network that answers otherwise than the trained one."""


@torch.no_grad()
def agreement(ranker: CompiledRanker, network: torch.nn.Module, features: FeatureSet, rows: np.ndarray) -> dict[str, float]:
    """`rank/<target>`, the rank correlation of the two, and `apart`, the largest difference of a probability.

    Up to ROWS of `rows`, evenly spaced, CANDIDATES at a time for the viewer of the first of them: the compiled ranker gets that
    viewer once, as when serving, the network gets the viewer in every row, as in training.
    """
    rows = rows[:: max(1, -(-len(rows) // ROWS))]
    parts = [_both(ranker, network, features, rows[start : start + CANDIDATES]) for start in range(0, len(rows), CANDIDATES)]
    served, trained = (np.concatenate(each) for each in zip(*parts, strict=True))
    found = {f"rank/{name}": _order(served[:, place], trained[:, place]) for place, name in enumerate(TARGETS)}
    probabilities = [place for place in range(len(TARGETS)) if place != WATCH]
    return found | {"apart": float(np.abs(served - trained)[:, probabilities].max())}


def _both(
    ranker: CompiledRanker, network: torch.nn.Module, features: FeatureSet, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    batch = {name: values for name, values in features.batch(rows).items() if name not in NO_INPUTS}
    shared = {name: values if name in CANDIDATE_INPUTS else values[:1] for name, values in batch.items()}
    repeated = {name: values.expand(len(rows), *values.shape[1:]) for name, values in shared.items()}
    served = ranker({name: values.numpy() for name, values in shared.items()})
    return served, Scorer(network).eval()(repeated).numpy()


def _order(served: np.ndarray, trained: np.ndarray) -> float:
    """A head that says the same of everything, and is compiled so, agrees."""
    return 1.0 if np.ptp(served) == np.ptp(trained) == 0 else rank_correlation(served, trained)


def require_agreement(found: Mapping[str, float]) -> None:
    """Raise AgreementError naming the figures that are too far from 1, or from 0."""
    wrong = [f"{name} {value:.5f}, expected above {LEAST_RANK}" for name, value in found.items()
             if name != "apart" and not value > LEAST_RANK]  # fmt: skip
    if not found["apart"] < MOST_APART:
        wrong.append(f"worst difference of a probability {found['apart']:.5f}, expected below {MOST_APART}")
    if wrong:
        raise AgreementError(
            f"the compiled ranker does not answer as the trained network does on held-out impressions: {'; '.join(wrong)}. "
            "Nothing was released; run `dvc repro --force ranker release`, and if it stays, look at nn/export.py"
        )
