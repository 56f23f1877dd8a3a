"""What a trained ranker owes to groups of inputs: how much worse it ranks when one group's inputs are those of other
impressions (permutation importance: Breiman 2001; Fisher, Rudin & Dominici, JMLR 2019).

Groups tell each other's story: what two groups both know costs little with either permuted. `retrained` asks otherwise.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from watchnext.features.dataset.batches import FeatureSet
from watchnext.ranking.heads import outcome
from watchnext.ranking.input_groups import BlockColumns, named_groups
from watchnext.ranking.scoring import Ranker, held_out_rows, predicted
from watchnext.ranking.target_metrics import differences, of_head

Progress = Callable[[Iterable, str], Iterable]  # what is done, and its title


def permuted(inputs: Mapping[str, Tensor], places: BlockColumns, order: Tensor) -> dict[str, Tensor]:
    """The inputs (N, ...) with the columns `places` of rows `order` (N,)."""
    changed = {block: inputs[block].clone() for block in places if block in inputs}
    for block, values in changed.items():
        values[..., places[block]] = inputs[block][order][..., places[block]]
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
    """Figures of the head on up to `rows` impressions of a split, evenly spaced, as they are, and for each group by how much
    they get worse: mean and spread over `repeats` permutations, each the same for all groups. Exactly 0 for what is not read.

    Raises ValueError for a split without impressions, a head that is no outcome and a group that there is not.
    """
    column, chosen = outcome(head, told="report.head is"), named_groups(features.pipeline, groups)
    ranker.require((head,), by="report.head")
    some = held_out_rows(features, split)
    some = some[:: -(-len(some) // rows)]
    inputs, users = features.batch(some), features.columns["user_rows"][some]
    label = features.columns["targets"][some, column]

    def figures(seen: Mapping[str, Tensor]) -> dict[str, float]:
        return of_head(ranker.calibration(predicted(ranker.network, seen))[:, column], label, users)

    whole = figures(inputs)
    orders = [torch.from_numpy(np.random.default_rng((seed, each)).permutation(len(some))) for each in range(repeats)]
    found = {
        name: differences([whole] * repeats, [figures(permuted(inputs, places, order)) for order in orders])
        for name, places in progress(chosen.items(), "permuted")
    }
    return {"head": head, "split": split, "rows": len(some), "repeats": repeats, "figures": whole, "worse_by": found}
