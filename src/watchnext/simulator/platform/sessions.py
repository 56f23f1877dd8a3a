"""Sessions: the compiled loop over a day of some viewers, session by session, request by request.

Every viewer's day has its own random stream, and viewers are independent: blocks of viewers may run in any order.
"""

import math

import numpy as np
from numba import njit

from watchnext.kernels import kernel
from watchnext.simulator.behaviour import DAY_MS, HOUR_MS
from watchnext.simulator.platform.slates import (
    MAX_SLOTS,
    MIN_SLOTS,
    SESSIONS,
    UNIFORM,
    blur_into,
    fill_slate,
    remember,
    watch_slate,
)
from watchnext.simulator.random import normal, poisson, reset, uniform
from watchnext.simulator.watch_laws import sigmoid

DAY = 1  # purpose of a random stream
REQUESTS = 24  # most requests per session
MOST = SESSIONS * REQUESTS  # most requests per viewer and day
WEEK = (0.94, 0.9, 0.9, 0.92, 1.0, 1.18, 1.16)  # from Monday
# Sessions by local hour, and how far local time runs ahead in each region, in hours.
HOURS = np.array([6.4, 4, 2.6, 1.7, 1.4, 1.7, 3.1, 4.6, 6, 7, 8, 9, 10, 10, 9, 9.4, 10, 10.5, 10, 10, 10, 11, 11.3, 10])
AHEAD_H = np.array([-3.0, 1.0, 5.5, -6.0])
HOME, DISCOVER = 0, 1


@njit(nogil=True, _nrt=False)
def start_times(starts, platform, user, day_ms, stream):
    """Draw the sorted session starts of a viewer's day; returns their number."""
    viewers = platform.viewers
    mean = viewers[user].activity * WEEK[(day_ms // DAY_MS + 3) % 7]
    count = min(poisson(stream, min(mean, 20.0)), SESSIONS)
    for i in range(count):
        while True:  # an hour by rejection
            hour = uniform(stream) * 24.0
            if uniform(stream) * 11.3 < HOURS[int(hour)]:
                break
        hour = (hour + viewers[user].shift_h - AHEAD_H[viewers[user].region]) % 24.0
        starts[i] = day_ms + min(int(hour * HOUR_MS), DAY_MS - 1)
    for i in range(1, count):
        for j in range(i, 0, -1):
            if starts[j - 1] > starts[j]:
                starts[j - 1], starts[j] = starts[j], starts[j - 1]
    return count


@njit(nogil=True, _nrt=False)
def session(platform, inventory, memory, scratch, user, time_ms, day_ms, out, requests, row):
    """Simulate one session from `time_ms` on; returns the numbers of requests and impressions in `out` after it."""
    stream, depth = scratch.stream, 0
    surface = DISCOVER if uniform(stream) < 0.25 else HOME
    period_ms, periods = DAY_MS // len(inventory.since_ms), len(inventory.since_ms)
    for number in range(REQUESTS):
        if uniform(stream) < 0.08:
            surface = 1 - surface
        kind = surface | UNIFORM * (uniform(stream) < platform.random_requests)
        period = min(
            (time_ms - day_ms) // period_ms, periods - 1
        )  # after midnight the last period of the old day still applies
        slots = MIN_SLOTS + int(uniform(stream) * (MAX_SLOTS - MIN_SLOTS + 1))
        slots = fill_slate(platform, inventory, memory, scratch, user, time_ms, period, kind, slots, out, row)
        if slots == 0:
            break
        watched, long_views = watch_slate(platform, memory, scratch, user, time_ms, surface, depth, slots, out, row)
        remember(memory, user, scratch.slate, slots)
        out.time_ms[requests], out.user[requests], out.slots[requests] = time_ms, user, slots
        out.kind[requests], out.depth[requests] = kind, depth
        requests, row, depth = requests + 1, row + slots, depth + slots
        time_ms += watched + int(1000.0 * (2.0 + 12.0 * math.exp(1.1 * normal(stream))))
        if uniform(stream) >= sigmoid(0.1 + 2.0 * long_views / slots - 0.05 * number):  # a bad slate, or enough of it
            break
    memory.free_ms[user] = time_ms + HOUR_MS // 2
    return requests, row


@kernel(_nrt=False)
def simulate(platform, inventory, memory, scratch, first, end, day_ms, out):
    """Simulate the day of the viewers from `first` on, until `end` or until `out` is full.

    Returns the next viewer and the numbers of requests and impressions in `out`.
    """
    requests = row = 0
    for user in range(first, end):
        if requests + MOST > len(out.time_ms):
            return user, requests, row
        reset(scratch.stream, platform.seed, DAY, user, day_ms)
        sessions = start_times(scratch.starts, platform, user, day_ms, scratch.stream)
        if sessions:
            blur_into(scratch, platform, user)
        for i in range(sessions):
            time_ms = max(scratch.starts[i], memory.free_ms[user])
            if time_ms >= platform.viewers[user].joined_ms and time_ms < day_ms + DAY_MS:
                requests, row = session(platform, inventory, memory, scratch, user, time_ms, day_ms, out, requests, row)
    return end, requests, row
