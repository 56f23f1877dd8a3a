"""Whether the compiled ranker answers as the trained network does: asked of every release before it is published."""

from collections.abc import Mapping

import numpy as np
import torch

from watchnext.features.dataset.batches import NO_INPUTS, FeatureSet
from watchnext.metrics import rank_correlation
from watchnext.ranking.heads import Scorer
from watchnext.ranking.target_metrics import apart
from watchnext.serving.release.compiled import CompiledRanker
from watchnext.types import TARGETS

ROWS, CANDIDATES = 4_000, 100  # held-out impressions that are asked for, and how many of them share a viewer
LEAST_RANK = 0.999
MOST_APART = {"probability": 0.01, "watch_s": 0.01}  # the latter as a part of the seconds
LEAST_SPREAD = 1e-3  # part of its largest value that a head varies by, where its order is more than rounding
CANDIDATE_INPUTS = ("video_codes", "video_tags", "video_vector", "video_values", "video_duration_s", "candidate_values")


class AgreementError(ValueError):
    """A compiled network that answers otherwise than the trained one."""


@torch.no_grad()
def agreement(ranker: CompiledRanker, network: torch.nn.Module, features: FeatureSet, rows: np.ndarray) -> dict[str, float]:
    """`rank/<target>`, the rank correlation of the two, and `difference/<kind>`, the largest ones as `apart` finds them; nan
    is undefined.

    Up to ROWS of `rows`, evenly spaced, CANDIDATES at a time for the viewer of the first of them: the compiled ranker gets that
    viewer once, as when serving, the network gets the viewer in every row, as in training.
    """
    rows = rows[:: max(1, -(-len(rows) // ROWS))]
    parts = [_both(ranker, network, features, rows[start : start + CANDIDATES]) for start in range(0, len(rows), CANDIDATES)]
    served, trained = (np.concatenate(each) for each in zip(*parts, strict=True))
    found = {f"rank/{name}": _order(served[:, place], trained[:, place]) for place, name in enumerate(TARGETS)}
    return found | {f"difference/{kind}": value for kind, value in apart(served, trained).items()}


def _both(
    ranker: CompiledRanker, network: torch.nn.Module, features: FeatureSet, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    batch = {name: values for name, values in features.batch(rows).items() if name not in NO_INPUTS}
    shared = {name: values if name in CANDIDATE_INPUTS else values[:1] for name, values in batch.items()}
    repeated = {name: values.expand(len(rows), *values.shape[1:]) for name, values in shared.items()}
    served = ranker({name: values.numpy() for name, values in shared.items()})
    return served, Scorer(network).eval()(repeated).numpy()


def _order(served: np.ndarray, trained: np.ndarray) -> float:
    """Rank correlation, 0 where one orders and the other says the same of everything; nan, undefined, where both say the same,
    as a head does of an outcome that never happens."""
    rounding = LEAST_SPREAD * np.abs(trained).max()
    if np.ptp(trained) <= rounding:
        return float("nan") if np.ptp(served) <= 2 * rounding else 0.0
    return float(np.nan_to_num(rank_correlation(served, trained)))


def require_agreement(found: Mapping[str, float]) -> None:
    """Raise AgreementError naming the figures that are too far from 1, or from 0. An order may be undefined, no difference."""
    wrong = [f"{name} {value:.5f}, expected above {LEAST_RANK}" for name, value in found.items()
             if name.startswith("rank/") and value <= LEAST_RANK]  # fmt: skip
    wrong += [f"difference/{kind} {found[f'difference/{kind}']:.5f}, expected below {most}" for kind, most in MOST_APART.items()
              if not found[f"difference/{kind}"] < most]  # fmt: skip
    if wrong:
        raise AgreementError(
            f"the compiled ranker does not answer as the trained network does on held-out impressions: {'; '.join(wrong)}. "
            "Nothing was released; run `dvc repro --force ranker release`, and if it stays, look at nn/export.py"
        )
