"""Random scored candidates of one viewer, with the facts that the rules of re-ranking read."""

from types import SimpleNamespace

import numpy as np

from watchnext.types import Candidates, Scored

VIDEOS, BITS = 40, {"DE": 0, "BR": 1}


def world(seed, candidates=VIDEOS):
    """A small catalogue in which everything happens often: copies, ties, missing vectors, non-finite predictions."""
    rng = np.random.default_rng(seed)
    tags = np.array([np.r_[rng.permutation(6)[: (n := rng.integers(0, 5))], [-1] * (4 - n)] for _ in range(VIDEOS)], np.int32)
    facts = SimpleNamespace(
        creator_rows=rng.integers(-1, 8, VIDEOS).astype(np.int32),
        tag_rows=tags,
        regions=rng.choice(np.array([0, 0, 0, 1, 2, 3], np.uint64), VIDEOS),
        safety=rng.choice([0, 0, 0, 0, 1, 2], VIDEOS).astype(np.uint8),
        fingerprints=rng.integers(0, 30, VIDEOS),
        vectors=(rng.integers(-2, 3, (VIDEOS, 3)) * (rng.random((VIDEOS, 1)) < 0.7)).astype(np.float32),
        upload_ms=-3.6e6 * np.random.default_rng([seed, 1]).integers(0, 72, VIDEOS),  # before a request at 0
        languages={"de": 1, "en": 2},
        language_codes=lambda rows: (rows * (seed + 7) % 3).astype(np.int32),
    )
    facts.first_upload_ms = np.full(8, np.nan)
    known = facts.creator_rows >= 0
    np.fmin.at(facts.first_upload_ms, facts.creator_rows[known], facts.upload_ms[known])
    predictions = rng.choice([0.0, 0.25, 0.5, 0.75, 1.0], (candidates, 4))
    predictions[rng.random(predictions.shape) < 0.03] = np.nan
    rows = rng.permutation(VIDEOS)[:candidates].astype(np.int64)
    viewer = {
        "seen": np.sort(rng.permutation(VIDEOS)[: rng.integers(0, 8)]),
        "region": [None, "DE", "BR", "??"][rng.integers(4)],
    }
    return scored(rows, predictions), viewer, facts, rng.random(VIDEOS) < 0.05


def scored(rows, predictions):
    return Scored(Candidates(rows, np.ones(len(rows), np.uint16), np.zeros(len(rows), np.float32)), predictions)
