"""What must outlive a power cut."""

import os
from pathlib import Path


def synced(path: Path) -> None:
    """What a file holds, or which names a folder has, is on disk when this returns."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
