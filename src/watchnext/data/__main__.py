"""`python -m watchnext.data tables | compare | check | describe | erase`: commands on raw logs, and erasure."""

import subprocess
import sys
from pathlib import Path

from omegaconf import DictConfig

from watchnext.cli import dispatch, instantiate, plain
from watchnext.data.card.statistics import statistics_of
from watchnext.data.check.describe import describe_tables
from watchnext.data.check.log_checks import check_log, notes
from watchnext.data.check.profile import profile
from watchnext.data.loaders.canonical import CanonicalTables, read_sources
from watchnext.data.stage import write_stage
from watchnext.data.structure import sound_columns
from watchnext.data.tables import DataError, Tables
from watchnext.schema import FeatureSchema, SchemaError

NO_LOG = "there are no impressions: the release will hold the catalogue alone (content and freshness), no trained model"


def require_watched(config: DictConfig) -> None:
    """Raise DataError if DVC watches another path than the loader reads, as it would miss a new log."""
    loader = config.data.loader
    read = loader.get("root") or loader.get("path")
    if config.reads and read and Path(config.reads).resolve() != Path(read).resolve():
        raise DataError(
            f"params.yaml has DVC watch {config.reads!r}, but the loader of data={config.data.name} reads {read!r}; "
            f"write `reads: {read}` in params.yaml"
        )


def tables(config: DictConfig) -> None:
    """Convert the raw log of `data` to canonical, validated tables; only changed days of a log in daily files."""
    require_watched(config)
    schema = FeatureSchema.load(f"conf/features/{config.data.features}.yaml")
    folder = Path(config.data.outputs) / "tables"
    written = write_stage(instantiate(config.data.loader), schema, folder, utc_offset_h=config.data.utc_offset_h)
    report, rejected = written.report, sum(written.report["rejected"].values())
    print(
        f"{folder}: {report['impressions']:,} impressions, {report['users']:,} users, {report['videos']:,} videos; "
        f"rejected {rejected:,} rows" + (f"; {written.unchanged_days} days unchanged" if written.unchanged_days else "")
    )
    for reason, count in report["rejected"].items():
        print(f"  rejected {count:>8,}  {reason}")
    for note in report["notes"]:
        print(f"  note  {note}")
    if not report["impressions"]:
        print(NO_LOG)


def compare(config: DictConfig) -> None:
    """Compare the logs in PATHS: a table of figures, and a plot of curves in `out` if set."""
    from watchnext.data.card.comparison import markdown, picture  # matplotlib is slow to import

    if not config.paths:
        raise DataError(
            "PATHS is empty, expected folders; run `python -m watchnext.data compare FOLDER FOLDER out=docs/world.png`"
        )
    folders = [Path(path) for path in config.paths]
    names = [folder.parent.name if folder.name == "tables" else folder.name for folder in folders]
    repair = "python -m watchnext.data tables"
    logs = [statistics_of(CanonicalTables(root=str(folder), repair=repair).read().tables) for folder in folders]
    print(markdown(dict(zip(names, logs, strict=True))))
    if config.out:
        picture(dict(zip(names, logs, strict=True)), Path(config.out))


def schema_of(config: DictConfig) -> FeatureSchema:
    """Load the feature schema of `features=NAME`, else of `data`."""
    if config.get("features"):
        return FeatureSchema.from_mapping(plain(config.features))
    return FeatureSchema.load(Path(f"conf/features/{config.data.features}.yaml"))


def check(config: DictConfig) -> int:
    """Print a profile and all errors of the three tables in PATH, Parquet or CSV; exit 1 if there are errors."""
    if config.path is None or not Path(config.path).is_dir():
        raise DataError(f"PATH is {config.path}, expected a folder; run `python -m watchnext.data check PATH features=NAME`")
    schema = schema_of(config)
    sources = read_sources(Path(config.path), schema, repair="python -m watchnext.data describe")
    findings = check_log(sources, schema)
    print(", ".join(f"{len(source.frame):,} {name}" for name, source in sources.items()) + f" in {config.path}")
    sound, _, _ = sound_columns(Tables(**{name: source.rows() for name, source in sources.items()}), schema)
    print("\n".join(profile(sound, schema)), end="\n\n")
    for note in notes(sources, schema):
        print(f"{'note':<13}{note}")
    print("\n".join(map(str, findings)) or "nothing is wrong")
    if sources["impressions"].frame.is_empty():
        print(NO_LOG)
    if findings:
        print("\nRows count from 0 within a file. run `python -m watchnext.data describe` to see the expected tables")
    return int(bool(findings))


def describe(config: DictConfig) -> None:
    """Print the expected tables as Markdown: every column with type, unit and bounds, and the file layout."""
    print(describe_tables(schema_of(config)))


def erase(config: DictConfig) -> int:
    """Erase user=ID everywhere that the project keeps them, by `python -m watchnext.lifecycle erase`; print the receipts."""
    # A process of its own, as what serves and trains knows of data, and not the other way round.
    return subprocess.run([sys.executable, "-m", "watchnext.lifecycle", "erase", *sys.argv[2:]], check=False).returncode


if __name__ == "__main__":
    commands = {"tables": tables, "compare": compare, "check": check, "describe": describe, "erase": erase}
    dispatch(
        "watchnext.data",
        commands,
        (DataError, SchemaError),
        leading={"check": "path", "compare": "paths..."},
    )
