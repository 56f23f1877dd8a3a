"""Vectors in loose clusters, the recipes of every kind that conf/index names, small, and the exact answer in plain numpy."""

import numpy as np

from watchnext.retrieval.index.milvus import MilvusRecipe
from watchnext.retrieval.index.vectors import FaissRecipe

RECIPES = {
    "exact": None,
    "ivf_sq8": FaissRecipe(factory="IVF{lists},SQ8", lists=32, compared=1500, over=1.2),
    "hnsw": FaissRecipe(factory="HNSW16,SQfp16", parameters="efSearch=300", over=1.2),
    "ivf_pq": FaissRecipe(factory="IVF16,PQ16x4fs", parameters="nprobe=12", over=8.0),
    "milvus": MilvusRecipe(kind="IVF_SQ8", building="nlist=16", searching="nprobe=12", over=1.2, wait_s=60.0),
}


def unit(seed: int, rows: int, dimension: int = 16) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def clustered(seed: int, rows: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    vectors = unit(99, 40)[random.integers(0, 40, rows)] + 0.4 * unit(seed, rows)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


VECTORS, QUERIES = clustered(0, 3_000), clustered(1, 40)


def brute(vectors, query, k, allowed=None) -> list[int]:
    """Rows, best first, among those of the mask `allowed` (V,)."""
    rows = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    return rows[np.argsort(-(vectors[rows] @ query), kind="stable")][:k].tolist()


def found_share(wanted, found) -> float:
    return float(np.mean([len(set(a) & set(b.tolist())) / max(len(a), 1) for a, b in zip(wanted, found, strict=True)]))
