"""`python -m watchnext.retrieval index | graph | trending`: video vectors > an index; a log > what sources look up."""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from watchnext.data.days import StoredTables
from watchnext.data.tables import DataError
from watchnext.dispatch import dispatch, plain, write_report
from watchnext.features.arrays import save_arrays
from watchnext.features.batches import FeatureSet
from watchnext.retrieval.graph import linked
from watchnext.retrieval.index import VideoIndexError, build_guarded
from watchnext.retrieval.logs import counted, training_watches


def index(config: DictConfig) -> None:
    """Index the trained video vectors, guarded by recall against exact search on validation queries."""
    outputs = Path(config.data.outputs)
    towers, folder = outputs / "two_tower", outputs / "index"
    if not (towers / "embeddings.npy").exists():
        raise VideoIndexError(f"{towers} holds no video vectors; run `dvc repro two_tower`")
    vectors, queries = np.load(towers / "embeddings.npy"), np.load(towers / "queries.npy")
    options = config.index
    built, recall = build_guarded(
        vectors, queries, factory=options.factory, parameters=options.parameters, k=options.k, floor=options.floor
    )
    built.save(folder)
    report = {
        "factory": options.factory,
        "videos": len(built),
        "dimension": built.dimension,
        f"recall@{options.k}": round(recall, 6),
    }
    write_report(outputs / "metrics" / "index.json", report)
    print(f"{folder}: {report}")


def graph(config: DictConfig) -> None:
    """Link videos by training watches: what was watched together, and what came next."""
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
    """Count what was watched, by surface and region, as of the first test request."""
    outputs, options = Path(config.data.outputs), config.retrieval.trending
    features = FeatureSet.load(outputs / "features")
    chosen = {name: options[name] for name in ("count", "half_life_h", "segments")}
    stored, catalogue = StoredTables.open(outputs / "tables"), features.catalogue
    found = counted(stored, catalogue.ids, until_ms=features.report["as_of_ms"], **chosen)
    save_arrays(outputs / "trending", {**vars(found), "catalogue": np.array([catalogue.fingerprint])})
    report = {"videos": found.table.shape[1], "regions": len(found.regions), "segments": len(found.segments)}
    write_report(outputs / "metrics" / "trending.json", report)
    print(f"{outputs / 'trending'}: {report}")


if __name__ == "__main__":
    commands = {"index": index, "graph": graph, "trending": trending}
    dispatch("watchnext.retrieval", commands, (VideoIndexError, DataError, FileNotFoundError))
