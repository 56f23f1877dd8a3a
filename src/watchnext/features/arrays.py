"""Folders of arrays: one `.npy` file per name, memory-mapped on load, never pickled."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np


def save_arrays(folder: Path, arrays: Mapping[str, np.ndarray]) -> None:
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)


def load_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Load all arrays of a folder, read-only and memory-mapped. Raises FileNotFoundError if there are none."""
    paths = sorted(Path(folder).glob("*.npy"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no arrays; run `dvc repro`")
    # A plain view: numpy's memmap class costs microseconds per access, and numba as much per call.
    return {path.stem: np.asarray(np.load(path, mmap_mode="r", allow_pickle=False)) for path in paths}
