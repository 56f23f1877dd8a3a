"""Files that must last and be what was written: on disk through a power cut, whole to the last byte."""

import hashlib
import os
from pathlib import Path


def synced(path: Path) -> None:
    """What a file holds, or which names a folder has, is on disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sha256_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_below(folder: Path, *, but: str) -> list[str]:
    """Every file below, relative, sorted, without the one called `but`."""
    paths = (path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if not path.is_dir())
    return sorted(path for path in paths if path != but)
