"""Compare the compiled ranker with the trained network, before a release is published."""

from collections.abc import Mapping

import numpy as np
import torch

from watchnext.features.dataset.batches import CANDIDATE_INPUTS, NO_INPUTS, FeatureSet
from watchnext.metrics import rank_correlation
from watchnext.ranking.heads import Scorer
from watchnext.ranking.target_metrics import apart
from watchnext.serving.release.compiled import CompiledRanker
from watchnext.types import TARGETS

ROWS, CANDIDATES = 4_000, 100  # held-out impressions that are compared, and how many of them share a viewer
LEAST_RANK = 0.999
MOST_APART = {"probability": 0.01, "watch_s": 0.01}  # for watch_s relative to the seconds
LEAST_SPREAD = 1e-3  # least variation of a head, relative to its largest value, for an order that is more than rounding


class ParityError(ValueError):
    """A compiled network whose predictions differ from those of the trained one."""


@torch.no_grad()
def parity(ranker: CompiledRanker, network: torch.nn.Module, features: FeatureSet, rows: np.ndarray) -> dict[str, float]:
    """Return `rank/<target>`, the rank correlation of both, and `difference/<kind>`, the largest differences; nan is undefined.

    Up to ROWS of `rows` are compared, evenly spaced, CANDIDATES at a time for the viewer of the first of them. The compiled
    ranker gets this viewer once, as in serving; the network gets the viewer in every row, as in training.
    """
    rows = rows[:: max(1, -(-len(rows) // ROWS))]
    parts = [_both(ranker, network, features, rows[start : start + CANDIDATES]) for start in range(0, len(rows), CANDIDATES)]
    served, trained = (np.concatenate(each) for each in zip(*parts, strict=True))
    ranks = {f"rank/{name}": _order(served[:, column], trained[:, column]) for column, name in enumerate(TARGETS)}
    return ranks | {f"difference/{kind}": value for kind, value in apart(served, trained).items()}


def _both(
    ranker: CompiledRanker, network: torch.nn.Module, features: FeatureSet, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    batch = {name: values for name, values in features.batch(rows).items() if name not in NO_INPUTS}
    shared = {name: values if name in CANDIDATE_INPUTS else values[:1] for name, values in batch.items()}
    repeated = {name: values.expand(len(rows), *values.shape[1:]) for name, values in shared.items()}
    served = ranker({name: values.numpy() for name, values in shared.items()})
    return served, Scorer(network).eval()(repeated).numpy()


def _order(served: np.ndarray, trained: np.ndarray) -> float:
    """Return the rank correlation: 0 where only one side is constant, nan (undefined) where both are.

    A head is constant for an outcome that never happens.
    """
    rounding = LEAST_SPREAD * np.abs(trained).max()
    if np.ptp(trained) <= rounding:
        return float("nan") if np.ptp(served) <= 2 * rounding else 0.0
    return float(np.nan_to_num(rank_correlation(served, trained)))


def require_parity(measured: Mapping[str, float]) -> None:
    """Raise ParityError naming the figures beyond their limits. A rank correlation may be undefined, a difference may not."""
    failures = [f"{name} {value:.5f}, expected above {LEAST_RANK}" for name, value in measured.items()
                if name.startswith("rank/") and value <= LEAST_RANK]  # fmt: skip
    differences = {name: measured[f"difference/{name}"] for name in MOST_APART}
    failures += [f"difference/{name} {value:.5f}, expected below {MOST_APART[name]}" for name, value in differences.items()
                 if not value < MOST_APART[name]]  # fmt: skip
    if failures:
        raise ParityError(
            f"the compiled ranker differs from the trained network on held-out impressions: {'; '.join(failures)}. "
            "Nothing was released; run `dvc repro --force ranker release`, and if it fails again, look at nn/export.py"
        )
