"""Files that must last and be what was written: on disk through a power cut, whole to the last byte."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


def synced(path: Path) -> None:
    """fsync a file or a folder."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def synced_below(folder: Path) -> None:
    """fsync every file and every folder below, and the folder itself; together, as each alone costs a flush of the disk."""
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(synced, [*Path(folder).rglob("*"), folder]))


def replaced(path: Path, text: str) -> None:
    """Let a file hold `text`, in one step: after a power cut it holds the old text or the new one."""
    aside = path.with_name(f"{path.name}.new")
    aside.write_text(text)
    synced(aside)
    os.replace(aside, path)
    synced(path.parent)


def boot() -> str:
    """The id of this boot of the machine, "" where the system has none: what was not synced outlives a process, not a boot."""
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else ""


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path, *, but: str) -> list[str]:
    """Every file below, relative, sorted, without the one called `but`."""
    paths = (path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if not path.is_dir())
    return sorted(path for path in paths if path != but)


def link(folder: Path, name: str, target: str) -> None:
    """Point the link `name` in `folder` at `target`, in one step that a crash cannot halve."""
    folder = Path(folder)
    aside = folder / f".{name}-{os.getpid()}"
    aside.unlink(missing_ok=True)
    os.symlink(target, aside)
    os.replace(aside, folder / name)
    synced(folder)
