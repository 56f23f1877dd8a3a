"""The only pymilvus import: approximate search by a Milvus server, which all servers of a release share.

The vectors are a collection with a name of their own digest, made once. A filter is pushed down as an expression: which groups
of videos the static mask keeps, and which positions are hidden from this viewer.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import numpy as np

from watchnext.retrieval.index.prefilter import pack_bits, set_positions
from watchnext.retrieval.index.queries import best
from watchnext.retrieval.index.vectors import VideoIndexError

if TYPE_CHECKING:
    from pymilvus import MilvusClient

VARIABLE = "WATCHNEXT_MILVUS"  # the address is not in a release: clusters differ, and it may hold a password
INSTALL = "pip install 'watchnext[milvus]'"
POSITION, VECTOR, GROUP = "position", "vector", "part"  # fields of a collection; `group` is a word of Milvus's own
MOST_RESULTS = 16_384  # that Milvus returns to one search
MOST_HIDDEN = 16_384  # positions that an expression names; with more, the search is exact and in this process
BATCH = 10_000  # rows of a message, far below Milvus's limit of 64 MB
CONNECT_S, FILL_S, INDEX_S = 10.0, 600.0, 86_400.0  # longest waits for a connection, for rows, and for an index of all rows
SAMPLE, DEPTH, LEAST = 8, 10, 0.8  # vectors that are searched before a collection serves, results of each, share that is right


@dataclass(frozen=True, kw_only=True)
class MilvusRecipe:
    """Recipe of an index on Milvus, at the address in WATCHNEXT_MILVUS.

    kind        of Milvus's indexes, such as "HNSW", with the inner product as metric
    building    its parameters, such as "M=32,efConstruction=200"
    searching   those of a search, such as "ef=512"
    over        oversampling: candidates per result, ranked by exact vectors
    wait_s      longest wait for a search; a request is then answered without it
    """

    kind: str
    building: str = ""
    searching: str = ""
    over: float = 1.0
    wait_s: float = 2.0

    def build(self, vectors: np.ndarray, groups: np.ndarray | None = None) -> MilvusIndex:
        """Make the collection of `vectors` (n, D), unless it is there.

        groups  (n,) numbers of videos that every static mask of the rules keeps or excludes together
        Raises VideoIndexError where Milvus is not installed, does not answer, or answers wrongly.
        """
        groups = np.zeros(len(vectors), np.int32) if groups is None else groups.astype(np.int32)
        digest = hashlib.sha256(f"{self.kind} {self.building} {vectors.shape}".encode())
        for array in (np.asarray(vectors, np.float32), groups):
            digest.update(np.ascontiguousarray(array))
        return self._opened(f"watchnext_{digest.hexdigest()[:32]}", vectors, groups)

    def load(self, folder: Path) -> MilvusIndex:
        """Open the collection of a saved index; one that is not there is made anew. Raises VideoIndexError as `build`."""
        name = json.loads((Path(folder) / "milvus.json").read_text())["collection"]
        vectors, groups = (np.load(Path(folder) / f"{part}.npy", mmap_mode="r") for part in ("vectors", "groups"))
        return self._opened(name, vectors, np.asarray(groups))

    def _opened(self, name: str, vectors: np.ndarray, groups: np.ndarray) -> MilvusIndex:
        index = MilvusIndex(self, _client(os.environ.get(VARIABLE, "")), name, groups)
        index.fill(vectors)
        return index


class MilvusIndex:
    """Collection of Milvus; a position is the index of the input vector.

    groups  (n,) int32 by position
    kept    the groups that its searches may return, None for all
    """

    def __init__(
        self, recipe: MilvusRecipe, client: MilvusClient, name: str, groups: np.ndarray, kept: np.ndarray | None = None
    ) -> None:
        self._recipe, self._client, self._name, self._groups = recipe, client, name, groups
        self._expression = "" if kept is None else f"{GROUP} in {kept.tolist()}"
        self._words = pack_bits(np.ones(len(groups), bool) if kept is None else np.isin(groups, kept))

    def fill(self, vectors: np.ndarray) -> None:
        """Insert `vectors` (n, D) unless the collection has them, and check it. Several processes may do so at once."""
        with _answers():
            if not (self._client.has_collection(self._name) and self._client.list_indexes(self._name, VECTOR)):
                self._insert(vectors)
            self._client.load_collection(self._name, timeout=INDEX_S)
            counted = self._client.query(self._name, output_fields=["count(*)"], consistency_level="Strong", timeout=FILL_S)
        if (count := counted[0]["count(*)"]) != len(vectors):
            raise VideoIndexError(f"the collection {self._name} holds {count} vectors, expected {len(vectors)}; {self._repair}")
        self._check(vectors)

    def _insert(self, vectors: np.ndarray) -> None:
        """Write all rows, by number, so that whoever does it again changes nothing; the index comes last and says that it is
        done."""
        from pymilvus import DataType

        client, dimension = self._client, vectors.shape[1]
        schema = client.create_schema(auto_id=False)
        schema.add_field(POSITION, DataType.INT64, is_primary=True)
        schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=dimension)
        schema.add_field(GROUP, DataType.INT32)
        if not client.has_collection(self._name):
            client.create_collection(self._name, schema=schema)
        for at in range(0, len(vectors), BATCH):
            columns = vectors[at : at + BATCH].astype(np.float32), self._groups[at : at + BATCH].tolist()
            rows = enumerate(zip(*columns, strict=True), start=at)
            values = [{POSITION: position, VECTOR: vector, GROUP: group} for position, (vector, group) in rows]
            client.upsert(self._name, values, timeout=FILL_S)
        client.flush(self._name, timeout=FILL_S)
        indexes = client.prepare_index_params()
        indexes.add_index(GROUP, index_type="INVERTED")
        indexes.add_index(VECTOR, index_type=self._recipe.kind, metric_type="IP", params=_numbers(self._recipe.building))
        client.create_index(self._name, indexes, timeout=INDEX_S)

    def _check(self, vectors: np.ndarray) -> None:
        """Search a few of the vectors. Raises VideoIndexError where the results are not those of exact search."""
        queries = vectors[:: -(-len(vectors) // SAMPLE)].astype(np.float32)
        wanted = [best(scores, DEPTH) for scores in (np.asarray(vectors, np.float32) @ queries.T).T]
        found = [self.candidates(query, DEPTH, self._words, len(vectors)) for query in queries]
        share = np.mean([len(np.intersect1d(one, other)) / len(other) for one, other in zip(found, wanted, strict=True)])
        if share < LEAST:
            raise VideoIndexError(
                f"the collection {self._name} finds {share:.2f} of what exact search finds, expected {LEAST}; {self._repair}"
            )

    @property
    def _repair(self) -> str:
        return f"drop it in the Milvus at {VARIABLE}, and give the command again"

    def save(self, folder: Path) -> None:
        """Write the name of the collection, and the groups."""
        np.save(Path(folder) / "groups.npy", self._groups)
        (Path(folder) / "milvus.json").write_text(json.dumps({"collection": self._name}))

    def part(self, mask: np.ndarray) -> MilvusIndex:
        """Return the index of the groups that `mask` (n,) bool does not exclude whole; what else it excludes is hidden."""
        return MilvusIndex(self._recipe, self._client, self._name, self._groups, np.unique(self._groups[mask]))

    def candidates(self, query: np.ndarray, k: int, words: np.ndarray, count: int) -> np.ndarray:
        """Return positions (n,) of about the best `k` for `query` (D,) among the `count` set in `words`; none where these
        exclude too many one by one. Raises VideoIndexError where Milvus does not answer."""
        hidden = set_positions(self._words & ~words, len(self._groups))
        if len(hidden) > MOST_HIDDEN:
            return hidden[:0]
        limit, parameters = min(int(k * self._recipe.over), count, MOST_RESULTS), _numbers(self._recipe.searching)
        if "ef" in parameters:
            parameters["ef"] = max(parameters["ef"], limit)  # Milvus refuses less
        excluded = f"{POSITION} not in {hidden.tolist()}" if len(hidden) else ""
        with _answers():
            found = self._client.search(
                self._name,
                data=[np.asarray(query, np.float32)],
                anns_field=VECTOR,
                limit=limit,
                filter=" and ".join(filter(None, (self._expression, excluded))),
                search_params={"metric_type": "IP", "params": parameters},
                timeout=self._recipe.wait_s,
            )
        return np.array(found[0].ids, np.int64)


def _numbers(parameters: str) -> dict[str, int]:
    """Parse "M=32,efConstruction=200"."""
    return {name: int(value) for name, _, value in (each.partition("=") for each in parameters.split(",") if each)}


@cache
def _client(url: str) -> MilvusClient:
    """Connect to `http://[USER:PASSWORD@]HOST:PORT`, once a process. Raises VideoIndexError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise VideoIndexError(
            f"{VARIABLE} is {_shown(url)!r}, expected http://HOST:PORT of a Milvus; set it, or take index=ivf_sq8"
        )
    try:
        from pymilvus import MilvusClient
    except ModuleNotFoundError as error:
        raise VideoIndexError(f"the index needs pymilvus, which is not installed; run `{INSTALL}`") from error
    token, _, host = parts.netloc.rpartition("@")
    with _answers():
        return MilvusClient(uri=parts._replace(netloc=host).geturl(), token=unquote(token), timeout=CONNECT_S)


def _shown(url: str) -> str:
    """Return a URL without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@contextmanager
def _answers() -> Iterator[None]:
    from grpc import RpcError
    from pymilvus.exceptions import MilvusException

    try:
        yield
    except (MilvusException, RpcError) as error:
        where = _shown(os.environ.get(VARIABLE, ""))
        raise VideoIndexError(
            f"the Milvus at {where} does not answer or refuses ({error}); look at it, and at {VARIABLE}"
        ) from error
