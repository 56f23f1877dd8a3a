"""Convert text and columns of other types to the types of the tables, if the meaning is unambiguous.

An ambiguous value becomes null and its row is rejected. A column of an inconvertible type stays unchanged, and
`structure.sound_columns` rejects it.
"""

import ast
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

import polars as pl

from watchnext.data.structure import Expected
from watchnext.data.tables import Id

Reader = Callable[[pl.Series], pl.Series]

MISSING = ("nan", "NaN", "NaT", "<NA>", "None", "null", "NULL")  # words that pandas and SQL write for null
WHOLE_NUMBER = r"^(0|-?[1-9][0-9]{0,17})$"  # survives a round trip within 64 bits
NUMBER = r"^-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-]?[0-9]+)?$"
ZERO_FRACTION = r"^([+-]?[0-9]+)\.0*$"  # 12.0, as pandas writes whole numbers beside nulls
EXPONENT = r"^-?[0-9]\.[0-9]+E[0-9]+$"  # 1.2E7, as Spark does; a spreadsheet's 1.2E+07 has lost digits
CLOCK = r"[T ][0-9]{2}:[0-9]{2}.*$"  # the time within a timestamp
EXACT = 2**53  # larger floats may stand for several whole numbers,
NARROW = {pl.Float32: 2**24, pl.Float16: 2**11}  # narrower floats sooner
FIRST, LAST = date(1, 1, 1), date(9999, 12, 31)  # dates with a year of four digits
BOOLEANS = {"0": False, "1": True, "false": False, "true": True}
OTHER_BOOLEANS = {"0.0": False, "1.0": True, "f": False, "t": True, "n": False, "y": True, "no": False, "yes": True}


@dataclass(frozen=True)
class Conversion:
    """Converted `values`; `refused` marks inconvertible values, for `reason`; `notes` describe the conversion."""

    values: pl.Series
    refused: pl.Series
    reason: str
    notes: tuple[str, ...] = ()


# ---- which type --------------------------------------------------------------------------------------------------------


def number_ids(texts: Iterable[pl.Series]) -> bool:
    """Return True if all ids written as text are numbers, with at least one. Some may be written as 12.0 or 1e5."""
    present = [_without_null_words(text.str.strip_chars()).drop_nulls() for text in texts]
    if not any(map(len, present)):
        return False
    if any(text.str.contains(r"\.|[eE]").any() for text in present):
        return all(text.str.contains(NUMBER).all() for text in present)
    return _whole_numbers(present)


def target_type(
    one: Expected, kinds: Iterable[pl.DataType], texts: Sequence[pl.Series], number_ids: Collection[str]
) -> pl.DataType | None:
    """Return the type for a column with `kinds` in some files and untyped `texts` in others; None if none fits."""
    kinds = {plain(kind) for kind in kinds if kind != pl.Null}
    if one.types == Id:
        is_number = all(kind.is_numeric() for kind in kinds) if kinds else one.name in number_ids
        return pl.Int64() if is_number else pl.String()
    if one.column is not None:
        kind = one.types[0]
        return kind() if isinstance(kind, type) else kind
    if len(kinds) == 1 and not texts and (kind := next(iter(kinds))) in one.types:
        return kind
    return FEATURES[one.feature.kind](kinds, [_without_null_words(text).drop_nulls() for text in texts])


def _category(kinds: set[pl.DataType], texts: Sequence[pl.Series]) -> pl.DataType | None:
    if pl.String() in kinds or (texts and not _whole_numbers(text.str.replace(r"\.0$", "") for text in texts)):
        return pl.String()
    return pl.Int64() if all(kind.is_numeric() for kind in kinds) else None


def _number(kinds: set[pl.DataType], texts: Sequence[pl.Series]) -> pl.DataType:
    return pl.Int64() if kinds and not texts and all(kind.is_integer() for kind in kinds) else pl.Float64()


def _sequence(kinds: set[pl.DataType], texts: Sequence[pl.Series]) -> pl.DataType:
    whole = kinds and not texts and all(isinstance(kind, pl.List) and kind.inner.is_integer() for kind in kinds)
    return pl.List(pl.Int64) if whole else pl.List(pl.String)


FEATURES = {"categorical": _category, "numerical": _number, "sequence": _sequence}


def _whole_numbers(texts: Iterable[pl.Series]) -> bool:
    """Return True if every value is a whole number, with at least one."""
    texts = list(texts)
    return any(map(len, texts)) and all(text.str.contains(WHOLE_NUMBER).all() for text in texts)


def plain(kind: pl.DataType) -> pl.DataType:
    """Return a type without its storage form: dictionaries and bytes are text, fixed-size lists are lists."""
    if isinstance(kind, pl.Categorical | pl.Enum | pl.Binary):
        return pl.String()
    return pl.List(plain(kind.inner)) if isinstance(kind, pl.Array | pl.List) else kind


# ---- values ------------------------------------------------------------------------------------------------------------


def convert(values: pl.Series, kind: pl.DataType, one: Expected, *, is_text: bool) -> Conversion | None:
    """Convert `values` to type `kind`; None if their type is inconvertible. `is_text` marks untyped values, as from a CSV."""
    before = values.dtype
    if before == kind and kind != pl.Date and not (kind == pl.String and (is_text or one.types == Id)):
        return Conversion(values, pl.repeat(False, len(values), dtype=pl.Boolean, eager=True), "")
    try:
        given = values.cast(plain(before)) if plain(before) != before else values
    except pl.exceptions.PolarsError:  # bytes that are not text
        return None
    readers = _text_readers(kind, one) if given.dtype == pl.String else _typed_readers(given.dtype, kind, one)
    if not readers:
        return None
    given, notes = _without_marks(given, kind, one) if given.dtype == pl.String else _without_nan(given, kind)
    if not is_text and before != kind:
        notes.insert(0, f"{before}, read as {kind}")
    read = pl.repeat(None, len(values), dtype=kind, eager=True)
    for note, reader in readers:
        unread = given.is_not_null() & read.is_null()
        if unread.any():
            more = reader(_only(given, unread))
            notes += [note] if note and more.is_not_null().any() else []
            read = read.zip_with(read.is_not_null(), more)
    refused = given.is_not_null() & read.is_null()
    return Conversion(read.alias(values.name), refused, _reason(one, given.dtype, kind), tuple(notes))


def _only(values: pl.Series, mask: pl.Series) -> pl.Series:
    """Keep the values under `mask`; the others become null."""
    return values if mask.all() else values.zip_with(mask, pl.repeat(None, len(values), dtype=values.dtype, eager=True))


def _reason(one: Expected, before: pl.DataType, kind: pl.DataType) -> str:
    if kind == pl.String:
        return f"{one.name} is a number with a fraction of 0, expected 12 for 12.0"
    if kind == pl.Boolean:
        return f"{one.name} is not one of 0, 1, true, false"
    if kind == pl.Date:
        return f"{one.name} is not a date like 2025-03-10"
    if kind == pl.List(pl.Float32):
        return f"{one.name} is not numbers separated by |"
    if kind.is_integer() and before in NARROW:
        return f"{one.name} is not a whole number that {before} holds exactly, expected Int64 or Float64"
    if kind.is_integer():
        other = ", nor a timestamp like 2025-03-10 08:00:00Z" if before == pl.String and _is_time(one) else ""
        return f"{one.name} is not a whole number of type {kind}{other}"
    return f"{one.name} is not a number" if kind.is_float() else f"{one.name} is not of type {kind}"


def _without_null_words(text: pl.Series) -> pl.Series:
    return _only(text, ~text.is_in(MISSING).fill_null(False))


def _without_marks(text: pl.Series, kind: pl.DataType, one: Expected) -> tuple[pl.Series, list[str]]:
    """Strip blanks and null words such as nan; in a categorical column these words are categories."""
    stripped = text.str.strip_chars()
    is_noted = (one.types == Id or kind == pl.String) and (stripped != text).any()
    notes = [f"blanks around {'an id' if one.types == Id else 'a word'} are left out"] if is_noted else []
    if kind == pl.String and one.types != Id:
        return _only(stripped, (stripped != "").fill_null(True)) if is_noted else text, notes
    known = _without_null_words(stripped)
    if known.null_count() > text.null_count():
        notes.append("words such as nan, None and null count as missing")
    return (known if kind == pl.String else _only(known, (known != "").fill_null(True))), notes


def _without_nan(values: pl.Series, kind: pl.DataType) -> tuple[pl.Series, list[str]]:
    if not values.dtype.is_float() or kind.is_float() or not values.is_nan().any():
        return values, []
    return values.fill_nan(None), ["NaN counts as missing"]


# ---- text > types ------------------------------------------------------------------------------------------------------


def _text_readers(kind: pl.DataType, one: Expected) -> list[tuple[str, Reader]]:
    """Return (note, reader) pairs; each reads the values that earlier ones could not. The first reads the canonical form."""
    if kind == pl.String:
        return [("", _text_id if one.types == Id else lambda text: text)]
    if kind == pl.Boolean:
        return [("", partial(_word, words=BOOLEANS)), ("words such as 1.0 or t", partial(_word, words=OTHER_BOOLEANS))]
    if kind == pl.Date:
        return [("" if reader is DATES[0] else "dates not written like 2025-03-10", reader) for reader in DATES]
    if isinstance(kind, pl.List):
        return [("", partial(_split, kind=kind)), ("lists in brackets", partial(_in_brackets, kind=kind))]
    first = ("", lambda text: text.cast(kind, strict=False))
    return [first, *_whole_readers(kind, is_time=_is_time(one))] if kind.is_integer() else [first]


def _whole_readers(kind: pl.DataType, *, is_time: bool) -> Iterator[tuple[str, Reader]]:
    yield "whole numbers written like 12.0", lambda text: _small(text.str.extract(ZERO_FRACTION), kind)
    yield "whole numbers written like 1.2E7", lambda text: _from_float(_only(text, text.str.contains(EXPONENT)), kind)
    if is_time:
        yield "timestamps with a zone, read as ms UTC", _zoned
        yield "timestamps without a zone, taken as UTC", _naive


def _is_time(one: Expected) -> bool:
    return one.column is not None and "UTC" in one.column.unit


def _text_id(text: pl.Series) -> pl.Series:
    """Reject ids such as 12.0: they were the number 12, and the text would be another id."""
    return _only(text, ~text.str.contains(ZERO_FRACTION).fill_null(False))


def _small(text: pl.Series, kind: pl.DataType) -> pl.Series:
    integers = text.cast(pl.Int64, strict=False)
    return _only(integers, (integers.abs() <= EXACT).fill_null(False)).cast(kind, strict=False)


def _word(text: pl.Series, *, words: Mapping[str, bool]) -> pl.Series:
    return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)


DATES = (
    lambda text: text.str.to_date("%Y-%m-%d", strict=False),
    lambda text: text.str.to_date("%Y%m%d", strict=False),
    lambda text: text.str.to_date("%Y/%m/%d", strict=False),
    lambda text: text.str.replace(CLOCK, "").str.to_date("%Y-%m-%d", strict=False),
)


def dates(text: pl.Series) -> pl.Series:
    """Parse dates, year first, in the forms of people, Hive and Spark; other text becomes null."""
    return pl.select(pl.coalesce(reader(text) for reader in DATES)).to_series()


def _with_blank(text: pl.Series) -> pl.Series:
    """Separate day and time of a timestamp by a blank."""
    return text.str.replace(r"^([0-9-]+)T", "${1} ")


def _zoned(text: pl.Series) -> pl.Series:
    """Parse timestamps with a zone (Z, UTC, +01 or +01:00) to ms UTC."""
    normalised = _with_blank(text).str.replace(r" ?(Z|UTC)$", "+00:00").str.replace(r" ?([+-][0-9]{2})$", "${1}:00")
    return normalised.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%z", strict=False, time_unit="ms", time_zone="UTC").dt.epoch("ms")


def _naive(text: pl.Series) -> pl.Series:
    """Parse timestamps or dates without a zone to ms UTC."""
    normalised = _with_blank(text).str.replace(r"^([0-9]{4})/([0-9]{1,2})/([0-9]{1,2})", "${1}-${2}-${3}")
    forms = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
    parsed = (normalised.str.strptime(pl.Datetime("ms"), form, strict=False) for form in forms)
    return pl.select(pl.coalesce(parsed)).to_series().dt.epoch("ms")


def _split(text: pl.Series, *, kind: pl.DataType) -> pl.Series:
    """Split a|b."""
    return _elements(_only(text, ~text.str.contains(r"^[\[{]").fill_null(False)).str.split("|"), kind)


def _in_brackets(text: pl.Series, *, kind: pl.DataType) -> pl.Series:
    """Parse ["a", "b"], as JSON and Python write it."""
    lists = [None if value is None else _literal(value) for value in text]
    return _elements(pl.Series(lists, dtype=pl.List(pl.String)), kind)


def _literal(text: str) -> list[str] | None:
    try:
        literal = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return None
    return [*map(str, literal)] if isinstance(literal, list | tuple) else None


def _elements(lists: pl.Series, kind: pl.DataType) -> pl.Series:
    """Convert the elements of lists; null if one is inconvertible."""
    read = lists.cast(kind, strict=False)
    return _only(
        read, (read.list.eval(pl.element().is_null()).list.any() == lists.list.eval(pl.element().is_null()).list.any())
    )


# ---- types > types -----------------------------------------------------------------------------------------------------


def _typed_readers(before: pl.DataType, kind: pl.DataType, one: Expected) -> list[tuple[str, Reader]]:
    """Return (note, reader) pairs for typed values, at most one."""
    cast = ("", lambda values: values.cast(kind, strict=False))
    if kind.is_integer():
        return _to_whole(before, kind, one)
    if kind == pl.Boolean and before.is_numeric():
        return [("", lambda values: _only(values == 1, ((values == 0) | (values == 1)).fill_null(False)))]
    if kind == pl.Date and before.is_integer():
        return [("", lambda values: DATES[1](values.cast(pl.String)))]
    if kind == pl.Date and isinstance(before, pl.Datetime | pl.Date):
        return [("", lambda values: _only(days := values.cast(pl.Date), days.is_between(FIRST, LAST).fill_null(False)))]
    if kind.is_float() and before.is_numeric():
        return [cast]
    if kind == pl.String and one.types != Id and before.is_integer():
        return [cast]
    if isinstance(kind, pl.List) and isinstance(before, pl.List):
        is_sound = (
            before.inner.is_numeric() if kind.inner.is_float() else before.inner == pl.String or before.inner.is_integer()
        ) or before.inner == pl.Null  # all of them are empty
        return [("", lambda values: _elements(values, kind))] if is_sound else []
    return []


def _to_whole(before: pl.DataType, kind: pl.DataType, one: Expected) -> list[tuple[str, Reader]]:
    if before.is_integer():
        return [("", lambda values: values.cast(kind, strict=False))]
    if before.is_float():
        return [("", lambda values: _from_float(values, kind))]
    if before.is_decimal():
        return [
            ("", lambda values: _only(read := values.cast(kind, strict=False), (read.cast(before) == values).fill_null(False)))
        ]
    if _is_time(one) and (before == pl.Date or isinstance(before, pl.Datetime)):
        zone = getattr(before, "time_zone", None)
        return [
            ("" if zone else "without a zone, taken as UTC", lambda values: values.cast(pl.Datetime("ms", zone)).dt.epoch("ms"))
        ]
    if isinstance(before, pl.Duration) and one.column is not None and one.column.unit.startswith("ms"):
        return [("", lambda values: values.dt.total_milliseconds())]
    return []


def _from_float(values: pl.Series, kind: pl.DataType) -> pl.Series:
    floats, most = values.cast(pl.Float64, strict=False), NARROW.get(values.dtype, EXACT)
    return _only(floats, ((floats == floats.round()) & (floats.abs() <= most)).fill_null(False)).cast(kind, strict=False)
