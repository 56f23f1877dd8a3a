"""Permutation importance per input group (Breiman 2001; Fisher, Rudin & Dominici, JMLR 2019).

Redundant groups hide each other: information that two groups share costs little when only one is permuted. `ablation` retrains
instead.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from watchnext.features.dataset.batches import FeatureSet
from watchnext.ranking.heads import outcome
from watchnext.ranking.input_groups import BlockColumns, named_groups
from watchnext.ranking.scoring import Ranker, held_out_rows, predicted
from watchnext.ranking.target_metrics import differences, in_requests, of_head

Progress = Callable[[Iterable, str], Iterable]  # iterable, title > the iterable with a progress bar


def permuted(inputs: Mapping[str, Tensor], group_columns: BlockColumns, order: Tensor) -> dict[str, Tensor]:
    """Replace the columns `group_columns` of the inputs (N, ...) by those of rows `order` (N,)."""
    changed = {block: inputs[block].clone() for block in group_columns if block in inputs}
    for block, values in changed.items():
        values[..., group_columns[block]] = inputs[block][order][..., group_columns[block]]
    return {**inputs, **changed}


def importance(
    features: FeatureSet,
    ranker: Ranker,
    *,
    head: str,
    split: str,
    groups: tuple[str, ...] | None,
    rows: int,
    repeats: int,
    seed: int,
    progress: Progress,
) -> dict:
    """Measure the head on up to `rows` evenly spaced impressions of a split, and how much worse it gets with each group
    permuted: mean and spread over `repeats` permutations shared by all groups. Exactly 0 for inputs that are not read.

    Raises ValueError for a split without impressions, a head that is not an outcome, and an unknown group.
    """
    column, chosen = outcome(head, prefix="report.head is"), named_groups(features.pipeline, groups)
    ranker.require((head,), by="report.head")
    some = held_out_rows(features, split)
    some = some[:: -(-len(some) // rows)]
    inputs, label = features.batch(some), features.columns["targets"][some, column]
    users, requests = features.columns["user_rows"][some], features.requests(some)

    def figures(seen: Mapping[str, Tensor]) -> dict[str, float]:
        score = ranker.calibration(predicted(ranker.network, seen))[:, column]
        return of_head(score, label, users) | in_requests(score, label, requests)

    whole = figures(inputs)
    orders = [torch.from_numpy(np.random.default_rng((seed, each)).permutation(len(some))) for each in range(repeats)]
    worse_by = {
        name: differences([whole] * repeats, [figures(permuted(inputs, group_columns, order)) for order in orders])
        for name, group_columns in progress(chosen.items(), "permuted")
    }
    return {"head": head, "split": split, "rows": len(some), "repeats": repeats, "figures": whole, "worse_by": worse_by}
