"""`python -m watchnext.retrieval index | graph | trending`: build the index, the co-watch graphs and the trending counts."""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from watchnext.cli import dispatch, instantiate, plain, write_report
from watchnext.data.storage import StoredTables
from watchnext.data.tables import DataError
from watchnext.features.arrays import save_arrays
from watchnext.features.dataset.batches import FeatureSet
from watchnext.retrieval.index.recall_check import Probe, groups_of
from watchnext.retrieval.index.segments import VideoIndex
from watchnext.retrieval.index.vectors import VideoIndexError
from watchnext.retrieval.sources.graph import linked
from watchnext.retrieval.sources.log_counts import counted, training_watches


def probe_of(towers: Path, features: FeatureSet, limit: int) -> Probe:
    """Load at most `limit` validation queries of the towers with their viewers' last watches; none for synthetic queries."""
    queries, rows = np.load(towers / "queries.npy"), np.load(towers / "query_rows.npy")
    chosen = slice(None, None, max(1, -(-len(queries) // limit)))
    if not len(rows):
        return Probe(queries[chosen], [np.zeros(0, np.int64)] * len(queries[chosen]))
    watched = features.reads(rows[chosen]).history_rows
    return Probe(queries[chosen], [np.unique(rows[rows >= 0]) for rows in watched])


def index(config: DictConfig) -> None:
    """Index the trained video vectors and check recall against exact search under real filters and after changes."""
    from watchnext.nn.weights import fingerprint  # imported here because torch slows the start of the other commands

    outputs, options = Path(config.data.outputs), config.index
    towers, folder = outputs / "two_tower", outputs / "index"
    if not (towers / "query_rows.npy").exists():
        raise VideoIndexError(f"{towers} holds no video vectors or validation queries; run `dvc repro two_tower`")
    features, vectors = FeatureSet.load(outputs / "features"), np.load(towers / "embeddings.npy")
    if len(vectors) != len(features.catalogue):
        raise VideoIndexError(
            f"{towers} holds {len(vectors)} vectors, the catalogue {len(features.catalogue)} videos; run `dvc repro two_tower`"
        )
    built = VideoIndex.build(
        vectors,
        recipe=instantiate(options.recipe),
        groups=groups_of(features.catalogue),
        precision=options.precision,
        towers=fingerprint(towers),
    )
    probe = probe_of(towers, features, options.queries)
    recalls_by_state = instantiate(options.guard).check(built, vectors, features.catalogue, probe)
    built.save(folder)
    written = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    report = {
        "videos": len(built),
        "dimension": built.dimension,
        "bytes_per_video": round(written / len(built), 1),
        f"recall@{options.guard.k}": {
            state: {name: round(recall, 6) for name, recall in recalls.items()} for state, recalls in recalls_by_state.items()
        },
    }
    write_report(outputs / "metrics" / "index.json", report)
    print(f"{folder}: {report}")


def graph(config: DictConfig) -> None:
    """Build the graphs of related videos (watched together) and transitions (watched next) from training watches."""
    outputs, report = Path(config.data.outputs), {}
    features = FeatureSet.load(outputs / "features")
    for name in ("related", "transitions"):
        options = config.retrieval[name]
        histories = training_watches(features, least=options.least)
        edges = linked(histories, **plain(options.graph))
        arrays = {**vars(edges), "weights": edges.weights.astype(np.float32)}
        save_arrays(outputs / "graph" / name, arrays | {"catalogue": np.array([features.catalogue.fingerprint])})
        linking = int((np.diff(edges.starts) > 0).sum())
        report[name] = {"watches": len(histories.rows), "edges": len(edges.weights), "videos": linking}
    write_report(outputs / "metrics" / "graph.json", report)
    print(f"{outputs / 'graph'}: {report}")


def trending(config: DictConfig) -> None:
    """Count watches by surface and region as of the first test request."""
    outputs, options = Path(config.data.outputs), config.retrieval.trending
    features = FeatureSet.load(outputs / "features")
    chosen = {name: options[name] for name in ("count", "half_life_h", "segments")}
    stored, catalogue = StoredTables.open(outputs / "tables"), features.catalogue
    counts = counted(stored, catalogue.ids, until_ms=features.report["as_of_ms"], **chosen)
    save_arrays(outputs / "trending", {**vars(counts), "catalogue": np.array([catalogue.fingerprint])})
    report = {"videos": counts.table.shape[1], "regions": len(counts.regions), "segments": len(counts.segments)}
    write_report(outputs / "metrics" / "trending.json", report)
    print(f"{outputs / 'trending'}: {report}")


if __name__ == "__main__":
    commands = {"index": index, "graph": graph, "trending": trending}
    dispatch("watchnext.retrieval", commands, (VideoIndexError, DataError, FileNotFoundError))
