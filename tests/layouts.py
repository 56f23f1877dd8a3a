"""One small simulated log, written in every layout that a loader names."""

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from watchnext.data.loaders.kuairand import (
    FULL,
    LOG_COLUMNS,
    OUTCOME_OF,
    PURE,
    USER_CODES,
    USER_NUMBERS,
    VIDEO_COLUMNS,
    Edition,
)
from watchnext.data.loaders.vk_lsvd import OUTCOME_OF as VK_OUTCOME_OF
from watchnext.data.tables import OUTCOMES, Tables

DAY_MS = 86_400_000
APRIL = 1_650_384_000_000  # 2022-04-19 16:00 UTC: the 20th begins in Shanghai


def _days_after(tables: Tables) -> pl.Expr:
    """Whole and part days since midnight before the first impression."""
    return (pl.col("time_ms") - tables.impressions["time_ms"].min() // DAY_MS * DAY_MS) / DAY_MS


def _text(path: Path, rows: list[tuple], separator: str) -> None:
    path.write_text("".join(separator.join(map(str, row)) + "\n" for row in rows), encoding="latin-1")


def _ratings(tables: Tables, *, stars: list[float]) -> pl.DataFrame:
    """Watches as ratings, a hundred and fifty days for one of the world: a year's films, as MovieLens' split wants them."""
    watched = tables.impressions.filter(pl.col("watch_ms") > 0).with_columns(after=_days_after(tables) * 150)
    place = (pl.col("watch_ms").rank("ordinal") * len(stars) // (pl.len() + 1)).cast(pl.Int64)
    return watched.select(
        "user_id",
        "video_id",
        rating=place.replace_strict(dict(enumerate(stars)), return_dtype=pl.Float64),
        timestamp=(946_684_800 + pl.col("after") * 86_400).cast(pl.Int64),
    )


def _films(tables: Tables) -> list[tuple]:
    genres = {video: "|".join(map(str, tags or ["none"])) for video, tags in tables.videos.select("video_id", "tags").rows()}
    return [(video, f"Film {video} ({1950 + video % 60})", named) for video, named in genres.items()]


def movielens_1m(tables: Tables, root: Path) -> None:
    ratings = _ratings(tables, stars=[1, 2, 3, 4, 5]).with_columns(pl.col("rating").cast(pl.Int64))
    _text(root / "ratings.dat", ratings.rows(), "::")
    _text(root / "movies.dat", _films(tables), "::")
    _text(root / "users.dat", [(user, "FM"[user % 2], 25, user % 7, "00000") for user in tables.users["user_id"]], "::")


def movielens_32m(tables: Tables, root: Path) -> None:
    """Nothing of users, nor of genres of some films."""
    ratings = [("userId", "movieId", "rating", "timestamp"), *_ratings(tables, stars=[0.5, 2, 3.5, 4, 4.5, 5]).rows()]
    films = [(*film[:2], film[2] if film[0] % 5 else "(no genres listed)") for film in _films(tables)]
    _text(root / "ratings.csv", ratings, ",")
    _text(root / "movies.csv", [("movieId", "title", "genres"), *films], ",")


def sequences(tables: Tables, root: Path) -> None:
    watched = tables.impressions.filter(pl.col("watch_ms") > 0).group_by("user_id", maintain_order=True)
    _text(root / "log.txt", [(user, *items) for user, items in watched.agg("video_id").rows()], " ")


def vk_lsvd(tables: Tables, root: Path) -> None:
    """A week for a day, the last of which is the one that was published as validation."""
    metadata, rng = root / "metadata", np.random.default_rng(0)
    metadata.mkdir(parents=True)
    videos, users = tables.videos["video_id"], tables.users["user_id"]
    short = {"age": pl.UInt8, "gender": pl.UInt8, "geo": pl.UInt8}
    of_users = {"user_id": users, "age": users % 50 + 18, "gender": users % 2, "geo": users % 5}
    pl.DataFrame(of_users).cast({"user_id": pl.UInt32, **short}).write_parquet(metadata / "users_metadata.parquet")
    items = tables.videos.select(
        item_id=pl.col("video_id").cast(pl.UInt32),
        author_id=pl.col("creator_id").cast(pl.UInt32),
        duration=(pl.col("duration_ms") // 1000).clip(1, 255).cast(pl.UInt8),
    )
    items.write_parquet(metadata / "items_metadata.parquet")
    vectors = rng.normal(size=(len(videos), 64)).astype(np.float16)
    np.savez(metadata / "item_embeddings.npz", item_id=videos.to_numpy().astype(np.uint32), embedding=vectors)
    days = tables.impressions["day"].unique().sort().to_list()
    for number, day in enumerate(days):
        week = 26 - len(days) + number
        rows = tables.impressions.filter(pl.col("day") == day).select(
            pl.col("user_id").cast(pl.UInt32),
            item_id=pl.col("video_id").cast(pl.UInt32),
            place=pl.lit(3, pl.UInt8),
            platform=(pl.col("user_id") % 3).cast(pl.UInt8),
            agent=(pl.col("user_id") % 2).cast(pl.UInt8),
            timespent=(pl.col("watch_ms") // 1000).clip(0, 255).cast(pl.UInt8),
            bookmark=pl.lit(False),
            **{theirs: pl.col(ours) for theirs, ours in VK_OUTCOME_OF.items()},
        )
        part = root / "subsamples" / "ur0.01_ir0.01" / ("validation" if week == 25 else "train")
        part.mkdir(parents=True, exist_ok=True)
        rows.write_parquet(part / f"week_{week:02d}.parquet")


def _csv(path: Path, columns: tuple[str, ...], rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval=0)
        writer.writeheader()
        writer.writerows(rows)


def _kuairand(tables: Tables, root: Path, edition: Edition) -> None:
    duration = tables.videos.select("video_id", "duration_ms")
    rows = tables.impressions.join(duration, on="video_id", how="left").select(
        "user_id",
        "video_id",
        "duration_ms",
        time_ms=APRIL + (_days_after(tables) * DAY_MS).cast(pl.Int64),
        date=20220420 + _days_after(tables).cast(pl.Int64),
        tab=pl.lit(1),
        play_time_ms="watch_ms",
        is_rand=pl.lit(0),
        **{theirs: pl.col(ours).cast(pl.Int8) for theirs, ours in OUTCOME_OF.items()},
    )
    for name in edition.logs[:2]:  # of 27K they are the parts of one log
        _csv(root / "data" / name, LOG_COLUMNS, rows[: len(rows) // 2].to_dicts())
        rows = rows[len(rows) // 2 :]
    codes = ("user_id", "user_active_degree", *USER_NUMBERS, *USER_CODES)
    people = [{"user_id": user, "user_active_degree": "full_active"} for user in tables.users["user_id"]]
    _csv(root / "data" / edition.users, codes, people)
    films = [
        {
            "video_id": video,
            "author_id": author,
            "upload_dt": "2022-04-10",
            "video_duration": float(length or 0),
            "server_width": 720.0,
            "server_height": 1280.0,
            "tag": ",".join(map(str, tags or [])),
            "video_type": "NORMAL",
            "upload_type": "LongImport",
        }
        for video, author, length, tags in tables.videos.select("video_id", "creator_id", "duration_ms", "tags").rows()
    ]
    _csv(root / "data" / edition.videos, VIDEO_COLUMNS, films)


def kuairand_pure(tables: Tables, root: Path) -> None:
    _kuairand(tables, root, PURE)


def kuairand_27k(tables: Tables, root: Path) -> None:
    _kuairand(tables, root, FULL)


def news(tables: Tables, root: Path) -> None:
    """Clicks alone, which stand for what was read. Nothing is watched; no article has a length, author, tag or region; ids are
    words."""
    named = {name: pl.format(name[0] + "{}", name) for name in ("user_id", "video_id", "request_id")}
    watched = {"long_view": "click", "watch_ms": pl.lit(0, pl.Int64)}
    log = tables.impressions.select("time_ms", "day", "click", **watched, **named)
    log.write_parquet(root / "impressions.parquet")
    tables.users.select(named["user_id"].alias("user_id")).write_parquet(root / "users.parquet")
    tables.videos.select("upload_ms", video_id=named["video_id"]).write_parquet(root / "videos.parquet")


def watched(tables: Tables, root: Path) -> None:
    """Seconds alone, of videos without lengths, by few viewers over few days."""
    few = tables.users["user_id"][:6]
    log = tables.impressions.filter(pl.col("user_id").is_in(few.implode()))
    log.drop(*OUTCOMES, "propensity", "policy", "surface", "received_ms", "position", strict=False).write_parquet(
        root / "impressions.parquet"
    )
    tables.users.filter(pl.col("user_id").is_in(few.implode())).select("user_id").write_parquet(root / "users.parquet")
    tables.videos.select("video_id").write_parquet(root / "videos.parquet")


# Layout > its data preset, the variable that says where it is, what writes it, and overrides that it needs.
LAYOUTS: dict[str, tuple[str, str, Callable[[Tables, Path], None], tuple[str, ...]]] = {
    "MovieLens 1M": ("movielens", "MOVIELENS_ROOT", movielens_1m, ()),
    "MovieLens 32M": ("movielens", "MOVIELENS_ROOT", movielens_32m, ()),
    "sequences": ("sequences", "SEQUENCES_FILE", sequences, ()),
    "VK-LSVD": ("vk_lsvd", "VK_LSVD_ROOT", vk_lsvd, ()),
    "KuaiRand-Pure": ("kuairand", "KUAIRAND_ROOT", kuairand_pure, ()),
    "KuaiRand-27K": ("kuairand_27k", "KUAIRAND_ROOT", kuairand_27k, ()),
    "clicks alone": ("own", "OWN_ROOT", news, ()),
    "seconds alone": ("own", "OWN_ROOT", watched, ("labels.long_view_s=5",)),
}
