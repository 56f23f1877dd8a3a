"""The CSV layout of a table.

- UTF-8, a header line, fields separated by commas, quoted with `"` if they hold one. An empty field is null. Tabs,
  semicolons or `|` as separators, UTF-16, and files ending in .gz, .bz2 or .zst are read too.
- A list is `a|b`, a vector `0.5|-1.25`.
- A boolean is 0, 1, true or false, in any case; a date is ISO: 2025-03-10.
- An id column is numeric if all its values in the three tables are whole numbers without leading zeros, else text. The same
  holds for a raw categorical feature.
"""

import difflib
from collections.abc import Collection
from pathlib import Path

import polars as pl
import pyarrow as pa
from pyarrow import csv

from watchnext.data.tables import DataError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "|"}
NULLS = ["", r"\N"]  # the second is Hive's and MySQL's
SAMPLE = 1 << 16
OTHERS = {  # first bytes > what a file is, and what helps
    b"\x1f\x8b": ("packed by gzip", "let its name end in .csv.gz"),
    b"BZh": ("packed by bzip2", "let its name end in .csv.bz2"),
    b"\x28\xb5\x2f\xfd": ("packed by zstd", "let its name end in .csv.zst"),
    b"PK\x03\x04": ("a zip archive or a workbook", "unpack it, or save it as CSV"),
    b"PAR1": ("Parquet", "let its name end in .parquet"),
    b"\xff\xfe\0\0": ("UTF-32", "convert it: `iconv -f UTF-32 -t UTF-8`"),
    b"\0\0\xfe\xff": ("UTF-32", "convert it: `iconv -f UTF-32 -t UTF-8`"),
}
UNNAMED = "Unnamed: 0"  # pandas writes its row numbers without a name and reads them so
BLOCK = 1 << 24  # most bytes of a row


def read_csv(file: Path, known: Collection[str]) -> tuple[pl.DataFrame, list[str]]:
    """Read every column as strings, with notes on deviations from the layout above; `known` columns decide the separator.

    Raises DataError for a row with another number of fields than the header, for a file of another format by its first bytes,
    and for a first line that is not a header; NoDataError, OSError, ArrowInvalid for other invalid CSVs.
    """
    with pa.input_stream(str(file), compression="detect") as opened:
        sample = opened.read(SAMPLE)
    if not sample.strip():
        raise pl.exceptions.NoDataError(f"{file} is empty")
    for start, (form, help_) in OTHERS.items():
        if sample.startswith(start):
            raise DataError(f"{file} is {form}, expected text; {help_}")
    encoding = _encoding(sample)
    header = sample.decode(encoding, errors="replace").lstrip("\ufeff").splitlines()[0]
    separator = max(SEPARATORS, key=lambda one: len({*_names(header, one)} & {*known}))
    if not any(difflib.get_close_matches(name.lower(), known, 1) for name in _names(header, separator)):
        raise DataError(
            f"{file} begins with {header[:80]!r}, which names no column; expected a header line with names such as "
            f"{', '.join([*known][:3])}"
        )
    notes = [f"fields are separated by {SEPARATORS[separator]}"] if separator != "," else []
    notes += [f"the text is {encoding.upper()}"] if encoding != "utf-8" else []
    table = _table(file, encoding, separator)
    names = [name.strip() or UNNAMED for name in table.column_names]
    if len({*names}) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{file} names the column {twice[0]!r} twice, expected every column once; remove one")
    frame = pl.from_arrow(table.rename_columns(names))
    is_header = (pl.col(name).str.strip_chars() == name for name in names)
    repeated_headers = frame.select(pl.all_horizontal(is_header).fill_null(False)).to_series()
    if repeated_headers.any():  # files that were put behind one another
        frame = frame.filter(~repeated_headers)
        notes.append(f"lines that repeat the header are left out ({repeated_headers.sum():,})")
    return frame, notes


def _names(header: str, separator: str) -> list[str]:
    return [name.strip(' \t"') for name in header.split(separator)]


def _encoding(sample: bytes) -> str:
    """UTF-16 has a mark, or, as most of a header is ASCII, every other byte is 0."""
    if sample[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    if sample[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if sample[:1] == b"\0" else "utf-8"


def _table(file: Path, encoding: str, separator: str) -> pa.Table:
    try:
        return _read(file, encoding, separator, handler=None, use_threads=True)
    except pa.ArrowInvalid as error:
        if "UTF8" in str(error):
            raise DataError(f"{file} is not UTF-8 ({error}); convert it: `iconv -f WINDOWS-1252 -t UTF-8`") from error
        ragged = []
        _read(file, encoding, separator, handler=lambda row: ragged.append(row) or "skip", use_threads=False)
        if not ragged:
            raise
        first = ragged[0]
        raise DataError(
            f"{file}: {len(ragged)} rows have another number of fields than the header's {first.expected_columns}; line "
            f"{first.number} has {first.actual_columns}: {first.text[:80]!r}; quote what holds the separator or a line break"
        ) from error


def _read(file: Path, encoding: str, separator: str, *, handler, use_threads: bool) -> pa.Table:
    return csv.read_csv(
        str(file),
        read_options=csv.ReadOptions(encoding=encoding, block_size=BLOCK, use_threads=use_threads),
        parse_options=csv.ParseOptions(delimiter=separator, newlines_in_values=True, invalid_row_handler=handler),
        convert_options=csv.ConvertOptions(default_column_type=pa.string(), strings_can_be_null=True, null_values=NULLS),
    )
