"""The tables stage: a raw log > canonical, validated tables on disk. For a log in daily files, only changed days are read.

The stage also writes report.json, and checks.json with the source and the check results of every day.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import polars as pl
from tqdm import tqdm

from watchnext.code_digest import code_of
from watchnext.data.consistency import Evidence, contradictions, merged, offset_hint, unreadable
from watchnext.data.loaders.canonical import CanonicalTables, DayFiles
from watchnext.data.loaders.loaded import REJECTED, Loader
from watchnext.data.storage import Day, StoredTables, begin, by_day, finish, read_parquet, write_day
from watchnext.data.structure import absent_outcomes
from watchnext.data.tables import OUTCOMES, DataError, Tables
from watchnext.data.validation import UNKNOWN, Validated, validate, validate_day
from watchnext.schema import FeatureSchema

BATCH_BYTES = 1 << 18  # smaller days are read and checked together, as one alone costs about as much


@dataclass(frozen=True)
class BatchResult:
    """Result of one day, or of a few small ones.

    source    sha256 of the source files
    days      the days that were written
    rejected  rejected rows, columns as in REJECTED
    filled    "table.column" > number of values that were filled in
    sums      sums over the rows
    notes     conversions that were made while reading
    evidence  counts about columns that may contradict each other
    """

    source: str
    days: list[dict]
    rejected: list
    filled: dict[str, int]
    sums: dict[str, int]
    notes: list[str]
    evidence: Evidence


@dataclass(frozen=True)
class StageResult:
    """Result of a run: the report, and the number of unchanged days, which were not read again."""

    report: dict
    unchanged_days: int


def write_stage(loader: Loader, schema: FeatureSchema, folder: Path, *, utc_offset_h: float | None = None) -> StageResult:
    """Update `folder` with the log that `loader` reads. `day` is expected to be the calendar date at `utc_offset_h`.

    Raises DataError before anything is written for wrong columns and for an empty catalogue. Raises it and leaves the folder
    unfinished if columns contradict each other, or if every row is rejected.
    """
    folder = Path(folder)
    in_days = loader.by_day() if isinstance(loader, CanonicalTables) else None
    if in_days is None:
        loaded = loader.read()
        checked, unchanged = validate(loaded.tables, schema), 0
        refused = loaded.rejected
        _require_videos(checked, refused, schema)
        begin(folder, checked.tables)
        results = [_write(folder, checked.tables.impressions, "", [], {}, (), {})]
    else:
        loaded = loader.entities(in_days)
        checked = validate(loaded.tables, schema)
        refused = loaded.rejected
        _require_videos(checked, refused, schema)
        known = _reusable(folder, checked.tables, schema)
        begin(folder, checked.tables)
        results = []
        with tqdm(total=len(in_days), desc="tables", unit=" days") as progress:
            for batch in _batches(in_days):
                results.append(known.get(_source(batch)) or _read(loader, batch, checked, schema, folder))
                progress.update(len(batch))
        batches = zip(_batches(in_days), results, strict=True)
        unchanged = sum(len(batch) for batch, each in batches if each is known.get(each.source))
    # For a log in days, `checked` holds users and videos only.
    evidence = merged(each.evidence for each in results) if in_days is not None else checked.evidence
    if isinstance(loader, CanonicalTables):  # other loaders check their known layouts themselves
        heights = {name: len(frame) for name, frame in vars(loaded.tables).items()}
        lost = {name: refused.filter(table=name)["row"].n_unique() for name in heights}
        evidence = merged([evidence, unreadable(refused, {name: heights[name] + lost[name] for name in heights})])
    suspicious = _require_consistent(evidence, schema)
    if utc_offset_h is not None and (hint := offset_hint(evidence, utc_offset_h)):
        suspicious.append(f"impressions: {hint}")
    facts = {"under": _fingerprints(schema), "days": [asdict(each) for each in results]}
    (folder / "checks.json").write_text(json.dumps(facts, indent=1))
    rejected = pl.concat(
        [refused, checked.rejected, *(pl.DataFrame(each.rejected, schema=REJECTED, orient="row") for each in results)]
    )
    rejected.write_parquet(folder / "rejected.parquet")
    days = [Day(**day) for each in results for day in each.days]
    _require_sound(days, rejected, folder)
    finish(folder, days)
    report = _report(StoredTables.open(folder), rejected, results, dict(checked.filled), [*loaded.notes, *suspicious])
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    return StageResult(report, unchanged)


def _require_consistent(evidence: Evidence, schema: FeatureSchema) -> list[str]:
    """Return warnings about suspicious columns. Raises DataError for columns that contradict each other."""
    contradicting = contradictions(evidence, schema)
    if refused := [f"{one.table}: {one.message}" for one in contradicting if one.refused]:
        raise DataError("\n".join([*refused, "run `python -m watchnext.data check PATH` to see all errors"]))
    return [f"suspicious: {one.table}: {one.message}" for one in contradicting]


def _require_videos(checked: Validated, refused: pl.DataFrame, schema: FeatureSchema) -> None:
    if checked.tables.videos.is_empty():
        _require_consistent(checked.evidence, schema)  # which may name the reason why none is within its bounds
        rejected = pl.concat([refused, checked.rejected]).filter(table="videos")
        reasons = "; ".join(f"{reason}: {rows}" for reason, rows in rejected["reason"].value_counts(sort=True).rows())
        raise DataError(
            f"the catalogue is empty: no row of the videos table passes ({reasons or 'it has none'}), expected at least one "
            "video; run `python -m watchnext.data check PATH` to see the errors of a table, `describe` to see what it must hold"
        )


def _require_sound(days: Sequence[Day], rejected: pl.DataFrame, folder: Path) -> None:
    """Raise DataError if every impression was rejected."""
    reasons = rejected.filter(table="impressions")["reason"].value_counts(sort=True).rows()
    if reasons and not days:
        raise DataError(
            f"no impression passes ({'; '.join(f'{reason}: {rows}' for reason, rows in reasons)}); look at "
            f"{folder / 'rejected.parquet'}, or leave the impressions out to build from the catalogue alone"
        )


def _fingerprints(schema: FeatureSchema) -> dict[str, str]:
    """Fingerprint the schema and the code, which decide the output of a day together with its data."""
    return {"schema": schema.fingerprint, "code": code_of(__name__)}


def _reusable(folder: Path, tables: Tables, schema: FeatureSchema) -> dict[str, BatchResult]:
    """Return the batches of the last run that are still valid, by source.

    They need the same schema and code. No user or video may be gone, and none may be new that a rejected row names.
    """
    if not (folder / "days.json").exists() or not (folder / "checks.json").exists():
        return {}
    facts = json.loads((folder / "checks.json").read_text())
    grown = False
    for name, key in (("users", "user_id"), ("videos", "video_id")):
        before, now = read_parquet(folder / f"{name}.parquet", repair="dvc repro tables")[key], getattr(tables, name)[key]
        if before.dtype != now.dtype or not before.is_in(now.implode()).all():
            return {}
        grown |= len(now) > len(before)
    days = [BatchResult(**each) for each in facts["days"]] if facts["under"] == _fingerprints(schema) else []
    return {each.source: each for each in days if not (grown and any(row[2] in UNKNOWN for row in each.rejected))}


def _batches(in_days: Mapping[str, DayFiles]) -> list[list[DayFiles]]:
    """Group the days in order, small ones together."""
    batches: list[list[DayFiles]] = []
    size = BATCH_BYTES
    for files in in_days.values():
        if size >= BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(files)
        size += sum(file.stat().st_size for file in files.files)
    return batches


def _source(batch: Sequence[DayFiles]) -> str:
    return hashlib.sha256("".join(files.day + files.sha256 for files in batch).encode()).hexdigest()


def _read(
    loader: CanonicalTables, batch: Sequence[DayFiles], checked: Validated, schema: FeatureSchema, folder: Path
) -> BatchResult:
    """Read, check and write the days of a batch."""
    read = loader.read_days(batch)
    validated = validate_day(read.rows(), checked.tables.users, checked.tables.videos, schema)
    rejected = [list(row) for row in pl.concat([read.refused, validated.rejected]).rows()]
    evidence = merged([validated.evidence, unreadable(read.refused, {"impressions": len(read.frame)})])
    facts = (dict(validated.filled), read.notes, evidence)
    return _write(folder, validated.tables.impressions, _source(batch), rejected, *facts)


def _write(
    folder: Path, impressions: pl.DataFrame, source: str, rejected: list, filled: dict, notes: Sequence[str], evidence: Evidence
) -> BatchResult:
    written = [asdict(write_day(folder, day, rows)) for day, rows in by_day(impressions)]
    sums = {name: int(impressions[name].sum()) for name in (*OUTCOMES, "watch_ms")}
    return BatchResult(source, written, rejected, filled, sums, [*notes], evidence)


def _report(
    stored: StoredTables, rejected: pl.DataFrame, results: Sequence[BatchResult], filled: dict[str, int], notes: Sequence[str]
) -> dict:
    rows = sum(day.rows for day in stored.days)
    sums = {name: sum(each.sums[name] for each in results) for name in (*OUTCOMES, "watch_ms")}
    for each in results:
        for name, count in each.filled.items():
            filled[name] = filled.get(name, 0) + count
    reasons = rejected.group_by("table", "reason").len().sort("table", "reason")
    return {
        "hash": stored.hash,
        "impressions": rows,
        "users": len(stored.users),
        "videos": len(stored.videos),
        "first_day": stored.days[0].day if rows else None,
        "last_day": stored.days[-1].day if rows else None,
        "rates": {name: round(sums[name] / rows, 6) if rows else None for name in OUTCOMES},
        "mean_watch_s": round(sums["watch_ms"] / rows / 1000, 3) if rows else None,
        "rejected": {f"{table} {reason}": n for table, reason, n in reasons.rows()},
        "filled": filled,
        "notes": [*dict.fromkeys([*notes, *(note for each in results for note in each.notes)]), *absent_outcomes(filled, rows)],
    }
