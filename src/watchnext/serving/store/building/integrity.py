"""Check a store in a process of its own: LMDB maps its file, and what is wrong with a page may end the process that reads it.

`python -m watchnext.serving.store.building.integrity ENVIRONMENT` reads all of a store, also beside its server, and exits with
1 and the names of what is damaged. A server that starts reads the CHECKED last values of each table so.
"""

import os
import signal
import subprocess
import sys
from contextlib import closing
from itertools import islice
from pathlib import Path

from watchnext.serving.store.engines.engine import REPAIR, TABLES, Engine, StoreError
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.tables.seal import SEALED, StoreDamagedError, is_intact

CHECKED = 100_000  # values a table when a store is opened, the latest events among them; others are checked where they are read
SHOWN = 5  # damaged values that a message names


def require_sound(path: Path) -> None:
    """Raise StoreDamagedError naming what is damaged in the environment at `path`, or the signal in which reading it ends."""
    command = [sys.executable, "-m", __name__, str(path), str(CHECKED)]
    variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # the package may be importable in this process alone
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    if ended.returncode:
        by = f"reading it ends in {signal.Signals(-ended.returncode).name}" if ended.returncode < 0 else ended.stderr.strip()
        raise StoreDamagedError(f"the store {path} is damaged: {by}; run `{REPAIR}`, which keeps every event that is intact")


def damages(engine: Engine, most: int | None = None) -> list[str]:
    """Return the damaged values among the `most` last of each table, and gaps in the sequence of the journal.

    A store of a version without checksums has none.
    """
    found = []
    if engine.get("meta", b"sealed_state") is None:
        return found
    with engine.read() as txn:
        for name in TABLES:
            for key, packed in islice(txn.items(name, reverse=True), most):
                if name in SEALED and not is_intact(name, key, packed):
                    found.append(f"{name} {key.hex()}")
        first, last = ([int.from_bytes(key, "big") for key, _ in txn.head("journal", 1)] or [0])[0], txn.end("journal") - 1
        entries = txn.count("journal")
    if entries and last - first + 1 != entries:
        found.append(f"the journal has {entries} events at the positions {first} to {last}")
    return found


def main(path: str, most: str | None = None) -> str | None:
    """Return the damages as the message of the process's end, None without any."""
    try:
        with closing(Environment(Path(path), durable=False, map_bytes=MAP_BYTES, readonly=True)) as environment:
            found = damages(environment, int(most) if most else None)
    except StoreError as error:
        return str(error)
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more if found else None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
