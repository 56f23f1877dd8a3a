"""The served log: every answer as a row of Parquet, by hour, written by a thread so that no answer waits."""

import logging
import queue
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import polars as pl

from watchnext.files import synced
from watchnext.serving.funnel.answer import Answer
from watchnext.types import TARGETS

log = logging.getLogger(__name__)
WAITING = 1_000  # answers that may wait for the writer; more are dropped and counted
FLUSH_S = 30.0  # an answer is on disk after this long at the latest
# Ids are always strings here, so that the files of all releases can be read together.
COLUMNS = {
    "request_id": pl.String,
    "release": pl.String,
    "mode": pl.String,
    "user_id": pl.String,
    "as_of_ms": pl.Int64,
    "k": pl.Int32,
    "why": pl.List(pl.String),
    "candidate_rows": pl.List(pl.Int32),
    "candidate_sources": pl.List(pl.UInt16),
    "candidate_scores": pl.List(pl.Float32),
    "video_ids": pl.List(pl.String),
    "values": pl.List(pl.Float64),
    "propensities": pl.List(pl.Float64),
    **{f"predicted_{name}": pl.List(pl.Float32) for name in TARGETS},
    # Names are inside the rows: releases differ in their features, but the files must have the same columns.
    "categories": pl.List(pl.Struct({"name": pl.String, "of": pl.List(pl.String)})),
    "numbers": pl.List(pl.Struct({"name": pl.String, "of": pl.List(pl.Float32)})),
}
SLATE = ("video_ids", "values", "propensities", *(f"predicted_{name}" for name in TARGETS))  # columns with one entry a video
_END = object()


class ServedLog:
    """Write answers to `folder`/hour=YYYYMMDDHH/part-<n>.parquet (UTC, of the request); delete the oldest above `max_bytes`.

    flush_rows  largest number of answers in a part
    dropped     answers for which the queue was full
    failed      answers that could not be written
    """

    def __init__(self, folder: Path, *, max_bytes: int, flush_rows: int) -> None:
        self._folder, self._max_bytes, self._flush_rows = Path(folder), max_bytes, flush_rows
        self.dropped = self.failed = 0
        self._queue: queue.Queue = queue.Queue(WAITING)
        self._closed = False
        self._writer = threading.Thread(target=self._run, name="served-log", daemon=True)
        self._writer.start()

    def append(self, answer: Answer) -> bool:
        """Queue an answer without waiting; False if it was dropped."""
        try:
            if self._closed:
                raise queue.Full
            self._queue.put_nowait(answer)
        except queue.Full:
            self.dropped += 1
            return False
        return True

    def close(self) -> None:
        """Write the queued answers, then stop; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._queue.put(_END)
            self._writer.join()

    def _run(self) -> None:
        waiting: list[Answer] = []
        due, answer = time.monotonic() + FLUSH_S, None
        while answer is not _END:
            try:
                answer = self._queue.get(timeout=max(due - time.monotonic(), 0.01))
                waiting += [answer] if answer is not _END else []
            except queue.Empty:
                answer = None
            if answer is _END or len(waiting) >= self._flush_rows or time.monotonic() >= due:
                self._flush(waiting)
                waiting, due = [], time.monotonic() + FLUSH_S

    def _flush(self, answers: list[Answer]) -> None:
        for hour, part in groupby(sorted(answers, key=_hour), key=_hour):
            part = list(part)
            try:
                self._retain(_write_part(frame_of(part), self._folder / f"hour={hour}"))
            except Exception:  # a full disk must not end the thread: the next part may fit
                self.failed += len(part)
                log.exception("%d answers of hour %s could not be logged", len(part), hour)

    def _retain(self, newest: Path) -> None:
        """Delete the oldest parts until the others fit; the newest stays."""
        parts = sorted(self._folder.glob("hour=*/part-*.parquet"), key=lambda path: (path.parent.name, _number(path)))
        sizes = {path: path.stat().st_size for path in parts}
        total = sum(sizes.values())
        for path in parts:
            if total <= self._max_bytes or path == newest:
                break
            path.unlink()
            total -= sizes[path]
            if not any(path.parent.iterdir()):
                path.parent.rmdir()


def frame_of(answers: Sequence[Answer]) -> pl.DataFrame:
    """Make a table with COLUMNS, one row an answer."""
    return pl.DataFrame([_row(answer) for answer in answers], schema=COLUMNS, orient="row")


def shown_videos(answers: pl.DataFrame) -> pl.DataFrame:
    """Unfold the served log into one row a shown video: ids and time of the answer, `position`, SLATE, and its features."""
    videos = answers.select("request_id", "release", "user_id", "as_of_ms", *SLATE).filter(pl.col("video_ids").list.len() > 0)
    videos = videos.with_columns(position=pl.int_ranges(pl.col("video_ids").list.len())).explode(*SLATE, "position")
    for kind in ("categories", "numbers"):
        lists = answers.select("request_id", kind).explode(kind).drop_nulls(kind).unnest(kind)
        values = lists.with_columns(position=pl.int_ranges(pl.col("of").list.len())).explode("of", "position")
        wide = values.drop_nulls("position").pivot("name", index=["request_id", "position"], values="of")
        videos = videos.join(wide, on=["request_id", "position"], how="left", maintain_order="left")
    return videos


def _row(answer: Answer) -> dict:
    candidates = answer.scored.candidates
    predictions = answer.predictions.T.tolist()
    return {
        "request_id": answer.request.request_id,
        "release": answer.release,
        "mode": answer.mode,
        "user_id": str(answer.request.user_id),
        "as_of_ms": answer.request.as_of_ms,
        "k": answer.request.k,
        "why": list(answer.degradations),
        "candidate_rows": candidates.rows.tolist(),
        "candidate_sources": candidates.sources.tolist(),
        "candidate_scores": candidates.scores.tolist(),
        "video_ids": [str(each) for each in answer.ids],
        "values": answer.slate.values.tolist(),
        "propensities": answer.slate.propensities.tolist(),
        **{f"predicted_{name}": column for name, column in zip(TARGETS, predictions, strict=True)},
        "categories": _features(answer, "O"),
        "numbers": _features(answer, "f"),
    }


def _features(answer: Answer, kind: str) -> list[dict]:
    return [{"name": name, "of": values.tolist()} for name, values in answer.features.items() if values.dtype.kind == kind]


def _hour(answer: Answer) -> str:
    return datetime.fromtimestamp(answer.request.as_of_ms / 1000, UTC).strftime("%Y%m%d%H")


def _number(part: Path) -> int:
    return int(part.stem.removeprefix("part-"))


def _write_part(frame: pl.DataFrame, folder: Path) -> Path:
    """Write the folder's next part to a temporary file and rename it, so that no reader and no power cut meets half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    number = max((_number(path) for path in folder.glob("part-*.parquet")), default=-1) + 1
    part = folder / f"part-{number}.parquet"
    temporary = part.with_suffix(".writing")
    frame.write_parquet(temporary, compression="zstd")
    synced(temporary)
    temporary.rename(part)
    for each in (folder, folder.parent):
        synced(each)
    return part
