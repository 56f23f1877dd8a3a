"""The served log with its outcomes > impressions, part by part, so that memory does not grow with the log."""

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.tables import OUTCOMES
from watchnext.features.arrays import load_arrays
from watchnext.features.catalogue import Catalogue, Ids
from watchnext.features.dataset.labels import Labels
from watchnext.monitoring.sketch.rows import Impressions
from watchnext.monitoring.windows.reference import slices_of, vectors_of
from watchnext.serving.funnel.served.served_log import Pending, parts_between
from watchnext.serving.store.tables.journal import Event
from watchnext.types import TARGETS

ANSWERS = 2_000  # unfolded at a time
OUTCOME_MS = 30 * 60_000  # after this long without an outcome, a video counts as not watched
COLUMNS = ("request_id", "release", "mode", "user_id", "as_of_ms", "asked", "video_ids", "categories", "numbers",
           *(f"predicted_{name}" for name in TARGETS))  # fmt: skip


@dataclass(frozen=True)
class ServedLogReader:
    """Read the answers of one release in a served log, without those that were computed ahead of time.

    release    folder of the release
    outcomes   table of `outcomes_of`
    """

    folder: Path
    release: Path
    outcomes: pl.DataFrame
    labels: Labels

    @cached_property
    def vectors(self) -> np.ndarray:
        """Vectors (V + 1, d) of the release's videos."""
        return vectors_of(load_arrays(self.release / "videos"))

    @cached_property
    def _catalogue(self) -> Catalogue:
        return Catalogue.load(self.release / "catalogue")

    @cached_property
    def _viewers(self) -> pl.Series:
        ids = load_arrays(self.release / "user_table")["user_ids"]
        return pl.Series([each.decode() for each in ids.tolist()]) if ids.dtype.kind == "S" else pl.Series(ids).cast(pl.String)

    def times(self) -> np.ndarray:
        """Return the time (n,) of every answer in ms, sorted."""
        frames = [frame["as_of_ms"] for frame in self._frames(("release", "mode", "as_of_ms", "request_id"), 0, None)]
        return np.sort(np.concatenate([np.zeros(0, np.int64), *frames]))

    def others(self) -> dict[str, int]:
        """Return release > answers, of the other releases in the log."""
        counts = pl.concat(
            [
                pl.Series("release", [], dtype=pl.String),
                *(_read(path, ("release",))["release"] for path in parts_between(self.folder, 0, None)),
            ]
        )
        table = counts.value_counts().sort("release")
        return {name: count for name, count in table.rows() if name != self.release.name}

    def window(self, start_ms: int, end_ms: int) -> Iterator[Impressions]:
        """Yield the impressions from `start_ms` until before `end_ms`."""
        frames, answers = [], 0
        for frame in self._frames(COLUMNS, start_ms, end_ms):
            frames.append(frame)
            answers += len(frame)
            if answers >= ANSWERS:
                yield from self._unfolded(pl.concat(frames))
                frames, answers = [], 0
        if answers:
            yield from self._unfolded(pl.concat(frames))

    def _frames(self, columns: tuple[str, ...], start_ms: int, end_ms: int | None) -> Iterator[pl.DataFrame]:
        paths, ids = parts_between(self.folder, start_ms, end_ms), []
        for path in paths:
            frame = _read(path, columns)
            ids.append(frame["request_id"])
            yield self._kept(frame, start_ms, end_ms)
        pending = Pending(self.folder / "pending.ipc").read().select(columns)
        known = pl.DataFrame({"request_id": pl.concat(ids) if ids else []}, schema={"request_id": pl.String})
        yield self._kept(pending.join(known, on="request_id", how="anti"), start_ms, end_ms)

    def _kept(self, frame: pl.DataFrame, start_ms: int, end_ms: int | None) -> pl.DataFrame:
        inside = pl.col("as_of_ms") >= start_ms
        inside = inside if end_ms is None else inside & (pl.col("as_of_ms") < end_ms)
        return frame.filter(inside & (pl.col("release") == self.release.name) & (pl.col("mode") != "precomputed"))

    def _unfolded(self, answers: pl.DataFrame) -> Iterator[Impressions]:
        answers = answers.filter(pl.col("video_ids").list.len() > 0)
        if not len(answers):
            return
        sizes = answers["video_ids"].list.len().to_numpy().astype(np.int64)
        columns = pl.DataFrame([*_features(answers["categories"], sizes), *_features(answers["numbers"], sizes)])
        owner = np.repeat(np.arange(len(answers)), sizes)
        shown = answers.select("request_id", "user_id", "as_of_ms", "asked")[owner].with_columns(
            video_id=answers["video_ids"].explode()
        )
        videos = self._video_rows(shown["video_id"])
        yield Impressions(
            columns=columns,
            viewers=shown["user_id"],
            slices=slices_of(columns, shown["user_id"].is_in(self._viewers.implode()).to_numpy()),
            predictions=np.stack([answers[f"predicted_{name}"].explode().to_numpy() for name in TARGETS], 1),
            outcomes=self._outcomes(shown, videos),
            videos=videos,
        )

    def _video_rows(self, names: pl.Series) -> np.ndarray:
        ids = Ids(self._catalogue.video_ids)
        return ids.rows_of(names if ids.are_strings else names.cast(pl.Int64, strict=False))

    def _outcomes(self, shown: pl.DataFrame, videos: np.ndarray) -> np.ndarray:
        """Return the targets (N, T) of shown videos: nan where none can have come yet, or nobody saw the slate."""
        if not len(self.outcomes):
            return np.full((len(shown), len(TARGETS)), np.nan, np.float32)
        joined = shown.join(self.outcomes, on=["request_id", "video_id"], how="left", maintain_order="left")
        unseen = joined["asked"].str.contains('"mirrored":true', literal=True)
        waiting = joined["watch_ms"].is_null() & ((joined["as_of_ms"] > self._last_ms - OUTCOME_MS) | unseen)
        flags = [pl.col(name).fill_null(False) for name in OUTCOMES]
        duration_ms = np.where(videos >= 0, self._catalogue.duration_ms[videos], np.nan)
        targets = self.labels.targets(joined.with_columns(pl.col("watch_ms").fill_null(0), *flags), duration_ms)
        targets[waiting.to_numpy()] = np.nan
        return targets

    @cached_property
    def _last_ms(self) -> int:
        return int(self.outcomes["known_at"].max())


def outcomes_of(events: Iterable[Event]) -> pl.DataFrame:
    """Return the first outcome of every video in a request: request_id, video_id as a string, known_at, watch_ms, OUTCOMES."""
    names = ("known_at", "watch_ms", *OUTCOMES)
    rows = [
        (each.request_id, str(each.video_id), *(getattr(each, name) for name in names))
        for each in events
        if each.kind == "outcome" and each.request_id
    ]
    numbers = {"known_at": pl.Int64, "watch_ms": pl.Int64}
    schema = {"request_id": pl.String, "video_id": pl.String, **{name: numbers.get(name, pl.Boolean) for name in names}}
    return pl.DataFrame(rows, schema=schema, orient="row").unique(["request_id", "video_id"], keep="first", maintain_order=True)


def outcomes_in(store: Path | str, release: Path) -> pl.DataFrame:
    """Read the outcomes in the journal of an online store, which a server may hold; none where there is no store."""
    # Imported here, as the held-out window needs no store.
    from watchnext.serving.release.release import Release
    from watchnext.serving.store.engines.redis_engine import is_url
    from watchnext.serving.store.store import Store

    if not is_url(store) and not Path(store).exists():
        return outcomes_of(())
    with closing(Store.reader(store, Release.load(release))) as opened:
        return outcomes_of(opened.journal())


def _read(path: Path, columns: tuple[str, ...]) -> pl.DataFrame:
    return pl.read_parquet(path, columns=list(columns), hive_partitioning=False)


def _features(lists: pl.Series, sizes: np.ndarray) -> list[pl.Series]:
    """Unfold one column of named lists into a column (N,) a name; an answer without a name has nulls."""
    starts, total = np.cumsum(sizes) - sizes, int(sizes.sum())
    long = pl.DataFrame({"start": starts, "size": sizes, "named": lists}).explode("named").drop_nulls("named").unnest("named")
    long = long.filter(pl.col("of").list.len() == pl.col("size"))
    return [_unfolded(part, total) for part in long.partition_by("name", maintain_order=True)]


def _unfolded(part: pl.DataFrame, total: int) -> pl.Series:
    name, values = part["name"][0], part["of"].explode()
    if len(values) == total:
        return values.alias(name)
    sizes, starts = part["size"].to_numpy(), part["start"].to_numpy()
    rows = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(values))
    return pl.repeat(None, total, dtype=values.dtype, eager=True).scatter(rows, values).alias(name)
