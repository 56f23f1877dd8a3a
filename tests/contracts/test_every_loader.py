"""A loader keeps these promises, found through conf/data and the classes of its package, on one small log in its layout."""

import inspect
import pkgutil
import re
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import pytest

import watchnext.data.loaders
from layouts import LAYOUTS
from watchnext.cli import composed, instantiate
from watchnext.data.loaders.loaded import REJECTED, Loaded, Loader
from watchnext.data.tables import OUTCOMES, DataError, Tables, in_order
from watchnext.data.validation import validate
from watchnext.schema import FeatureSchema
from watchnext.simulator.world import World

ROOT = Path(__file__).resolve().parents[2]
NEXT_STEP = re.compile(r"run `|download|unpack|export ")


class Layout(NamedTuple):
    """A data preset on files that `write` makes below the folder that `variable` names.

    log       the files with a row for each impression
    optional  files without which the log is a smaller one
    timed     whether a row tells its time; otherwise its place in the file does
    """

    data: str
    variable: str
    write: Callable[[Tables, Path], None]
    log: str
    optional: str = "none"
    timed: bool = True
    overrides: tuple[str, ...] = ()


def three_tables(tables: Tables, root: Path) -> None:
    for name, frame in vars(tables).items():
        frame.write_parquet(root / f"{name}.parquet")


def daily_folders(tables: Tables, root: Path) -> None:
    """Impressions by day, without the column that the folder's name gives."""
    tables.users.write_parquet(root / "users.parquet")
    tables.videos.write_parquet(root / "videos.parquet")
    for (day,), rows in tables.impressions.partition_by("day", as_dict=True).items():
        (root / "impressions" / f"date={day}").mkdir(parents=True)
        rows.drop("day").write_parquet(root / "impressions" / f"date={day}" / "part.parquet")


def published(name: str, log: str, **fields) -> Layout:
    data, variable, write, overrides = LAYOUTS[name]
    return Layout(data, variable, write, log, overrides=overrides, **fields)


OWN = {"data": "sample", "variable": "OWN_ROOT", "overrides": ("data.loader.root=${oc.env:OWN_ROOT}",)}
CASES = {
    "MovieLens 1M": published("MovieLens 1M", "ratings.dat"),
    "MovieLens 32M": published("MovieLens 32M", "ratings.csv"),
    "sequences": published("sequences", "log.txt", timed=False),
    "VK-LSVD": published("VK-LSVD", "**/week_*.parquet", optional="**/week_*.parquet", timed=False),
    "KuaiRand-Pure": published("KuaiRand-Pure", "data/log_*.csv", optional="data/log_*.csv"),
    "KuaiRand-27K": published("KuaiRand-27K", "data/log_*.csv", optional="data/log_*.csv"),
    "three tables": Layout(write=three_tables, log="impressions.parquet", optional="impressions.parquet", **OWN),
    "daily folders": Layout(write=daily_folders, log="impressions/**/*.parquet", optional="impressions/**/*.parquet", **OWN),
}


@pytest.fixture(scope="session")
def tables() -> Tables:
    return World(users=30, videos=80, creators=12, tags=8, days=4, impressions_per_user_day=8.0, seed=5).log()


@pytest.fixture(params=CASES.values(), ids=CASES)
def layout(request) -> Layout:
    return request.param


@pytest.fixture
def root(layout, tables, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(ROOT)
    layout.write(tables, tmp_path)
    file = next(tmp_path.glob("*.txt"), tmp_path) if layout.variable.endswith("FILE") else tmp_path
    monkeypatch.setenv(layout.variable, str(file))
    return tmp_path


@cache
def data_of(layout: Layout):
    return composed([f"data={layout.data}", *layout.overrides]).data


def read(layout: Layout) -> Loaded:
    return instantiate(data_of(layout).loader).read()


def schema_of(layout: Layout) -> FeatureSchema:
    return FeatureSchema.load(ROOT / "conf" / "features" / f"{data_of(layout).features}.yaml")


def rows_of(path: Path) -> list:
    """The rows of a text file without a CSV's head, or of a Parquet file."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path).rows()
    return path.read_text(encoding="latin-1").splitlines()[path.suffix == ".csv" :]


def rewrite(path: Path, order: np.ndarray) -> None:
    """Keep the rows at `order`, in that order."""
    if path.suffix == ".parquet":
        pl.read_parquet(path)[order].write_parquet(path)
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            kept = {name: values[order] for name, values in arrays.items()}
        np.savez(path, **kept)
    else:
        lines = path.read_text(encoding="latin-1").splitlines()
        head, rows = lines[: path.suffix == ".csv"], rows_of(path)
        path.write_text("\n".join([*head, *(rows[i] for i in order)]) + "\n", encoding="latin-1")


def events(loaded: Loaded, *, timed: bool) -> list[tuple]:
    columns = ["user_id", "video_id", "watch_ms", *OUTCOMES, *(["time_ms", "day"] if timed else [])]
    impressions = loaded.tables.impressions
    return sorted(impressions.select(name for name in columns if name in impressions.columns).rows())


# ---- found ------------------------------------------------------------------------------------------------------------


def classes_of(package) -> set[str]:
    """Every class of a package that reads a log."""
    modules = [import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)]
    classes = {one for module in modules for _, one in inspect.getmembers(module, inspect.isclass) if hasattr(one, "read")}
    return {f"{one.__module__}.{one.__qualname__}" for one in classes - {Loader}}


def test_every_loader_class_has_a_preset_and_every_preset_a_layout_here():
    names = [path.stem for path in (ROOT / "conf" / "data").glob("*.yaml")]
    loaders = {name: composed([f"data={name}"]).data.loader._target_ for name in names}
    simulated = {name for name, loader in loaders.items() if loader == f"{World.__module__}.{World.__qualname__}"}
    assert classes_of(watchnext.data.loaders) <= {*loaders.values()}
    assert {layout.data for layout in CASES.values()} == loaders.keys() - simulated


def test_every_layout_that_the_pipeline_is_tested_on_is_read_here():
    assert {name for name, (data, *_) in LAYOUTS.items() if data != "own"} <= CASES.keys()


# ---- what is read -----------------------------------------------------------------------------------------------------


def is_sound(loaded: Loaded, schema: FeatureSchema) -> None:
    """Ids of one kind in all tables, and columns, types, bounds and outcomes as tables and schema declare them."""
    tables = loaded.tables
    for key, listed in (("user_id", tables.users), ("video_id", tables.videos)):
        assert tables.impressions.schema[key] == listed.schema[key]
        assert listed.schema[key] in (pl.Int64, pl.String)
        assert listed[key].n_unique() == len(listed)
        assert set(tables.impressions[key].to_list()) <= set(listed[key].to_list())
    checked = validate(tables, schema)
    assert (len(loaded.rejected), len(checked.rejected)) == (0, 0)
    assert len(checked.tables.impressions) == len(tables.impressions) > 100
    assert any(checked.tables.impressions[name].any() for name in OUTCOMES)
    assert in_order(checked.tables.impressions).equals(checked.tables.impressions)


def test_a_log_is_read_as_the_schema_declares(layout, root):
    loaded = read(layout)
    is_sound(loaded, schema_of(layout))
    assert loaded.rejected.schema == REJECTED
    again = read(layout).tables
    assert all(frame.equals(getattr(again, name)) for name, frame in vars(loaded.tables).items())


def test_a_simulated_log_is_as_the_schema_declares(tables):
    schema = FeatureSchema.load(ROOT / "conf" / "features" / "world.yaml")
    is_sound(Loaded(tables, pl.DataFrame(schema=REJECTED)), schema)


def test_the_order_of_the_rows_in_its_files_changes_no_event(layout, root):
    before, random = read(layout), np.random.default_rng(0)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        rows = len(np.load(path)["item_id"]) if path.suffix == ".npz" else len(rows_of(path))
        rewrite(path, random.permutation(rows))
    after = read(layout)
    assert events(after, timed=layout.timed) == events(before, timed=layout.timed)
    for name, key in (("users", "user_id"), ("videos", "video_id")):
        assert getattr(after.tables, name).sort(key).equals(getattr(before.tables, name).sort(key))


def test_every_row_of_the_log_is_an_impression_or_rejected_with_a_reason(layout, root):
    """Some rows stand twice. Of sequences a row is a viewer's line."""
    files = sorted(root.glob(layout.log))
    for path in files:
        rows = len(rows_of(path))
        rewrite(path, np.concatenate([np.arange(rows), np.arange(min(rows, 5))]))
    loaded = read(layout)
    checked = validate(loaded.tables, schema_of(layout))
    impressions = checked.tables.impressions
    kept = impressions["user_id"].n_unique() if layout.data == "sequences" else len(impressions)
    rejected = sum(each.filter(table="impressions")["row"].len() for each in (loaded.rejected, checked.rejected))
    assert kept + rejected == sum(len(rows_of(path)) for path in files)
    assert (rejected > 0) == (layout.timed or layout.data == "sequences")  # rows that tell no time differ by their place
    reasons = pl.concat([loaded.rejected, checked.rejected])["reason"]
    assert reasons.null_count() == 0


# ---- what is not there --------------------------------------------------------------------------------------------------


def test_a_missing_file_is_named_with_the_next_step(layout, root):
    optional, before = set(root.glob(layout.optional)), len(read(layout).tables.impressions)
    for path in sorted(path for path in root.rglob("*") if path.is_file()):
        whole = path.read_bytes()
        path.unlink()
        if path in optional:
            assert len(read(layout).tables.impressions) < before
        else:
            with pytest.raises(DataError) as missing:
                read(layout)
            assert path.stem in str(missing.value) or str(root) in str(missing.value)
            assert NEXT_STEP.search(str(missing.value))
        path.write_bytes(whole)


@pytest.mark.parametrize(
    "layout", [pytest.param(case, id=name) for name, case in CASES.items() if not case.overrides], indirect=True
)
def test_a_log_that_is_nowhere_is_asked_for_by_its_variable(layout, root, monkeypatch):
    monkeypatch.delenv(layout.variable)
    with pytest.raises(DataError, match=rf"`export {layout.variable}="):
        read(layout)
