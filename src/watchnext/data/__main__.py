"""`python -m watchnext.data tables` and what else is done to raw logs."""

import hashlib
import json
from pathlib import Path

import polars as pl
from omegaconf import DictConfig

from watchnext.data.canonical import sources_of
from watchnext.data.findings import findings
from watchnext.data.guide import guide
from watchnext.data.tables import OUTCOMES, TABLES, DataError
from watchnext.data.validation import validate
from watchnext.dispatch import dispatch, instantiate, plain
from watchnext.schema import FeatureSchema, SchemaError


def hash_of(folder: Path) -> str:
    """16 hex digits over the bytes of the three tables."""
    return hashlib.sha256(b"".join((folder / f"{name}.parquet").read_bytes() for name in TABLES)).hexdigest()[:16]


def tables(config: DictConfig) -> None:
    """Bring the raw log of `data` into the canonical, validated tables."""
    schema = FeatureSchema.load(f"conf/features/{config.data.features}.yaml")
    loaded = instantiate(config.data.loader).read()
    checked = validate(loaded.tables, schema)
    rejected = pl.concat([loaded.rejected, checked.rejected])
    folder = Path(config.data.outputs) / "tables"
    checked.tables.write(folder)
    rejected.write_parquet(folder / "rejected.parquet")
    impressions = checked.tables.impressions
    report = {
        "hash": hash_of(folder),
        "impressions": len(impressions),
        "users": len(checked.tables.users),
        "videos": len(checked.tables.videos),
        "first_day": str(impressions["day"].min()),
        "last_day": str(impressions["day"].max()),
        "rates": {name: round(impressions[name].mean(), 6) for name in OUTCOMES},
        "mean_watch_s": round(impressions["watch_ms"].mean() / 1000, 3),
        "rejected": {
            f"{table} {reason}": n
            for table, reason, n in rejected.group_by("table", "reason").len().sort("table", "reason").rows()
        },
        "filled": dict(checked.filled),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=1))
    print(
        f"{folder}: {report['impressions']:,} impressions, {report['users']:,} users, {report['videos']:,} videos; "
        f"rejected {len(rejected):,} rows"
    )
    for reason, count in report["rejected"].items():
        print(f"  rejected {count:>8,}  {reason}")


def world(config: DictConfig) -> None:
    """Simulate a platform and write its log to `out` (data=world data.loader.users=... out=DIR)."""
    if config.data.name != "world" or not config.out:
        raise DataError(
            f"data is {config.data.name!r} and out is {config.out!r}; run `python -m watchnext.data world data=world out=DIR`"
        )
    instantiate(config.data.loader).read().tables.write(Path(config.out))


def schema_of(config: DictConfig) -> FeatureSchema:
    """That of `features=NAME`, else that of `data`."""
    if config.get("features"):
        return FeatureSchema.from_mapping(plain(config.features))
    return FeatureSchema.load(Path(f"conf/features/{config.data.features}.yaml"))


def check(config: DictConfig) -> int:
    """Look through the three tables in PATH, Parquet or CSV, and print all that is wrong; exits 1 if anything is."""
    if config.path is None or not Path(config.path).is_dir():
        raise DataError(f"PATH is {config.path}, expected a folder; run `python -m watchnext.data check PATH features=NAME`")
    schema = schema_of(config)
    sources = sources_of(Path(config.path), schema, repair="python -m watchnext.data describe")
    found = findings(sources, schema)
    print(", ".join(f"{len(source.frame):,} {name}" for name, source in sources.items()) + f" in {config.path}")
    print("\n".join(map(str, found)) or "nothing is wrong")
    if found:
        print("\nRows count from 0 within a file. `python -m watchnext.data describe` says what is expected")
    return int(bool(found))


def describe(config: DictConfig) -> None:
    """Print the three tables as Markdown: every column with its type, unit and bounds, and how files are laid out."""
    print(guide(schema_of(config)))


if __name__ == "__main__":
    commands = {"tables": tables, "world": world, "check": check, "describe": describe}
    dispatch("watchnext.data", commands, (DataError, SchemaError), leading={"check": "path"})
