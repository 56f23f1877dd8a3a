"""Durable files: written completely and synced to disk, so that they survive a power cut."""

import hashlib
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path


def synced(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def synced_below(folder: Path) -> None:
    """fsync a folder with all files and folders below it; in parallel, because each call alone costs a disk flush."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(synced, [*Path(folder).rglob("*"), folder]))


def replaced(path: Path, content: str | Callable[[Path], object]) -> None:
    """Replace a file in one step: no reader meets half of it, and after a power cut it holds the old content or the new one.

    `content` is text, or writes the file that it gets. Several processes may replace one file at once; the last one wins.
    """
    aside = path.with_name(f".{path.name}.{os.urandom(4).hex()}.new")  # hidden: no file of a table, whose folder it is in
    try:
        aside.write_text(content) if isinstance(content, str) else content(aside)
        synced(aside)
        os.replace(aside, path)
    except BaseException:
        with suppress(OSError):
            aside.unlink(missing_ok=True)
        raise
    synced(path.parent)


def removed(path: Path) -> None:
    """Remove a file, or a folder with everything in it; nothing happens if there is none."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def boot() -> str:
    """Return the id of this boot, "" if the system has none. Unsynced data outlives a process, but not a boot."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path, *, but: str) -> list[str]:
    """Return every file below a folder, relative and sorted, except `but`."""
    paths = (path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if not path.is_dir())
    return sorted(path for path in paths if path != but)


def link(folder: Path, name: str, target: str) -> None:
    """Point the link `name` in `folder` at `target`, in one atomic step."""
    folder = Path(folder)
    aside = folder / f".{name}-{os.getpid()}"
    aside.unlink(missing_ok=True)
    os.symlink(target, aside)
    os.replace(aside, folder / name)
    synced(folder)
