"""Simulate a log day by day: viewers in blocks on threads, then all requests of the day by time, group by group.

Memory holds two simulated days (some 20 bytes per impression) and one group of rows as columns, whatever the length of the log.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from watchnext.data.tables import OUTCOMES
from watchnext.kernels import kernel
from watchnext.simulator.behaviour import DAY_MS
from watchnext.simulator.mechanisms import SURFACES
from watchnext.simulator.platform.inventory import Inventory, fill_inventory
from watchnext.simulator.platform.sessions import MOST, simulate
from watchnext.simulator.platform.slates import UNIFORM, Chunk, Memory, Platform, empty_chunk, new_scratch

VIEWERS = 8_192  # per block
CHUNK = 32 * MOST  # requests
GROUP = 32_768  # requests, 8 times as many rows
POLICIES = ("softmax", "random")
EPOCH = date(1970, 1, 1)
OF_REQUESTS = 5  # first fields of a chunk, one row per request; the others have one row per impression


@dataclass(frozen=True)
class DayLog:
    """One day of requests, sorted by `order`; `before` is the number of requests on earlier days."""

    day_ms: int
    requests: Chunk
    starts: np.ndarray
    order: np.ndarray
    before: int

    @property
    def date(self) -> date:
        return EPOCH + timedelta(days=self.day_ms // DAY_MS)

    def groups(self, user_id: np.ndarray, video_id: np.ndarray) -> Iterator[pa.Table]:
        """Yield the canonical impressions, sorted by (time_ms, request_id, position)."""
        for first in range(0, len(self.order), GROUP):
            yield self._table(self.order[first : first + GROUP], self.before + first + 1, user_id, video_id)

    def _table(self, rows: np.ndarray, request_id: int, user_id: np.ndarray, video_id: np.ndarray) -> pa.Table:
        longs, position, propensity, codes, outcomes = _spread(self.requests, self.starts, rows, request_id, user_id, video_id)
        day = np.full(len(position), self.day_ms // DAY_MS, np.int32)
        columns = {
            "request_id": longs[0],
            "user_id": longs[1],
            "video_id": longs[2],
            "time_ms": longs[3],
            "day": pa.array(day).cast(pa.date32()),
            "surface": pa.DictionaryArray.from_arrays(codes[0], pa.array(SURFACES)),
            "position": position,
            "propensity": propensity,
            "policy": pa.DictionaryArray.from_arrays(codes[1], pa.array(POLICIES)),
            "watch_ms": longs[4],
            "received_ms": longs[5],
        }
        return pa.table({**columns, **{name: outcomes[i] for i, name in enumerate(OUTCOMES)}})


@kernel
def _spread(requests, starts, rows, request_id, user_id, video_id):
    """Build the columns of the impressions of the requests `rows`, with ids from `request_id` on."""
    total = requests.slots[rows].astype(np.int64).sum()
    longs, codes = np.empty((6, total), np.int64), np.empty((2, total), np.int8)
    position, propensity, outcomes = np.empty(total, np.int16), np.empty(total, np.float32), np.empty((7, total), np.bool_)
    i = 0
    for number, request in enumerate(rows):
        time_ms, user, kind = requests.time_ms[request], user_id[requests.user[request]], requests.kind[request]
        for slot in range(requests.slots[request]):
            at = starts[request] + slot
            longs[0, i], longs[1, i], longs[2, i], longs[3, i] = (
                request_id + number,
                user,
                video_id[requests.video[at]],
                time_ms,
            )
            longs[4, i], longs[5, i] = requests.watch_ms[at], time_ms + requests.lag_ms[at]
            codes[0, i], codes[1, i] = kind & 1, (kind & UNIFORM) > 0
            position[i], propensity[i] = slot, requests.propensity[at]
            for outcome in range(7):
                outcomes[outcome, i] = (requests.flags[at] >> outcome) & 1
            i += 1
    return longs, position, propensity, codes, outcomes


def draw_days(
    platform: Platform,
    inventory: Inventory,
    memory: Memory,
    *,
    first_ms: int,
    days: int,
    policy_sharpness: float,
    threads: int,
    quiet: bool,
) -> Iterator[DayLog]:
    """Simulate day after day, updating `memory`. Requests after midnight of the last day are dropped."""
    users, carried, before = len(memory.free_ms), empty_chunk(0), 0
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=users * days, unit=" viewer-days", unit_scale=True, disable=True if quiet else None) as bar,
    ):
        for day_ms in range(first_ms, first_ms + days * DAY_MS, DAY_MS):
            _fill_inventory(pool, platform, inventory, day_ms, policy_sharpness)
            blocks = pool.map(lambda first: _block(platform, inventory, memory, first, day_ms, bar), range(0, users, VIEWERS))  # noqa: B023
            requests = _joined([carried, *(chunk for block in blocks for chunk in block)])
            today, carried = _split(requests, day_ms, before)
            before += len(today.order)
            yield today


def _fill_inventory(pool: ThreadPoolExecutor, platform: Platform, inventory: Inventory, day_ms: int, sharpness: float) -> None:
    periods = len(inventory.since_ms)
    times = [day_ms + period * DAY_MS // periods for period in range(periods)]
    futures = [
        pool.submit(fill_inventory, inventory, i, platform.index, platform.videos, time, sharpness)
        for i, time in enumerate(times)
    ]
    for future in futures:
        future.result()


def _block(platform: Platform, inventory: Inventory, memory: Memory, first: int, day_ms: int, bar: tqdm) -> list[Chunk]:
    """Simulate the day of a block of viewers, in as many chunks as needed."""
    end, room, chunks = min(first + VIEWERS, len(memory.free_ms)), empty_chunk(CHUNK), []
    scratch = new_scratch(platform.directions.shape[1])
    while first < end:
        user, requests, rows = simulate(platform, inventory, memory, scratch, first, end, day_ms, room)
        chunks.append(Chunk(*(values[: requests if i < OF_REQUESTS else rows].copy() for i, values in enumerate(room))))
        bar.update(user - first)
        first = user
    return chunks


def _joined(chunks: list[Chunk]) -> Chunk:
    return Chunk(*(np.concatenate(values) for values in zip(*chunks, strict=True)))


def _split(requests: Chunk, day_ms: int, before: int) -> tuple[DayLog, Chunk]:
    """Split a day's requests from those after midnight, sorted by time, ties by viewer."""
    slots = requests.slots.astype(np.int64)
    starts = slots.cumsum() - slots
    order = np.argsort(requests.time_ms, kind="stable")
    today = np.searchsorted(requests.time_ms[order], day_ms + DAY_MS)
    late = np.sort(order[today:])
    rows = np.repeat(starts[late] - slots[late].cumsum() + slots[late], slots[late]) + np.arange(slots[late].sum())
    carried = Chunk(*(values[late if i < OF_REQUESTS else rows] for i, values in enumerate(requests)))
    return DayLog(day_ms, requests, starts, order[:today], before), carried
