"""Who lives on the simulated platform: its viewers, whose tastes drift, and its catalogue of videos.

D latent taste dimensions, U users, V videos, K daily knots. Rows of `directions` and tastes are unit vectors, so that the inner
product of a taste and a video is a cosine.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

DAY_MS = 86_400_000
REGIONS = ("br", "de", "in", "us")
REGION_SHARES = (0.2, 0.15, 0.3, 0.35)
LANGUAGE_OF = np.array(["pt", "de", "hi", "en"])  # by region
AGE_GROUPS = np.array(["13-17", "18-24", "25-34", "35-49", "50+"])
DEVICES = np.array(["phone", "tablet", "tv"])
ACTIVITY_SPREAD = 0.9  # standard deviation of log activity
SAFETY = np.array(["safe", "mature", "unsafe"])


@dataclass(frozen=True)
class Viewers:
    """Users by row. `tastes` (U, K, D) at the start of each day, `activity` requests a day, `peak_h` their favourite hour."""

    table: pl.DataFrame
    tastes: np.ndarray
    activity: np.ndarray
    peak_h: np.ndarray
    joined_ms: np.ndarray
    eagerness: np.ndarray
    region: np.ndarray
    language: np.ndarray
    television: np.ndarray


@dataclass(frozen=True)
class Catalogue:
    """Videos by row. `latent` (V, D), `quality` standard normal, `buzz` the height and `peak_h` the age of the popularity's
    peak, `allowed` (V, regions)."""

    table: pl.DataFrame
    latent: np.ndarray
    quality: np.ndarray
    buzz: np.ndarray
    peak_h: np.ndarray
    uploaded_ms: np.ndarray
    duration_s: np.ndarray
    language: np.ndarray
    allowed: np.ndarray
    unsafe: np.ndarray


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scaled to length 1 along the last axis."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def draw_viewers(
    rng: np.random.Generator,
    *,
    users: int,
    directions: np.ndarray,
    knots: int,
    days: int,
    start_ms: int,
    requests_per_day: float,
) -> Viewers:
    """`requests_per_day` is the mean of the heavy-tailed activity; one viewer in eight joins during the period."""
    region = rng.choice(len(REGIONS), users, p=REGION_SHARES)
    age = rng.choice(len(AGE_GROUPS), users, p=(0.1, 0.3, 0.3, 0.2, 0.1))
    device = rng.choice(len(DEVICES), users, p=(0.8, 0.12, 0.08))
    language = np.where(rng.random(users) < 0.9, LANGUAGE_OF[region], "en")
    newcomer = rng.random(users) < 0.125
    joined_ms = start_ms + np.where(newcomer, rng.uniform(0, days, users) * DAY_MS, 0).astype(np.int64)
    account_days = np.where(newcomer, 0, 1 + rng.gamma(1.5, 250, users).astype(np.int64))
    table = {
        "user_id": 1_000_003 + 7 * rng.permutation(users),
        "region": np.array(REGIONS)[region],
        "age_group": AGE_GROUPS[age],
        "device": DEVICES[device],
        "user_language": language,
        "account_age_days": account_days,
    }
    told = pl.Series(rng.random(users) >= 0.05)  # the others keep their age to themselves
    return Viewers(
        table=pl.DataFrame(table).with_columns(pl.when(told).then("age_group").alias("age_group")),
        tastes=_drifting(rng, directions, age * len(REGIONS) + region, knots),
        activity=requests_per_day * np.exp(ACTIVITY_SPREAD * rng.standard_normal(users) - ACTIVITY_SPREAD**2 / 2),
        peak_h=rng.normal(20, 2.5, users),
        joined_ms=joined_ms,
        eagerness=0.5 * rng.standard_normal(users),
        region=region,
        language=language,
        television=device == 2,
    )


def _drifting(rng: np.random.Generator, directions: np.ndarray, group: np.ndarray, knots: int) -> np.ndarray:
    """Tastes (U, K, D): an Ornstein-Uhlenbeck walk on the sphere, whose target now and then turns to another tag."""
    (tags, dimension), users = directions.shape, len(group)
    group_tag = rng.permutation(np.arange(20 * tags) % tags)[group]  # viewers of one age and region lean to one tag
    own = rng.dirichlet(np.full(tags, 0.04), users) @ directions
    target = unit(unit(own) + 0.35 * directions[group_tag])
    taste, tastes = target, np.empty((users, knots, dimension), np.float32)
    for knot in range(knots):
        tastes[:, knot] = taste
        turned = unit(0.5 * target + directions[rng.integers(tags, size=users)])
        target = np.where(rng.random((users, 1)) < 0.08, turned, target)
        taste = unit(taste + 0.3 * (target - taste) + 0.06 * rng.standard_normal((users, dimension)))
    return tastes


def draw_catalogue(
    rng: np.random.Generator, *, videos: int, creators: int, directions: np.ndarray, days: int, start_ms: int, vector_size: int
) -> Catalogue:
    """Half of the videos are uploaded during the period; one in thirty copies another video's content."""
    tags, dimension = directions.shape
    home = rng.integers(tags, size=creators)  # a creator mostly makes videos of one tag, in one language
    creator_taste = unit(directions[home] + 0.5 * unit(rng.standard_normal((creators, dimension))))
    creator_region = rng.choice(len(REGIONS), creators, p=REGION_SHARES)
    creator = rng.choice(creators, videos, p=_shares(rng, creators, 0.8))
    tag_lists, subject = _subjects(rng, home[creator], directions)
    age_days = np.where(rng.random(videos) < 0.5, rng.exponential(12, videos), -rng.uniform(0, days, videos))
    drawn = {
        "creator": creator,
        "region": creator_region[creator],
        "tags": tag_lists,
        "latent": unit(unit(subject) + 0.5 * creator_taste[creator] + 0.45 * unit(rng.standard_normal((videos, dimension)))),
        "duration_s": np.clip(np.exp(rng.normal(np.log(25), 0.8, videos)), 4, 900),
        "uploaded_ms": start_ms - (age_days * DAY_MS).astype(np.int64),
        "quality": rng.standard_normal(videos),
        "fingerprint": rng.permutation(videos) + 10_000_019,
    }
    _copy_some(rng, drawn)
    return _catalogue(rng, drawn, vector_size)


def _copy_some(rng: np.random.Generator, drawn: dict) -> None:
    """Turn one video in thirty into a later upload of another one's content by its own creator."""
    videos, dimension = drawn["latent"].shape
    copy = np.flatnonzero(rng.random(videos) < 1 / 30)
    source = rng.integers(videos, size=len(copy))
    for name in ("duration_s", "quality", "fingerprint", "tags"):
        drawn[name][copy] = drawn[name][source]
    drawn["latent"][copy] = unit(drawn["latent"][source] + 0.05 * rng.standard_normal((len(copy), dimension)))
    drawn["uploaded_ms"][copy] = np.maximum(drawn["uploaded_ms"][copy], drawn["uploaded_ms"][source] + 3_600_000)


def _catalogue(rng: np.random.Generator, drawn: dict, vector_size: int) -> Catalogue:
    videos, language = len(drawn["quality"]), LANGUAGE_OF[drawn["region"]]
    allowed, safety = _allowed(rng, drawn["region"]), rng.choice(len(SAFETY), videos, p=(0.94, 0.045, 0.015))
    table = {
        "video_id": 50_000_017 + 3 * rng.permutation(videos),
        "creator_id": 9_001 + drawn["creator"],
        "upload_ms": drawn["uploaded_ms"],
        "duration_ms": (drawn["duration_s"] * 1000).astype(np.int64),
        "tags": drawn["tags"].tolist(),
        "language": language,
        "regions": [None if row.all() else [REGIONS[i] for i in np.flatnonzero(row)] for row in allowed],
        "safety": SAFETY[safety],
        "fingerprint": drawn["fingerprint"],
        "vector": _content_vectors(rng, drawn["latent"], vector_size),
    }
    lists = {"vector": pl.List(pl.Float32), "tags": pl.List(pl.String), "regions": pl.List(pl.String)}
    return Catalogue(
        table=pl.DataFrame(table, schema_overrides=lists),
        latent=drawn["latent"].astype(np.float32),
        quality=drawn["quality"],
        buzz=rng.gamma(1.0, 0.7, videos),
        peak_h=np.exp(rng.normal(np.log(16), 0.6, videos)),
        uploaded_ms=drawn["uploaded_ms"],
        duration_s=drawn["duration_s"],
        language=language,
        allowed=allowed,
        unsafe=safety == 2,
    )


def _allowed(rng: np.random.Generator, home: np.ndarray) -> np.ndarray:
    """(V, regions): one video in twenty is limited to its home region and a few others."""
    limited = rng.random(len(home)) < 0.05
    allowed = ~limited[:, None] | (rng.random((len(home), len(REGIONS))) < 0.4)
    allowed[np.arange(len(home)), home] = True
    return allowed


def _shares(rng: np.random.Generator, size: int, power: float) -> np.ndarray:
    """Zipf shares in random order."""
    shares = rng.permutation((1.0 + np.arange(size)) ** -power)
    return shares / shares.sum()


def _subjects(rng: np.random.Generator, home: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One to three tags a video, the creator's own seven times in ten, and the mean of their directions."""
    tags = len(directions)
    first = np.where(rng.random(len(home)) < 0.7, home, rng.integers(tags, size=len(home)))
    chosen = np.stack([first, rng.integers(tags, size=len(home)), rng.integers(tags, size=len(home))], 1)
    used = np.arange(3) < rng.integers(1, 4, (len(home), 1))
    weights = used * np.array([1.0, 0.6, 0.4])
    names = np.empty(len(home), object)  # of lists, so that copies can be made by row
    for video, (row, keep) in enumerate(zip(chosen, used, strict=True)):
        names[video] = [f"t{tag:02d}" for tag in dict.fromkeys(row[keep])]
    return names, (weights[:, :, None] * directions[chosen]).sum(1)


def _content_vectors(rng: np.random.Generator, latent: np.ndarray, size: int) -> list[list[float] | None]:
    """What an encoder would see of the content: a projection and noise, rounded to half precision; one in twelve is missing."""
    projection = rng.standard_normal((latent.shape[1], size)) / np.sqrt(size)
    seen = (latent @ projection + 0.12 * rng.standard_normal((len(latent), size))).astype(np.float16).astype(np.float32)
    return [None if absent else row.tolist() for row, absent in zip(seen, rng.random(len(latent)) < 0.08, strict=True)]
