"""Ablation and learning curve: retrain a preset without each input group, or on fewer impressions, over several seeds."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import ceil

import numpy as np

from watchnext.features.dataset.batches import FeatureSet
from watchnext.nn.trainable import Training
from watchnext.nn.training import built
from watchnext.ranking.analysis.importance import Progress
from watchnext.ranking.heads import outcome
from watchnext.ranking.input_groups import named_groups
from watchnext.ranking.scoring import held_out_rows, scored
from watchnext.ranking.target_metrics import differences, in_requests, mean_and_spread, of_head

Preset = Callable[[], partial]  # module of a preset, without features
TrainingOf = Callable[[int], Training]  # seed > training


def without(module: partial, group: str) -> partial:
    """Exclude an input group from a module, from every member of an ensemble, and from a teacher."""
    if "teacher" in module.keywords:
        taught_by = module.keywords["teacher"]
        module = partial(module, teacher={**taught_by, "module": without(taught_by["module"], group)})
    if "members" in module.keywords:
        members = module.keywords["members"].items()
        return partial(module, members={name: {**each, "module": without(each["module"], group)} for name, each in members})
    return partial(module, hide=(*module.keywords.get("hide", ()), group))


def latest(features: FeatureSet, share: float) -> FeatureSet:
    """Keep only the latest `share` of the training impressions. Vocabularies, means and folded state remain those of all days,
    so that only the amount of training data changes."""
    if not 0 < share <= 1:
        raise ValueError(f"report.shares has {share}, expected more than 0 and at most 1")
    rows, split = features.rows("train"), np.array(features.columns["split"])
    split[rows[: len(rows) - ceil(share * len(rows))]] = -1
    return replace(features, columns={**features.columns, "split": split})


def _measured(make: partial, features: FeatureSet, head: str, split: str, training: Training) -> dict[str, float]:
    rows, column = held_out_rows(features, split), outcome(head, prefix="report.head is")
    module = built(make, features, seed=training.seed)
    module.fit(training)
    label, users = features.columns["targets"][rows, column], features.columns["user_rows"][rows]
    score = scored(features, module.network, rows)[:, column]
    return of_head(score, label, users) | in_requests(score, label, features.requests(rows))


def ablation(
    preset: Preset,
    features: FeatureSet,
    *,
    head: str,
    split: str,
    groups: tuple[str, ...] | None,
    seeds: tuple[int, ...],
    training: TrainingOf,
    progress: Progress,
) -> dict:
    """Measure the head with all inputs, and how much worse it gets without each group: mean and spread over seeds, paired by
    seed. Raises ValueError as `importance` does."""
    chosen = named_groups(features.pipeline, groups)

    def excluding(group: str | None) -> partial:
        return preset() if group is None else without(preset(), group)

    trainings = [(group, seed) for group in (None, *chosen) for seed in seeds]
    results: dict[str | None, list] = {}
    for group, seed in progress(trainings, "trained"):
        results.setdefault(group, []).append(_measured(excluding(group), features, head, split, training(seed)))
    whole = results.pop(None)
    worse = {group: differences(whole, each) for group, each in results.items()}
    return {"head": head, "split": split, "seeds": list(seeds), "figures": mean_and_spread(whole), "worse_by": worse}


def learning_curve(
    preset: Preset,
    features: FeatureSet,
    *,
    head: str,
    split: str,
    shares: tuple[float, ...],
    seeds: tuple[int, ...],
    training: TrainingOf,
    progress: Progress,
) -> dict:
    """Measure the head after training on the latest `shares` of the training impressions: mean and spread over seeds."""
    parts, results = {share: latest(features, share) for share in sorted(shares)}, {}
    for share, seed in progress([(share, seed) for share in parts for seed in seeds], "trained"):
        results.setdefault(share, []).append(_measured(preset(), parts[share], head, split, training(seed)))
    sizes = [
        {"share": share, "rows": len(parts[share].rows("train")), **mean_and_spread(each)} for share, each in results.items()
    ]
    return {"head": head, "split": split, "seeds": list(seeds), "sizes": sizes}
