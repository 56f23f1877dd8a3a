"""Built index: exact vectors, and an approximate index of them. A *row* is a catalogue number, a *position* the index of a
vector in storage."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.files import files_below, sha256_of
from watchnext.retrieval.index.milvus import MilvusIndex, MilvusRecipe
from watchnext.retrieval.index.prefilter import PreFilter, StaticMask, clear_bits, count_bits, pack_bits, set_positions
from watchnext.retrieval.index.queries import best, require_finite, require_queries
from watchnext.retrieval.index.sealed import SEAL, require_whole
from watchnext.retrieval.index.vectors import FaissIndex, FaissRecipe, VideoIndexError

NARROW, FEW = 0.1, 2_000  # a filter that keeps a smaller share, and not more videos than these, is searched exactly
Recipe, Approximate = FaissRecipe | MilvusRecipe, FaissIndex | MilvusIndex
KINDS: Mapping[str, type[Recipe]] = {"library": FaissRecipe, "milvus": MilvusRecipe}
PRECISIONS = ("float32", "float16")


class VideoIndex:
    """Immutable, thread-safe index.

    vectors      (n, D) float32 or float16, by position; every score is computed from them
    rows         (n,) int32, the row at each position
    approximate  index for wide filters; None compares all allowed videos
    towers       fingerprint of the towers of the vectors
    """

    def __init__(
        self,
        *,
        vectors: np.ndarray,
        rows: np.ndarray,
        approximate: Approximate | None,
        recipe: Recipe | None,
        towers: str,
    ) -> None:
        self.vectors, self.rows, self.approximate = vectors, rows, approximate
        self.recipe, self.towers = recipe, towers
        self._positions = np.full(int(rows.max(initial=-1)) + 1, -1, np.int32)
        self._positions[rows] = np.arange(len(rows), dtype=np.int32)
        self._all_words = pack_bits(np.ones(len(rows), bool))
        self._packed: WeakKeyDictionary[StaticMask, np.ndarray] = WeakKeyDictionary()
        self._parts: WeakKeyDictionary[StaticMask, Approximate] = WeakKeyDictionary()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def dimension(self) -> int:
        return self.vectors.shape[1]

    @classmethod
    def build(
        cls,
        vectors: np.ndarray,
        *,
        recipe: Recipe | None,
        rows: np.ndarray | None = None,
        groups: np.ndarray | None = None,
        precision: str = "float32",
        towers: str = "",
    ) -> "VideoIndex":
        """Build from `vectors` (n, D) float32 of `rows` (n,), by default the first n. Deterministic.

        groups  (n,) numbers of videos that every static mask of the rules keeps or excludes together, if known
        Raises VideoIndexError for vectors that are not finite.
        """
        if precision not in PRECISIONS:
            raise VideoIndexError(f"index.precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")
        rows = np.arange(len(vectors)) if rows is None else np.asarray(rows)
        require_finite(vectors, "the vector of video", rows)
        approximate = recipe.build(vectors, groups) if recipe is not None and len(vectors) else None
        stored, numbers = np.array(vectors, precision), rows.astype(np.int32)
        return cls(vectors=stored, rows=numbers, approximate=approximate, recipe=recipe, towers=towers)

    # ---- search ------------------------------------------------------------------------------------------------------

    def search(
        self, queries: np.ndarray, k: int, allowed: PreFilter | None = None, valid: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Search the best `k` rows (B, k) int64 (padded with -1) and inner products (B, k) float32 (padded with -inf) for
        `queries` (B, D); k is limited by the number of videos.

        allowed  pre-filter, None for all; one that keeps few is searched exactly
        valid    (words,) uint64 as from `words`: positions that were not removed
        """
        require_queries(queries, self.dimension)
        if k < 1:
            raise VideoIndexError(f"k is {k}, expected at least 1")
        words, k = self.words(allowed, valid), min(k, len(self))
        rows, scores = np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), -np.inf, np.float32)
        count, approximate = count_bits(words), self.approximate if allowed is None else self._part_of(allowed.static_mask)
        for i, query in enumerate(np.asarray(queries, np.float32)):
            positions = self._candidates(query, k, words, count, approximate)
            exact = self._scores(positions, query)
            order = best(exact, k)
            rows[i, : len(order)], scores[i, : len(order)] = self.rows[positions[order]], exact[order]
        return rows, scores

    def _candidates(
        self, query: np.ndarray, k: int, words: np.ndarray, count: int, approximate: Approximate | None
    ) -> np.ndarray:
        """Return positions (n,) that contain the best `k`; all that are allowed for exact search."""
        if approximate is not None and count > min(NARROW * len(self), FEW):
            positions = approximate.candidates(query, k, words, count)
            if len(positions) >= min(k, count):
                return positions
        return set_positions(words, len(self))

    def _scores(self, positions: np.ndarray, query: np.ndarray) -> np.ndarray:
        """Return the inner products (n,) float32 of the vectors at `positions` (n,); most of all vectors are not copied."""
        if 2 * len(positions) > len(self) and self.vectors.dtype == np.float32:
            return (self.vectors @ query)[positions]
        return self.vectors[positions].astype(np.float32, copy=False) @ query

    def words(self, allowed: PreFilter | None = None, valid: np.ndarray | None = None) -> np.ndarray:
        """Combine pre-filter and `valid` into new bits by position (ceil(n / 64),) uint64."""
        words = self._all_words if allowed is None else self._bits_of(allowed.static_mask)
        words = words.copy() if valid is None else words & valid
        if allowed is not None:
            if allowed.also is not None:
                words &= self._bits_of(allowed.also)
            clear_bits(words, self.positions_of(allowed.hidden))
        return words

    def positions_of(self, rows: np.ndarray) -> np.ndarray:
        """Return the positions of `rows` (n,), int32, -1 if absent."""
        known = (rows >= 0) & (rows < len(self._positions))
        return np.where(known, self._positions[np.where(known, rows, 0)], -1) if len(self) else np.full(len(rows), -1, np.int32)

    def _bits_of(self, static_mask: StaticMask) -> np.ndarray:
        """Return the bits of a static mask; packed once a mask."""
        words = self._packed.get(static_mask)
        if words is None:
            self._packed[static_mask] = words = pack_bits(static_mask.of(self.rows))
        return words

    def _part_of(self, static_mask: StaticMask) -> Approximate | None:
        """Return the approximate index for a static mask; made once a mask."""
        if self.approximate is None:
            return None
        part = self._parts.get(static_mask)
        if part is None:
            self._parts[static_mask] = part = self.approximate.part(static_mask.of(self.rows))
        return part

    # ---- files -------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write to `folder`, replacing its content."""
        folder = Path(folder)
        shutil.rmtree(folder, ignore_errors=True)
        save_arrays(folder, {"vectors": self.vectors, "rows": self.rows})
        if self.approximate is not None:
            self.approximate.save(folder)
        kind = next((name for name, recipe in KINDS.items() if isinstance(self.recipe, recipe)), "exact")
        meta = {
            "kind": kind,
            "options": {} if self.recipe is None else asdict(self.recipe),
            "towers": self.towers,
            "videos": len(self),
            "dimension": self.dimension,
            "files": {name: sha256_of(folder / name) for name in files_below(folder, but=SEAL)},
        }
        (folder / SEAL).write_text(json.dumps(meta, indent=1))

    @classmethod
    def load(cls, folder: Path, *, verified: bool = False) -> "VideoIndex":
        """Load by memory mapping. Raises VideoIndexError for a missing, damaged or extra file, unless `verified` says that the
        digests were already checked."""
        folder = Path(folder)
        try:
            meta = json.loads((folder / SEAL).read_text())
            if not verified:
                require_whole(folder, meta["files"])
            recipe = None if meta["kind"] == "exact" else KINDS[meta["kind"]](**meta["options"])
            arrays = load_arrays(folder)
            approximate = recipe.load(folder) if recipe is not None and meta["videos"] else None
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise VideoIndexError(f"{folder} holds no readable index ({error!r}); run `dvc repro index`") from error
        return cls(
            vectors=arrays["vectors"], rows=arrays["rows"], approximate=approximate, recipe=recipe, towers=meta["towers"]
        )
