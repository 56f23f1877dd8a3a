"""Titles of the simulated videos, made from their tags and ids alone: nothing is drawn, and no viewer reads them."""

import numpy as np
import pyarrow as pa

TOPICS = (
    "street food", "bouldering", "night photography", "sourdough", "chess", "synthwave", "woodworking", "tide pools",
    "city cycling", "origami", "stand-up comedy", "marathon training", "houseplants", "card tricks", "sign painting",
    "home espresso", "stargazing", "parkour", "pottery", "bird watching", "retro games", "cold swimming", "calligraphy",
    "train travel", "kite building", "jazz piano", "knife skills", "mushroom hunting", "skateboarding", "knitting",
    "film music", "beekeeping", "drone flying", "speedcubing", "yoga", "thrift shopping", "language learning", "tiny houses",
    "sketching", "salsa dancing",
)  # fmt: skip
ALONE = (
    "{A} for beginners", "What nobody tells you about {a}", "{A}, explained in one take", "My first week of {a}",
    "The quiet side of {a}", "{A}: three mistakes I made", "A whole day of {a}", "{A} on a small budget",
    "{A}: harder than it looks", "{A}, part {n}", "I tried {a} for {n} days", "The best of {a} this month",
)  # fmt: skip
TOGETHER = (
    "{A} meets {b}", "{A} or {b}? I tried both", "From {a} to {b} in {n} days", "{A}, with a little {b}",
    "What {a} taught me about {b}", "{A} for people who love {b}", "Too much {a}, not enough {b}", "{A} and {b}, part {n}",
)  # fmt: skip


def titles(tags: np.ndarray, ids: np.ndarray) -> pa.Array:
    """Return a title a video (V,), of its first two `tags` (V, 3), -1 for none, and its id (V,)."""
    return pa.array(
        [_title(first, second, each // 3) for (first, second, _), each in zip(tags.tolist(), ids.tolist(), strict=True)]
    )


def _title(first: int, second: int, number: int) -> str:
    patterns = ALONE if second < 0 else TOGETHER
    first, second = (TOPICS[tag % len(TOPICS)] for tag in (first, second))
    pattern, part = patterns[number % len(patterns)], 2 + number // len(patterns) % 28
    return pattern.format(a=first, A=first[0].upper() + first[1:], b=second, n=part)
