"""The videos of the simulated platform, as an array of records. V videos, D taste dimensions.

`latent` is a unit vector, `quality` standard normal, `buzz` the height and `peak_h` the age of the popularity's peak, `allowed`
the regions as bits. A video's first tag is its taste cluster. Videos are drawn in blocks of rows like the viewers; content
vectors are made on writing, because nothing else reads them.
"""

import numpy as np
import pyarrow as pa

from watchnext.simulator.behaviour import DAY_MS, DIMENSION, HOUR_MS
from watchnext.simulator.population import LANGUAGES, REGION_SHARES, REGIONS, blocks, unit, words
from watchnext.simulator.titles import titles

SAFETY = ("safe", "mature", "unsafe")
COPIES = 1 / 30
VECTOR_NOISE, VECTOR_MISSING = 0.12, 0.08


VIDEO = np.dtype(
    [
        ("latent", np.float32, DIMENSION),
        ("quality", np.float32),
        ("buzz", np.float32),
        ("peak_h", np.float32),
        ("duration_ms", np.int32),
        ("upload_ms", np.int64),
        ("creator", np.int32),
        ("tags", np.int16, 3),  # -1: none
        ("language", np.int8),
        ("allowed", np.uint8),
        ("safety", np.int8),
        ("id", np.int64),
        ("fingerprint", np.int64),
    ],
    align=True,
)


def draw_catalogue(seed: int, *, videos: int, creators: int, directions: np.ndarray, days: int, start_ms: int) -> np.ndarray:
    """Draw the videos. Half are uploaded during the period; one in thirty copies another video's content."""
    rng = np.random.default_rng([seed, 4])
    traits = _traits(rng, creators, directions)
    records = np.empty(videos, VIDEO)
    for part in blocks(videos):
        rng_of_block = np.random.default_rng([seed, 5, part.start])
        for name, values in _block(rng_of_block, part.stop - part.start, traits, directions, days).items():
            records[name][part] = values
    records["upload_ms"] += start_ms
    records["fingerprint"] = rng.permutation(videos) + 10_000_019
    records["id"] = 50_000_017 + 3 * rng.permutation(videos)
    _copy_some(rng, records)
    return records


def draw_uploads(
    seed: int, before: np.ndarray, count: int, creators: int, directions: np.ndarray, *, days: int, start_ms: int
) -> np.ndarray:
    """Draw `count` videos that the creators of the videos `before` upload in the `days` from `start_ms` on; none is a copy."""
    rng = np.random.default_rng([seed, 9, len(before), days])
    traits = _traits(np.random.default_rng([seed, 4]), creators, directions)
    records = np.empty(count, VIDEO)
    for name, values in _block(rng, count, traits, directions, days).items():
        records[name] = values
    records["upload_ms"] = start_ms + np.sort(rng.uniform(0, days, count) * DAY_MS)
    for name, step in (("fingerprint", 1), ("id", 3)):
        records[name] = before[name].max() + step * (1 + rng.permutation(count))
    return records


def _traits(rng: np.random.Generator, creators: int, directions: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "tag": rng.integers(len(directions), size=creators),  # a creator mostly makes videos of one tag, in one language
        "style": unit(rng.standard_normal((creators, directions.shape[1]))).astype(np.float32),
        "region": rng.choice(len(REGIONS), creators, p=REGION_SHARES).astype(np.int8),
        "cumulative": np.cumsum(rng.permutation((1.0 + np.arange(creators)) ** -0.8)),
    }


def _block(
    rng: np.random.Generator, rows: int, traits: dict[str, np.ndarray], directions: np.ndarray, days: int
) -> dict[str, np.ndarray]:
    creator = np.searchsorted(traits["cumulative"], rng.random(rows) * traits["cumulative"][-1], side="right").astype(np.int32)
    home = traits["region"][creator]
    tags, subject = _subjects(rng, traits["tag"][creator], directions)
    noise = unit(rng.standard_normal((rows, directions.shape[1])))
    age_days = np.where(rng.random(rows) < 0.5, rng.exponential(12, rows), -rng.uniform(0, days, rows))
    limited = rng.random(rows) < 0.05  # to the creator's region and a few others
    regions = rng.random((rows, len(REGIONS))) < 0.4
    regions[np.arange(rows), home] = True
    return {
        "latent": unit(unit(subject) + 0.4 * traits["style"][creator] + 0.45 * noise),
        "quality": rng.standard_normal(rows),
        "buzz": 2 * rng.beta(1.2, 1.8, rows),
        "peak_h": np.exp(rng.normal(np.log(16), 0.6, rows)),
        "upload_ms": -(age_days * DAY_MS),
        "duration_ms": (1000 * np.clip(np.exp(rng.normal(np.log(60), 1.0, rows)), 4, 1200)),
        "creator": creator,
        "tags": tags,
        "language": home,
        "allowed": np.packbits(regions | ~limited[:, None], axis=1, bitorder="little")[:, 0],
        "safety": rng.choice(len(SAFETY), rows, p=(0.94, 0.045, 0.015)),
    }


def _subjects(rng: np.random.Generator, home: np.ndarray, directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draw one to three tags per video, 70% with the creator's tag first, and the weighted sum of their directions."""
    count = len(directions)
    first = np.where(rng.random(len(home)) < 0.7, home, rng.integers(count, size=len(home)))
    tags = np.stack([first, rng.integers(count, size=len(home)), rng.integers(count, size=len(home))], 1)
    used = np.arange(3) < rng.integers(1, 4, (len(home), 1))
    used[:, 1] &= tags[:, 1] != tags[:, 0]
    used[:, 2] &= (tags[:, 2] != tags[:, 0]) & (tags[:, 2] != tags[:, 1])
    subject = sum(weight * used[:, [i]] * directions[tags[:, i]] for i, weight in enumerate((1.0, 0.6, 0.4)))
    return np.where(used, tags, -1).astype(np.int16), subject


def _copy_some(rng: np.random.Generator, records: np.ndarray) -> None:
    """Turn one video in thirty into a later upload of another one's content by its own creator."""
    videos, dimension = records["latent"].shape
    copy = np.flatnonzero(rng.random(videos) < COPIES)
    source = rng.integers(videos, size=len(copy))
    for name in ("duration_ms", "quality", "fingerprint", "tags", "safety"):
        records[name][copy] = records[name][source]
    records["latent"][copy] = unit(records["latent"][source] + 0.03 * rng.standard_normal((len(copy), dimension)))
    records["upload_ms"][copy] = np.maximum(records["upload_ms"][copy], records["upload_ms"][source] + HOUR_MS)


def video_table(videos: np.ndarray, seed: int, size: int, part: slice) -> pa.Table:
    """The canonical table of the rows of one of `blocks`; `size` is the length of a content vector."""
    tags, every = videos["tags"][part], videos["allowed"][part]
    names = tuple(f"t{tag:02d}" for tag in range(videos["tags"].max() + 1))
    within = (every[:, None] >> np.arange(len(REGIONS))) & 1 == 1
    return pa.table(
        {
            "video_id": videos["id"][part],
            "creator_id": 9_001 + videos["creator"][part].astype(np.int64),
            "upload_ms": videos["upload_ms"][part],
            "duration_ms": videos["duration_ms"][part].astype(np.int64),
            "tags": _lists(words(tags[tags >= 0], names), tags >= 0),
            "language": words(videos["language"][part], LANGUAGES),
            "regions": _regions(within),
            "safety": words(videos["safety"][part], SAFETY),
            "fingerprint": videos["fingerprint"][part],
            "vector": _content_vectors(videos["latent"][part], seed, size, part.start),
            "title": titles(tags, videos["id"][part]),
        }
    )


def _lists(values: pa.Array, present: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """Build one list per row of `present` (rows, slots), filling true slots from `values` in turn; null if `missing`."""
    offsets = np.concatenate([[0], present.sum(axis=1).cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, values, mask=None if missing is None else pa.array(missing))


def _regions(within: np.ndarray) -> pa.Array:
    """Build the lists of allowed regions, null for everywhere."""
    everywhere = within.all(axis=1)
    present = within & ~everywhere[:, None]
    return _lists(words(np.nonzero(present)[1], REGIONS), present, everywhere)


def _content_vectors(latent: np.ndarray, seed: int, size: int, block: int) -> pa.Array:
    """Draw content vectors: a projection of the latent plus noise, in half precision; some are missing."""
    projection = np.random.default_rng([seed, 6]).standard_normal((latent.shape[1], size)) / np.sqrt(size)
    rng = np.random.default_rng([seed, 7, block])
    vectors = (latent @ projection + VECTOR_NOISE * rng.standard_normal((len(latent), size))).astype(np.float16)
    missing = rng.random(len(latent)) < VECTOR_MISSING
    present = np.broadcast_to(~missing[:, None], vectors.shape)
    return _lists(pa.array(vectors[~missing].astype(np.float32).ravel()), present, missing)
