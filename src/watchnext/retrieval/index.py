"""An index over video vectors, by inner product, with the exact answer beside it as oracle. FAISS's only door."""

import json
from pathlib import Path

import faiss
import numpy as np


class VideoIndexError(ValueError):
    """An index that may not be published or cannot be used."""


class VideoIndex:
    """Approximate search over video rows. `factory` and `parameters` are FAISS's own strings, e.g. "HNSW32,Flat" and
    "efSearch=128"."""

    def __init__(self, index: faiss.Index, *, factory: str, parameters: str) -> None:
        self._index, self.factory, self.parameters = index, factory, parameters
        if parameters:
            faiss.ParameterSpace().set_index_parameters(index, parameters)

    @property
    def dimension(self) -> int:
        return self._index.d

    def __len__(self) -> int:
        return self._index.ntotal

    @classmethod
    def build(cls, vectors: np.ndarray, *, factory: str, parameters: str) -> "VideoIndex":
        """Index `vectors` (V, D) float32; the position is the video's row number. One thread, so that one input gives one
        index."""
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            index.train(np.ascontiguousarray(vectors))
            index.add(np.ascontiguousarray(vectors))
        finally:
            faiss.omp_set_num_threads(threads)
        return cls(index, factory=factory, parameters=parameters)

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Best `k` rows (B, k) int64 (-1 behind the last) and inner products (B, k) float32 of `queries` (B, D), best first."""
        if queries.shape[1] != self.dimension:
            raise VideoIndexError(
                f"the query is {queries.shape[1]} wide, but the index holds vectors of {self.dimension}; "
                "they belong to different releases"
            )
        scores, rows = self._index.search(np.ascontiguousarray(queries, np.float32), min(k, len(self)))
        return rows, scores

    def recall(self, vectors: np.ndarray, queries: np.ndarray, k: int) -> float:
        """Share of the exact best `k` of `vectors` that the index finds, over `queries` (B, D); nan without queries."""
        if not len(queries):
            return float("nan")
        wanted, _ = exact(vectors, queries, k)
        found, _ = self.search(queries, k)
        return float(np.mean([len(np.intersect1d(a, b)) / len(a) for a, b in zip(wanted, found, strict=True)]))

    def save(self, folder: Path) -> None:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        faiss.write_index(self._index, str(folder / "videos.faiss"))
        (folder / "index.json").write_text(
            json.dumps({"factory": self.factory, "parameters": self.parameters, "videos": len(self)})
        )

    @classmethod
    def load(cls, folder: Path) -> "VideoIndex":
        """Raises VideoIndexError naming the folder where the file is missing or no index."""
        folder = Path(folder)
        try:
            meta = json.loads((folder / "index.json").read_text())
            index = faiss.read_index(str(folder / "videos.faiss"))
        except (OSError, RuntimeError, ValueError) as error:
            raise VideoIndexError(f"{folder} holds no readable index ({error}); run `dvc repro index`") from error
        return cls(index, factory=meta["factory"], parameters=meta["parameters"])


def exact(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The exact answer to `VideoIndex.search`, by brute force."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    scores, rows = index.search(np.ascontiguousarray(queries, np.float32), min(k, len(vectors)))
    return rows, scores


def build_guarded(
    vectors: np.ndarray, queries: np.ndarray, *, factory: str, parameters: str, k: int, floor: float
) -> tuple[VideoIndex, float]:
    """Build, measure recall@k against exact search on real `queries`, and refuse to hand over an index below `floor`."""
    index = VideoIndex.build(vectors, factory=factory, parameters=parameters)
    recall = index.recall(vectors, queries, k)
    if not recall >= floor:  # nor is one published that nothing was measured on: its recall is nan
        raise VideoIndexError(
            f"recall@{k} of {factory!r} ({parameters}) is {recall:.4f}, expected at least {floor}; "
            "raise its search parameters in conf/index"
        )
    return index, recall
