"""Numbers and names that describe a store, in the table `meta`, and the length of its journal."""

from watchnext.serving.store.engines.engine import Engine


def put_meta(engine: Engine, **values: bytes) -> None:
    with engine.write() as txn:
        txn.put_many("meta", [(name.encode(), value) for name, value in values.items()])


def meta_number(engine: Engine, name: str) -> int:
    """Read a number in `meta`, 0 if absent."""
    return int.from_bytes(engine.get("meta", name.encode()) or b"", "big")


def journal_length(engine: Engine) -> int:
    with engine.read() as txn:
        return txn.end("journal")
