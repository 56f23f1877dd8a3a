"""The only FAISS import: exact search, and indexes for approximate search."""

import math
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np

PARTITIONED = 0.25  # a static mask that keeps a smaller share gets lists of its own


class VideoIndexError(ValueError):
    """An index that must not be published or cannot be used."""


def exact(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Search the best `k` rows (B, k) int64 of `vectors` and inner products (B, k) float32 for `queries` (B, D) by brute force;
    fewer than `k` if there are fewer vectors."""
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(np.ascontiguousarray(vectors, np.float32))
    scores, rows = index.search(np.ascontiguousarray(queries, np.float32), min(k, len(vectors)))
    return rows, scores


@dataclass(frozen=True, kw_only=True)
class FaissRecipe:
    """Recipe of a FAISS index: `factory` such as "HNSW32,SQfp16", `parameters` such as "efSearch=256".

    over      oversampling: candidates per result, ranked by exact vectors
    lists     number of inverted lists, {lists} in `factory`, about 2 * sqrt(videos); fewer if a list would hold fewer than 4
    compared  vectors that a search of inverted lists compares, if the filter keeps as many: the fewer it keeps, the more lists
              are opened. None opens as many as `parameters` say
    """

    factory: str
    parameters: str = ""
    over: float = 1.0
    lists: int | None = None
    compared: int | None = None

    def build(self, vectors: np.ndarray, groups: np.ndarray | None = None) -> "FaissIndex":
        """Build over `vectors` (n, D) with one thread, because HNSW links depend on thread timing; it has no use for groups."""
        faiss.omp_set_num_threads(1)
        lists = max(min(self.lists or 0, len(vectors) // 4), 1)
        index = faiss.index_factory(vectors.shape[1], self.factory.format(lists=lists), faiss.METRIC_INNER_PRODUCT)
        if isinstance(index, faiss.IndexIVF):
            index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 64, 1
        index.train(np.ascontiguousarray(vectors, np.float32))
        index.add(np.ascontiguousarray(vectors, np.float32))
        return FaissIndex(self, index)

    def load(self, folder: Path) -> "FaissIndex":
        """Load by memory mapping if FAISS supports it. Raises VideoIndexError for an unreadable file."""
        try:
            index = faiss.read_index(str(Path(folder) / "videos.faiss"), faiss.IO_FLAG_MMAP_IFC)
        except RuntimeError as error:
            raise VideoIndexError(f"{folder} holds no readable index ({error}); run `dvc repro index`") from error
        return FaissIndex(self, index)


class FaissIndex:
    """Built FAISS index; a position is the index of the input vector. It reads what `parts_of` holds."""

    def __init__(self, recipe: FaissRecipe, index: faiss.Index, *parts_of: object) -> None:
        self._recipe, self._index, self._parts_of = recipe, index, parts_of
        if recipe.parameters:
            faiss.ParameterSpace().set_index_parameters(index, recipe.parameters)

    def save(self, folder: Path) -> None:
        faiss.write_index(self._index, str(Path(folder) / "videos.faiss"))

    def part(self, mask: np.ndarray) -> "FaissIndex":
        """Return the inverted lists with the positions of a narrow `mask` (n,) bool alone, so that a search reads no others.
        For another mask, or kind of index, return the index itself."""
        whole = self._index
        if mask.mean() >= PARTITIONED or not isinstance(whole, faiss.IndexIVFScalarQuantizer):
            return self
        lists = faiss.ArrayInvertedLists(whole.nlist, whole.code_size)
        for number in range(whole.nlist):
            size = whole.invlists.list_size(number)
            if size:
                ids = faiss.rev_swig_ptr(whole.invlists.get_ids(number), size)
                codes = faiss.rev_swig_ptr(whole.invlists.get_codes(number), size * whole.code_size).reshape(size, -1)
                ids, codes = ids[mask[ids]], codes[mask[ids]]
                lists.add_entries(number, len(ids), faiss.swig_ptr(ids), faiss.swig_ptr(codes))
        part = faiss.IndexIVFScalarQuantizer(
            whole.quantizer, whole.d, whole.nlist, whole.sq.qtype, whole.metric_type, whole.by_residual
        )
        part.sq, part.is_trained, part.ntotal = whole.sq, True, whole.ntotal
        part.replace_invlists(lists, False)
        return FaissIndex(self._recipe, part, self, lists)

    def candidates(self, query: np.ndarray, k: int, words: np.ndarray, count: int) -> np.ndarray:
        """Return positions (n,) of about the best `k` for `query` (D,) among the `count` set in `words`."""
        faiss.omp_set_num_threads(1)  # of the calling thread: a query of its own gains nothing from a second one
        wanted = min(int(k * self._recipe.over), self._index.ntotal)
        chosen = self._parameters(faiss.IDSelectorBitmap(words.view(np.uint8)), wanted, count)
        _, positions = self._index.search(np.ascontiguousarray(query[None], np.float32), wanted, params=chosen)
        return positions[0][positions[0] >= 0]

    def _parameters(self, selector: faiss.IDSelector, wanted: int, count: int) -> faiss.SearchParameters:
        """Copy the index's search parameters with `selector`; FAISS would otherwise reset the others to defaults."""
        index, compared = self._index, self._recipe.compared
        if isinstance(index, faiss.IndexHNSW):
            return faiss.SearchParametersHNSW(efSearch=index.hnsw.efSearch, sel=selector)
        if isinstance(index, faiss.IndexIVF):
            opened = index.nprobe if compared is None else math.ceil(index.nlist * max(compared, 2 * wanted) / max(count, 1))
            return faiss.SearchParametersIVF(nprobe=min(opened, index.nlist), sel=selector)
        return faiss.SearchParameters(sel=selector)
