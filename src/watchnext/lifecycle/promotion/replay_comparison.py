"""Replay candidate and champion on the same latest days, and measure what the guards look at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from watchnext import metrics
from watchnext.evaluation.comparison.paired import noise_floors, paired
from watchnext.evaluation.comparison.side_by_side import Replayed, compare_releases
from watchnext.evaluation.replay.funnel_trace import FunnelTrace
from watchnext.evaluation.replay.held_out_log import HeldOutLog
from watchnext.evaluation.report.ranking_report import PROBABILITIES
from watchnext.evaluation.report.slate_report import viewers_of
from watchnext.features.arrays import load_arrays
from watchnext.features.dataset.batches import FeatureSet
from watchnext.files import files_below
from watchnext.retrieval.index.live import LiveIndex
from watchnext.retrieval.index.recall_check import Probe, RecallCheck, static_masks_of
from watchnext.serving.release.manifest import ReleaseError, read_manifest
from watchnext.serving.release.reference_sample import OUTPUTS, SAMPLE, require_reproduced
from watchnext.serving.release.release import Release, release_in

HISTORY = ((0, "no history"), (10, "short history"), (np.inf, "long history"))  # watches below which a viewer has it
QUERIES = 200  # video vectors that stand for queries in the recall of an index, beside those of the reference sample


@dataclass(frozen=True)
class ReplayComparison:
    """Candidate and champion side by side, each measure as (candidate, champion).

    replayed      ids that were replayed: a release that has seen the days is replaced by the one that it names as evaluated
    compared      as `side_by_side.compare_releases`
    slices        slice > figure of slates as in `paired`, of its requests
    calibration   target > expected calibration errors
    measures      coverage, diversity, latency (median ms of a processor for an answer), index_recall, size (bytes),
                  skew (1 where a release does not compute here what it computed when built), broken (slots)
    """

    replayed: tuple[str, str]
    compared: Mapping
    slices: Mapping[str, Mapping]
    calibration: Mapping[str, tuple[float, float]]
    measures: Mapping[str, tuple[float, float]]

    @classmethod
    def of(
        cls,
        folders: tuple[Path, Path],
        outputs: Path,
        *,
        figure: str,
        regime: str,
        slate: int,
        requests: int,
        check: RecallCheck,
        seed: int,
    ) -> "ReplayComparison":
        """Replay the releases in two `folders`, candidate first, on the test days of the pipeline with these outputs.

        figure    of slates, whose slices are compared
        requests  largest number of traced requests
        Raises ReleaseError where there are no such days, or for a release that has seen them and names none that has not.
        """
        features = FeatureSet.load(outputs / "features")
        if not len(rows := features.rows("test")):
            raise ReleaseError(f"{outputs / 'features'} has no test days, so that nothing can be replayed; add days to the log")
        log = HeldOutLog.of_outputs(outputs, features)
        unseen = [unseen_release(folder, log) for folder in folders]
        settings = {"regime": regime, "slate": slate, "requests": requests, "given": {}}
        one, other = (Replayed.of(release, log, **settings) for release in unseen)
        targets, users = features.columns["targets"][rows], features.columns["user_rows"][rows]
        compared = compare_releases(one, other, targets, users, k=slate, seed=seed)
        own = [Release.load(folder) for folder in folders]  # what would serve; the replayed one may be the evaluated one
        return cls(
            replayed=(one.release.id, other.release.id),
            compared=compared,
            slices=_sliced(one, other, figure, k=slate, seed=seed),
            calibration=_calibration(one, other, targets),
            measures={
                "coverage": tuple(compared["whole"]["coverage"]),
                "diversity": tuple(compared["slate"]["intra_list_distance"][side]["mean"] for side in ("mean", "other")),
                "broken": tuple(float(sum(each.values())) for each in compared["broken"]),
                "latency": (_latency(one.traces), _latency(other.traces)),
                "index_recall": tuple(index_recall(each, check) for each in own),
                "size": tuple(float(size_of(folder)) for folder in folders),
                "skew": tuple(float(not _reproduces(each)) for each in own),
            },
        )


def unseen_release(folder: Path, log: HeldOutLog) -> Release:
    """Return a release that does not know the held-out days: that in `folder`, or the one that it names as evaluated.

    Raises ReleaseError where neither is one.
    """
    release = Release.load(folder)
    try:
        log.require_unseen(release)
    except ReleaseError:
        name = read_manifest(Path(folder).resolve()).get("evaluated")
        if name is None:
            raise
        release = Release.load(release_in(Path(folder).resolve().parent, name))
        log.require_unseen(release)
    return release


def slice_names(traces: list[FunnelTrace]) -> dict[str, np.ndarray]:
    """Return slice > requests (B,) bool: by surface, and by the number of watches that the viewer had."""
    surfaces = np.array([trace.surface or "any surface" for trace in traces])
    watches = np.array([trace.watches for trace in traces])
    histories = np.array([next(name for most, name in HISTORY if count <= most) for count in watches.tolist()])
    return {name: labels == name for labels in (surfaces, histories) for name in sorted(set(labels.tolist()))}


def _sliced(one: Replayed, other: Replayed, figure: str, *, k: int, seed: int) -> dict[str, dict]:
    viewers = viewers_of(one.traces)
    served, redrawn, against = (
        one.columns_beside(other, k),
        one.columns_beside(other, k, "redrawn"),
        other.columns_beside(one, k),
    )
    parts = {}
    for name, chosen in slice_names(one.traces).items():
        mine, again, theirs = ({figure: each[figure][chosen]} for each in (served, redrawn, against))
        floors = noise_floors(mine, [again], viewers[chosen], seed)
        parts[name] = {"requests": int(chosen.sum()), **paired(mine, theirs, viewers[chosen], seed=seed, floors=floors)[figure]}
    return parts


def _calibration(one: Replayed, other: Replayed, targets: np.ndarray) -> dict[str, tuple[float, float]]:
    """Return target > expected calibration errors, of the impressions that both releases score."""
    scores = [each.result.scores for each in (one, other)]
    known = np.isfinite(scores[0]).all(axis=1) & np.isfinite(scores[1]).all(axis=1)
    return {
        name: tuple(metrics.ece(targets[known, column], each[known, column]) for each in scores)
        for column, name in enumerate(PROBABILITIES)
        if known.any()
    }


def _latency(traces: list[FunnelTrace]) -> float:
    return float(np.median([trace.spent_ms for trace in traces])) if traces else float("nan")


def index_recall(release: Release, check: RecallCheck) -> float:
    """Measure the lowest recall of a release's index over all filters, against exact search, as `RecallCheck` does.

    Queries are those of the reference sample and evenly spaced vectors of videos.
    """
    index = release.index
    vectors = np.zeros((len(release.catalogue), index.dimension), np.float32)
    vectors[index.rows] = index.vectors
    sampled = [load_arrays(folder)[f"{OUTPUTS}query_tower"] for folder in sorted((release.folder / SAMPLE).glob("*"))]
    queries = np.concatenate(
        [*(each.reshape(-1, index.dimension) for each in sampled), vectors[:: -(-len(vectors) // QUERIES)]]
    )
    probe = Probe(queries, [np.zeros(0, np.int64)] * len(queries))
    masks, present = dict(static_masks_of(release.catalogue)), np.isin(np.arange(len(vectors)), index.rows)
    return min(check.recall(LiveIndex(index), vectors, present, masks, probe).values())


def size_of(folder: Path) -> int:
    """Return the bytes of a release."""
    folder = Path(folder).resolve()
    return sum((folder / name).stat().st_size for name in files_below(folder, but=""))


def _reproduces(release: Release) -> bool:
    try:
        require_reproduced(release)
    except ReleaseError:
        return False
    return True
