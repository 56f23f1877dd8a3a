"""The only FAISS import: exact search, k-means, and FAISS indexes for approximate search."""

from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

from watchnext.retrieval.index.codes import Codes


class VideoIndexError(ValueError):
    """An index that must not be published or cannot be used."""


def exact(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search the best `k` rows (B, k) int64 of `vectors` and inner products (B, k) float32 for `queries` (B, D) by brute force;
    fewer than `k` if there are fewer vectors."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    scores, rows = index.search(np.ascontiguousarray(queries, np.float32), min(k, len(vectors)))
    return rows, scores


def centroids(vectors: np.ndarray, count: int, *, rounds: int, each: int, seed: int) -> np.ndarray:
    """Run spherical k-means (Dhillon & Modha, 2001) on at most `each` of `vectors` (n, D) per centroid: unit vectors (count, D)
    float32."""
    sample = np.random.default_rng(seed).permutation(len(vectors))[: count * each]
    means = faiss.Kmeans(
        vectors.shape[1],
        count,
        niter=rounds,
        spherical=True,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=each,
    )
    means.train(np.ascontiguousarray(vectors[np.sort(sample)], np.float32))
    return means.centroids


def nearest(means: np.ndarray, vectors: np.ndarray, chunk: int = 65_536) -> np.ndarray:
    """Return the index of the nearest of `means` (L, D) for each of `vectors` (n, D), by inner product: (n,) int32."""
    index = faiss.IndexFlatIP(means.shape[1])
    index.add(means)
    result = np.empty(len(vectors), np.int32)
    for at in range(0, len(vectors), chunk):
        result[at : at + chunk] = index.search(np.ascontiguousarray(vectors[at : at + chunk], np.float32), 1)[1][:, 0]
    return result


@dataclass(frozen=True, kw_only=True)
class FaissRecipe:
    """Recipe of a FAISS index: `factory` such as "HNSW32,SQfp16", `parameters` such as "efSearch=256".

    over  oversampling: candidates per result, ranked by exact vectors
    """

    factory: str
    parameters: str = ""
    over: float = 1.0

    def build(self, vectors: np.ndarray) -> "FaissIndex":
        """Build over `vectors` (n, D) with one thread, because HNSW links depend on thread timing."""
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            index = faiss.index_factory(vectors.shape[1], self.factory, faiss.METRIC_INNER_PRODUCT)
            index.train(np.ascontiguousarray(vectors, np.float32))
            index.add(np.ascontiguousarray(vectors, np.float32))
        finally:
            faiss.omp_set_num_threads(threads)
        return FaissIndex(self, index)

    def load(self, folder: Path) -> "FaissIndex":
        """Load by memory mapping if FAISS supports it. Raises VideoIndexError for an unreadable file."""
        try:
            index = faiss.read_index(str(Path(folder) / "videos.faiss"), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise VideoIndexError(f"{folder} holds no readable index ({error}); run `dvc repro index`") from error
        return FaissIndex(self, index)


class FaissIndex:
    """Built FAISS index; a position is the index of the input vector."""

    order = None

    def __init__(self, recipe: FaissRecipe, index: faiss.Index) -> None:
        self._recipe, self._index = recipe, index
        if recipe.parameters:
            faiss.ParameterSpace().set_index_parameters(index, recipe.parameters)

    def save(self, folder: Path) -> None:
        faiss.write_index(self._index, str(Path(folder) / "videos.faiss"))

    def candidates(self, query: np.ndarray, k: int, words: np.ndarray, _: Codes) -> np.ndarray:
        """Return positions (n,) of about the best `k` for `query` (D,) among those set in `words`."""
        wanted = min(int(k * self._recipe.over), self._index.ntotal)
        chosen = _parameters(self._index, faiss.IDSelectorBitmap(words.view(np.uint8)))
        _, positions = self._index.search(np.ascontiguousarray(query[None], np.float32), wanted, params=chosen)
        return positions[0][positions[0] >= 0]


def _parameters(index: faiss.Index, selector: faiss.IDSelector) -> faiss.SearchParameters:
    """Copy the index's search parameters with `selector`; FAISS would otherwise reset the others to defaults."""
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=index.hnsw.efSearch, sel=selector)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=index.nprobe, sel=selector)
    return faiss.SearchParameters(sel=selector)
