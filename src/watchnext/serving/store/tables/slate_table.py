"""The table of slates that were computed ahead of time, which a batch fills beside the process that holds the store."""

from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from watchnext.serving.store.engines.engine import Engine
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.engines.redis_engine import RedisEngine, is_url
from watchnext.serving.store.tables.journal import id_key
from watchnext.serving.store.tables.meta import meta_number
from watchnext.serving.store.tables.records import digest_of, is_erased, slate_of
from watchnext.serving.store.tables.seal import sealed


class SlateTable:
    """Slates by viewer. Nothing of them is kept in memory, so that processes need no lock but that of a transaction."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    @contextmanager
    def opened(cls, store: Path | str, state: str, *, map_bytes: int = MAP_BYTES) -> Iterator["SlateTable"]:
        """Open the slates of the store at `store` (folder or URL), which other processes may use, for the fingerprint `state`.

        Raises StoreError where there is no store.
        """
        if is_url(store):
            engine = RedisEngine(str(store), state=state, durable=True)
        else:
            engine = Environment(Path(store) / "current", durable=True, map_bytes=map_bytes)
        with closing(engine):
            yield cls(engine)

    @property
    def store(self) -> str:
        """Return the name of what holds the tables, which another build of the store does not have."""
        return self._engine.name

    @property
    def last_known_at(self) -> int:
        """Return the time of the last event of the store, in ms."""
        return meta_number(self._engine, "last_known_at")

    def get(self, user_id: int | str) -> bytes | None:
        return slate_of(key := id_key(user_id), self._engine.get("slates", key))

    def put(self, slates: Iterable[tuple[int | str, bytes]]) -> None:
        """Replace the slates of these viewers, in one transaction; but for those of whoever was erased while the slates were
        computed. Raises StoreError."""
        by_key = {id_key(user_id): packed for user_id, packed in slates}
        with self._engine.write() as txn:
            if txn.count("erased"):
                txn.prefetch("erased", map(digest_of, by_key))
                txn.prefetch("viewers", by_key)
                by_key = {key: packed for key, packed in by_key.items() if not is_erased(txn, key)}
            txn.put_many("slates", [(key, sealed(key, packed)) for key, packed in by_key.items()])
