"""The served log: every answer as a row of Parquet, by hour, written by a thread so that no answer waits."""

import contextlib
import io
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path

import polars as pl

from watchnext.files import synced
from watchnext.serving.funnel.answer import Answer
from watchnext.serving.funnel.served.served_frame import SLATE, frame_of

log = logging.getLogger(__name__)
WAITING = 1_000  # answers that may wait for the writer; more are dropped and counted
SYNC_S = 2.0  # an answer is on disk after this long at the latest
PART_S = 30.0  # and in a part after this long
ERASE_S = 600.0  # a viewer's answers are erased after this long at the latest


class ServedLog:
    """Write answers to `folder`/hour=YYYYMMDDHH/part-<n>.parquet (UTC, of the request); delete the oldest above `max_bytes`.

    Answers of no part yet lie in `folder`/pending.ipc; a log that is opened after `kill -9` makes a part of them.

    flush_rows  largest number of answers in a part
    dropped     answers for which the queue was full
    failed      answers that could not be written
    unsynced    answers that could not be written to pending.ipc: until they are in a part, `kill -9` would lose them
    """

    def __init__(self, folder: Path, *, max_bytes: int, flush_rows: int) -> None:
        self._folder, self._max_bytes, self._flush_rows = Path(folder), max_bytes, flush_rows
        self._pending = Pending(self._folder / "pending.ipc")
        self.dropped = self.failed = 0
        self._answers: deque[Answer] = deque()
        self._erasures: deque[tuple[int | str, Future]] = deque()
        self._framed = 0  # answers that are pending
        self._is_due, self._closed = threading.Event(), False
        self._writer = threading.Thread(target=self._run, name="served-log", daemon=True)
        self._writer.start()

    def append(self, answer: Answer) -> bool:
        """Queue an answer without waiting; False if it was dropped. The writer is woken where they make a part."""
        if self._closed or len(self._answers) >= WAITING:
            self.dropped += 1
            return False
        self._answers.append(answer)
        if self._framed + len(self._answers) >= self._flush_rows:
            self._is_due.set()
        return True

    @property
    def unsynced(self) -> int:
        return self._pending.failed

    @property
    def waiting(self) -> int:
        """Number of answers that wait for the writer."""
        return len(self._answers)

    def close(self) -> None:
        """Write the queued answers, then stop; a second call does nothing."""
        if not self._closed:
            self._closed = True
            self._is_due.set()
            self._writer.join()

    def erase(self, user_id: int | str) -> int:
        """Erase a viewer's answers, those that wait included; return their number. Raises what stops it, as a full disk."""
        if self._closed:
            return erase_answers(self._folder, [user_id])
        done: Future[int] = Future()
        self._erasures.append((user_id, done))
        self._is_due.set()
        return done.result(ERASE_S)

    def _erase(self, user_id: int | str, done: Future) -> None:
        try:
            done.set_result(erase_answers(self._folder, [user_id]))
        except Exception as error:
            done.set_exception(error)

    def _run(self) -> None:
        self._flush([self._recovered()])
        frames, is_last = [], False
        sync_due, part_due = time.monotonic() + SYNC_S, time.monotonic() + PART_S
        while not is_last:
            self._is_due.wait(max(sync_due - time.monotonic(), 0.01))
            self._is_due.clear()
            is_last, erasures, now = self._closed, len(self._erasures), time.monotonic()
            if is_last or erasures or self._framed + len(self._answers) >= self._flush_rows or now >= part_due:
                self._flush_parts(frames, whole=is_last or erasures > 0)
                frames, sync_due, part_due = [], now + SYNC_S, now + PART_S
                for _ in range(erasures):
                    self._erase(*self._erasures.popleft())
            elif now >= sync_due:
                frames += [self._pending.add(self._frame(taken))] if (taken := self._taken()) else []
                self._framed, sync_due = sum(map(len, frames)), now + SYNC_S

    def _flush_parts(self, frames: list[pl.DataFrame], *, whole: bool) -> None:
        """Write the pending `frames` and what waits, as far as it makes whole parts or, with `whole`, all of it."""
        while True:
            self._flush([*frames, self._frame(self._taken())])
            frames, self._framed = [], 0
            if not self._answers or not (whole or len(self._answers) >= self._flush_rows):
                return

    def _taken(self) -> list[Answer]:
        """Take the answers that wait, at most as many as a part still holds."""
        most = min(len(self._answers), max(self._flush_rows - self._framed, 1))
        return [self._answers.popleft() for _ in range(most)]

    def _frame(self, answers: list[Answer]) -> pl.DataFrame:
        try:
            return frame_of(answers)
        except Exception:
            self._fail(len(answers))
            return frame_of([])

    def _recovered(self) -> pl.DataFrame:
        """Return the pending answers of a log that was not closed, without those that are in a part already."""
        try:
            pending = self._pending.read()
            hours = [self._folder / f"hour={hour}" for hour in _hours(pending).unique().to_list()]
            parts = [part for hour in hours for part in hour.glob("part-*.parquet")]
            known = [pl.read_parquet(part, columns=["request_id"]) for part in parts]
            return pending.join(pl.concat(known), on="request_id", how="anti", maintain_order="left") if known else pending
        except Exception:
            log.exception("the pending answers in %s could not be read", self._folder)
            return frame_of([])

    def _flush(self, frames: list[pl.DataFrame]) -> None:
        frame = pl.concat(frames)
        for (hour,), part in frame.group_by(_hours(frame).alias("hour"), maintain_order=True):
            try:
                self._retain(_write_part(part, self._folder / f"hour={hour}"))
            except Exception:  # a full disk must not end the thread: the next part may fit
                self._fail(len(part))
        self._pending.clear()

    def _fail(self, answers: int) -> None:
        self.failed += answers
        log.exception("%d answers could not be logged", answers)

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


def erase_answers(folder: Path, user_ids: Iterable[int | str]) -> int:
    """Erase the answers of viewers from a log that nobody writes; return their number. Parts are written anew."""
    names, removed = [str(user_id) for user_id in user_ids], 0
    pending = Pending(Path(folder) / "pending.ipc")
    if len(left := pending.read()):
        removed += int(left["user_id"].is_in(names).sum())
        pending.clear()
        pending.add(left.filter(~pl.col("user_id").is_in(names)))
    for part in sorted(Path(folder).glob("hour=*/part-*.parquet")):
        answers = pl.read_parquet(part, hive_partitioning=False)
        left = answers.filter(~pl.col("user_id").is_in(names))
        if len(left) == len(answers):
            continue
        removed += len(answers) - len(left)
        if len(left):
            _write_aside(left, part)
        else:
            part.unlink()
        synced(part.parent)
    return removed


class Pending:
    """Keep frames in one file, each synced before `add` returns: its length, then an Arrow stream.

    failed  rows of frames that could not be written
    """

    def __init__(self, path: Path) -> None:
        self._path, self.failed = path, 0

    def add(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Append a frame and return it; one that cannot be written is counted and logged, as its part may still be."""
        stream = io.BytesIO()
        frame.write_ipc_stream(stream)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            is_new = not self._path.exists()
            with self._path.open("ab") as file:
                file.write(len(stream.getbuffer()).to_bytes(8, "big") + stream.getvalue())
                file.flush()
                os.fsync(file.fileno())
            if is_new:
                synced(self._path.parent)
        except OSError as error:
            self.failed += len(frame)
            log.warning("%d answers are not on disk yet: %s", len(frame), error)
        return frame

    def read(self) -> pl.DataFrame:
        """Return all frames as one; what was cut short at the end is left out."""
        content, frames = self._path.read_bytes() if self._path.exists() else b"", [frame_of([])]
        while len(content) >= 8 and len(content) >= (end := 8 + int.from_bytes(content[:8], "big")):
            frames.append(pl.read_ipc_stream(content[8:end]))
            content = content[end:]
        return pl.concat(frames, how="diagonal")  # another version may have had other columns

    def clear(self) -> None:
        with contextlib.suppress(OSError):  # a file that is left is read again, without those that are in a part
            self._path.unlink(missing_ok=True)


def parts_between(folder: Path, start_ms: int, end_ms: int | None) -> list[Path]:
    """Return the parts of a served log with answers from `start_ms` until before `end_ms` (None is without end), by hours."""
    paths, last = sorted(Path(folder).glob("hour=*/part-*.parquet")), "9" * 10 if end_ms is None else _hour(end_ms - 1)
    return [path for path in paths if _hour(start_ms) <= path.parent.name.removeprefix("hour=") <= last]


def answers_in(folder: Path, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Read all answers of a served log, also those that are in no part yet; of all `columns`, or of some with request_id."""
    parts = sorted(Path(folder).glob("hour=*/part-*.parquet"))
    frames = [pl.read_parquet(part, columns=columns, hive_partitioning=False) for part in parts]
    pending = Pending(Path(folder) / "pending.ipc").read()
    pending = pending if columns is None else pending.select(columns)
    answers = pl.concat([*frames, pending], how="diagonal_relaxed")
    return answers.unique("request_id", keep="first", maintain_order=True)


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


def _hours(answers: pl.DataFrame) -> pl.Series:
    return answers["as_of_ms"].cast(pl.Datetime("ms")).dt.strftime("%Y%m%d%H")


def _hour(at_ms: int) -> str:
    return pl.Series([at_ms]).cast(pl.Datetime("ms")).dt.strftime("%Y%m%d%H").item()


def _number(part: Path) -> int:
    return int(part.stem.removeprefix("part-"))


def _write_part(frame: pl.DataFrame, folder: Path) -> Path:
    """Write the folder's next part to a temporary file and rename it, so that no reader and no power cut meets half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    number = max((_number(path) for path in folder.glob("part-*.parquet")), default=-1) + 1
    part = folder / f"part-{number}.parquet"
    _write_aside(frame, part)
    for each in (folder, folder.parent):
        synced(each)
    return part


def _write_aside(frame: pl.DataFrame, part: Path) -> None:
    temporary = part.with_suffix(".writing")
    frame.write_parquet(temporary, compression="zstd")
    synced(temporary)
    temporary.rename(part)
