"""The store's folder: one LMDB environment behind a `current` link, held by one process.

env-7/  env-8/     environments; one without a link was left by a process that died
current            link to the environment that a server opens
next               link to one that was built beside it, which the next server takes over
taking             the same link during the takeover, so that a newer `next` leaves the environment alone
lock  names        locks: held by a server while it runs, and by any process for the moment in which links change
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from watchnext.files import link, synced
from watchnext.serving.store.engines.engine import StoreHeldError

LINKS = ("current", "next", "taking")


def locked(folder: Path) -> IO:
    """Take the folder's lock, held until it is closed or the process dies. Raises StoreHeldError naming the holder."""
    if not Path(folder).exists():
        Path(folder).mkdir(parents=True, exist_ok=True)
        synced(Path(folder).parent)
    lock = open(Path(folder) / "lock", "a+")  # noqa: SIM115 (held while the store is open)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read().strip() or "unknown"
        lock.close()
        raise StoreHeldError(
            f"the store {folder} is open in process {holder}; stop that server first, or name another folder"
        ) from error
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


def point(folder: Path, name: str, environment: str) -> None:
    """Point the link `name` at an environment, once all of it is on disk: its file's name too, which LMDB does not sync.

    `lock.mdb` is not touched: a process that has the environment open loses its lock on that file where it closes the file, and
    the next process to open the environment makes the mutexes anew that this one holds.
    """
    for each in (Path(folder) / environment / "data.mdb", Path(folder) / environment):
        synced(each)
    link(folder, name, environment)


@contextmanager
def link_lock(folder: Path) -> Iterator[None]:
    """Let one process at a time change the links of the folder, for moments only, with or without a running server."""
    with open(Path(folder) / "names", "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def new_environment(folder: Path) -> Path:
    """Make an empty folder for a new environment, and remove those that killed builds left. Needs the lock."""
    with link_lock(folder):
        _clear(folder)
        path = _next_path(folder)
        path.mkdir()
    return path


def clear(folder: Path) -> None:
    """Remove every environment that no link points at. Needs the lock."""
    with link_lock(folder):
        _clear(folder)


def _clear(folder: Path) -> None:
    linked = {target_of(folder, name) for name in LINKS}
    for path in Path(folder).glob("env-*"):
        if path.name not in linked:
            shutil.rmtree(path)


def _next_path(folder: Path) -> Path:
    numbers = [int(path.name.removeprefix("env-")) for path in Path(folder).glob("env-*")]
    return Path(folder) / f"env-{max(numbers, default=0) + 1}"


def target_of(folder: Path, name: str) -> str | None:
    """Return the name of the environment that the link `name` points at; None without a link, or for a broken one."""
    path = Path(folder) / name
    return path.resolve().name if path.exists() else None


def publish_next(folder: Path, built: Path) -> None:
    """Move the environment `built` (on the same disk) to `next`, and remove the previous `next`. Needs no lock."""
    with link_lock(folder):
        previous, path = target_of(folder, "next"), _next_path(folder)
        os.rename(built, path)
        point(folder, "next", path.name)
        if previous not in (None, target_of(folder, "current"), target_of(folder, "taking")):
            shutil.rmtree(Path(folder) / previous)


def claim_next(folder: Path) -> Path | None:
    """Return the environment `next`, or None; it is kept until `commit_claim` or another claim. Needs the lock."""
    with link_lock(folder):
        name = target_of(folder, "next")
        if name == target_of(folder, "current"):  # a process died between two steps of `commit_claim`
            (Path(folder) / "next").unlink(missing_ok=True)
            name = None
        if name is not None:
            link(folder, "taking", name)
    return Path(folder) / name if name else None


def claim_new(folder: Path) -> Path:
    """Make an empty folder for an environment that is kept as `claim_next` keeps one, and remove those that killed builds left.
    Needs the lock."""
    with link_lock(folder):
        path = _next_path(folder)
        path.mkdir()
        link(folder, "taking", path.name)
        _clear(folder)
    return path


def drop_claim(folder: Path) -> None:
    """Remove a claimed environment that is not to be `current`; one that is `next` waits for its release. Needs the lock."""
    with link_lock(folder):
        (Path(folder) / "taking").unlink(missing_ok=True)
        _clear(folder)


def commit_claim(folder: Path, claimed: Path) -> None:
    """Make the claimed environment `current`; a `next` that was published meanwhile stays. Needs the lock."""
    with link_lock(folder):
        point(folder, "current", claimed.name)
        if target_of(folder, "next") == claimed.name:
            (Path(folder) / "next").unlink()
        (Path(folder) / "taking").unlink(missing_ok=True)
        _clear(folder)
