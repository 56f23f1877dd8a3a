"""`python -m watchnext.retrieval index`: video vectors > a searchable index."""

from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from watchnext.dispatch import dispatch, write_report
from watchnext.retrieval.index import VideoIndexError, build_guarded


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


if __name__ == "__main__":
    dispatch("watchnext.retrieval", {"index": index}, (VideoIndexError,))
