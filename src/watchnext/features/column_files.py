"""Growing columns on disk as plain `.npy` files, so that readers can memory-map them."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.lib import format as npy


class ColumnFiles:
    """A folder of `.npy` files of equal length, one per column. `kinds` maps column > (dtype, shape of one row)."""

    def __init__(self, folder: Path, kinds: Mapping[str, tuple[type, tuple[int, ...]]]) -> None:
        self.folder, self.kinds = Path(folder), kinds

    def resize(self, rows: int) -> None:
        """Resize every column to `rows`: existing rows are kept, rows past the end removed, new rows zero."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, (kind, row) in self.kinds.items():
            path = self.folder / f"{name}.npy"
            with suppress(FileExistsError), open(path, "xb"):
                pass
            with open(path, "r+b") as file:
                header = {"descr": npy.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": (rows, *row)}
                # numpy pads the header for a growing first dimension: its length, and so the offset of the rows, stays
                npy.write_array_header_1_0(file, header)
                os.ftruncate(file.fileno(), file.tell() + rows * np.dtype(kind).itemsize * int(np.prod(row, dtype=np.int64)))

    def rows(self, first: int, last: int, *, write: bool = True) -> dict[str, np.ndarray]:
        """Map the rows [first, last) of every column."""
        return {name: self._mapped(name, first, last, "r+" if write else "r") for name in self.kinds}

    def append(self, first: int, columns: Mapping[str, np.ndarray]) -> None:
        """Write rows from `first` on, which must be the end of the file or within its size."""
        for name, values in columns.items():
            kind, row = self.kinds[name]
            with open(self.folder / f"{name}.npy", "r+b") as file:
                start = _data(file)
                file.seek(start + first * np.dtype(kind).itemsize * int(np.prod(row, dtype=np.int64)))
                np.ascontiguousarray(values, kind).tofile(file)

    def _mapped(self, name: str, first: int, last: int, mode: str) -> np.ndarray:
        kind, row = self.kinds[name]
        path = self.folder / f"{name}.npy"
        if first == last:
            return np.zeros((0, *row), kind)
        with open(path, "rb") as file:
            offset = _data(file) + first * np.dtype(kind).itemsize * int(np.prod(row, dtype=np.int64))
        return np.asarray(np.memmap(path, kind, mode, offset, (last - first, *row)))


def _data(file) -> int:
    """Return the offset of the data in an `.npy` file of format 1.0, where two bytes give the length of the header.

    The header is not parsed: threads append columns at once, in which the parser of literals of Python 3.11 may fail.
    """
    npy.read_magic(file)
    length = int.from_bytes(file.read(2), "little")
    return file.tell() + length
