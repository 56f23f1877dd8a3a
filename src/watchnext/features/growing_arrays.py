"""Columns on disk that grow by a stretch of rows: plain `.npy` files, so that readers map them as they are."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.lib import format as npy


class Columns:
    """A folder of `.npy` files of equal length, one a column. `kinds` is column > (dtype, shape of one row)."""

    def __init__(self, folder: Path, kinds: Mapping[str, tuple[type, tuple[int, ...]]]) -> None:
        self.folder, self.kinds = Path(folder), kinds

    def resize(self, rows: int) -> None:
        """Give every column so many rows: the first ones stay, those past the end go, new ones are zero."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for name, (kind, row) in self.kinds.items():
            path = self.folder / f"{name}.npy"
            with suppress(FileExistsError), open(path, "xb"):
                pass
            with open(path, "r+b") as file:
                header = {"descr": npy.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": (rows, *row)}
                # numpy leaves room in a header for the first dimension to grow: it keeps its length, and the rows their place
                npy.write_array_header_1_0(file, header)
                os.ftruncate(file.fileno(), file.tell() + rows * np.dtype(kind).itemsize * int(np.prod(row, dtype=np.int64)))

    def rows(self, first: int, last: int, *, write: bool = True) -> dict[str, np.ndarray]:
        """Rows [first, last) of every column, mapped."""
        return {name: self._mapped(name, first, last, "r+" if write else "r") for name in self.kinds}

    def append(self, first: int, columns: Mapping[str, np.ndarray]) -> None:
        """Write the rows from `first` on; the file ends there before, or `resize` made them."""
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
    """Where the data of an `.npy` file begins."""
    npy.read_magic(file)
    npy.read_array_header_1_0(file)
    return file.tell()
