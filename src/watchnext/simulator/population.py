"""The viewers of the simulated platform, some of them bots, as an array of records. U users.

A taste rotates between the unit vectors `first` and `second` and back, from `phase` at time 0 by `turn` radians per day; from
`jump_ms` on it is ahead by `jump` radians (`shift.Shift`).
`activity` is sessions per day, `shift_h` the delay of a viewer's daily rhythm; codes index the tuples below.
Viewers are drawn in blocks of rows, each from its own generator, so that a million viewers need no more than their arrays.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from watchnext.simulator.behaviour import DAY_MS, DIMENSION

REGIONS = ("br", "de", "in", "us")
REGION_SHARES = (0.2, 0.15, 0.3, 0.35)
LANGUAGES = ("pt", "de", "hi", "en")  # by region
AGE_GROUPS = ("13-17", "18-24", "25-34", "35-49", "50+")
DEVICES = ("phone", "tablet", "tv")
ACTIVITY_SPREAD = 0.9  # standard deviation of log activity
EAGERNESS_SPREAD = 1.2
BOTS, BOT_ACTIVITY, BOT_EAGERNESS = 0.01, 8.0, 1.5
BLOCK = 65_536


VIEWER = np.dtype(
    [
        ("first", np.float32, DIMENSION),
        ("second", np.float32, DIMENSION),
        ("phase", np.float64),
        ("turn", np.float64),
        ("jump", np.float64),
        ("jump_ms", np.int64),
        ("id", np.int64),
        ("joined_ms", np.int64),
        ("account_days", np.int32),
        ("activity", np.float32),
        ("shift_h", np.float32),
        ("eagerness", np.float32),
        ("region", np.int8),
        ("language", np.int8),
        ("age", np.int8),  # -1: unknown
        ("device", np.int8),
        ("television", np.bool_),
        ("bot", np.bool_),
    ],
    align=True,
)


def blocks(rows: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, rows)) for start in range(0, rows, BLOCK))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scale to length 1 along the last axis."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def draw_viewers(
    seed: int, *, users: int, directions: np.ndarray, days: int, start_ms: int, sessions: float, drift_days: float | None
) -> np.ndarray:
    """Draw the viewers. `sessions` is the mean of the heavy-tailed activity; one viewer in eight joins during the period."""
    favourite = np.random.default_rng([seed, 1]).integers(len(directions), size=len(AGE_GROUPS) * len(REGIONS))
    viewers = np.empty(users, VIEWER)
    viewers["jump"], viewers["jump_ms"] = 0.0, np.iinfo(np.int64).max
    for part in blocks(users):
        rng = np.random.default_rng([seed, 2, part.start])
        for name, values in _block(rng, part.stop - part.start, directions, favourite, days, drift_days).items():
            viewers[name][part] = values
    viewers["activity"] *= np.float32(sessions)
    viewers["joined_ms"] += start_ms
    viewers["id"] = 1_000_003 + 7 * np.random.default_rng([seed, 3]).permutation(users)
    return viewers


def _block(
    rng: np.random.Generator, rows: int, directions: np.ndarray, favourite: np.ndarray, days: int, drift_days: float | None
) -> dict[str, np.ndarray]:
    region = rng.choice(len(REGIONS), rows, p=REGION_SHARES).astype(np.int8)
    age = rng.choice(len(AGE_GROUPS), rows, p=(0.1, 0.3, 0.3, 0.2, 0.1)).astype(np.int8)
    device = rng.choice(len(DEVICES), rows, p=(0.8, 0.12, 0.08))
    bot, newcomer = rng.random(rows) < BOTS, rng.random(rows) < 0.125
    group = directions[
        favourite[age.astype(np.int64) * len(REGIONS) + region]
    ]  # viewers of one age and region share a favourite tag
    activity = np.exp(ACTIVITY_SPREAD * rng.standard_normal(rows) - ACTIVITY_SPREAD**2 / 2) * np.where(bot, BOT_ACTIVITY, 1.0)
    turn = 0.0 if drift_days is None else np.pi / 2 / drift_days * rng.gamma(2.0, 0.5, rows)
    return {
        "first": _tastes(rng, rows, directions, group),
        "second": _tastes(rng, rows, directions, group),
        "phase": rng.uniform(0, 2 * np.pi, rows),
        "turn": turn * rng.choice((-1.0, 1.0), rows),
        "activity": activity,
        "shift_h": rng.normal(0, 1.5, rows),
        "joined_ms": np.where(newcomer, rng.uniform(0, days, rows) * DAY_MS, 0).astype(np.int64),
        "eagerness": np.where(bot, BOT_EAGERNESS, EAGERNESS_SPREAD * rng.standard_normal(rows)),
        "region": region,
        "language": np.where(rng.random(rows) < 0.9, region, LANGUAGES.index("en")),
        "television": device == DEVICES.index("tv"),
        "bot": bot,
        "age": np.where(rng.random(rows) < 0.95, age, -1),
        "device": device,
        "account_days": np.where(newcomer, 0, 1 + rng.gamma(1.5, 250, rows)),
    }


def _tastes(rng: np.random.Generator, rows: int, directions: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Draw tastes: three tags of falling weight, the group's tag, and noise."""
    tags, dimension = directions.shape
    taste = 0.35 * group + 0.35 * unit(rng.standard_normal((rows, dimension)))
    for weight in (1.0, 0.6, 0.3):
        taste += weight * directions[rng.integers(tags, size=rows)]
    return unit(taste)


def user_table(viewers: np.ndarray, part: slice) -> pa.Table:
    """Build the canonical users table of some rows."""
    return pa.table(
        {
            "user_id": viewers["id"][part],
            "region": words(viewers["region"][part], REGIONS),
            "age_group": words(viewers["age"][part], AGE_GROUPS),
            "device": words(viewers["device"][part], DEVICES),
            "user_language": words(viewers["language"][part], LANGUAGES),
            "account_age_days": viewers["account_days"][part].astype(np.int64),
        }
    )


def words(codes: np.ndarray, names: tuple[str, ...]) -> pa.Array:
    """Decode codes to strings; -1 is null."""
    keys = pa.array(np.maximum(codes, 0).astype(np.int16), mask=codes < 0)
    return pa.DictionaryArray.from_arrays(keys, pa.array(names)).cast(pa.string())
