"""Viewer behaviour: log odds, exact probabilities and draws of the outcomes of a video, in one compiled arithmetic.

A click is a watch of at least 7 s and a long view one of at least 18 s, or of the whole video if that is shorter, as in
KuaiRand. Viewers and videos are arrays of records, `population.VIEWER` and `catalogue.VIDEO`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit

from watchnext.data.tables import OUTCOMES
from watchnext.kernels import kernel
from watchnext.simulator.random import uniform
from watchnext.simulator.watch_laws import mean_s, sigmoid, survival, watch_s

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
DIMENSION = 16  # of tastes
SCALE = DIMENSION**0.5  # the cosine of random unit vectors has standard deviation 1 / sqrt(D)
CLICK_S, LONG_VIEW_S = 7.0, 18.0
FOREIGN, TELEVISION, FOLLOWED = -0.5, 0.3, 0.8  # increments of the log odds
# Given a click, the log odds of each further outcome at appeal 0, and their increment per unit of appeal. Rates as in KuaiRand.
LIKE, SHARE, FOLLOW, COMMENT = (-3.75, 0.4), (-6.95, 0.4), (-6.75, 0.6), (-5.4, 0.3)
HIDE = (-7.4, -0.4)  # given no long view


@dataclass(frozen=True)
class Truth:
    """Expected `watch_ms` and the probability of every outcome of an examined video; arrays of one shape."""

    watch_ms: np.ndarray
    probability: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of a slate by position: `watch_ms`, `received_ms` (UTC) and a mask for every outcome."""

    watch_ms: np.ndarray
    received_ms: np.ndarray
    masks: Mapping[str, np.ndarray]


@kernel(_nrt=False)
def taste_into(taste, viewers, user, time_ms):
    """Compute a viewer's taste at a time: it rotates between two unit vectors at the viewer's speed, and may jump once."""
    viewer = viewers[user]
    angle = viewer.phase + viewer.turn * (time_ms / DAY_MS)
    if time_ms >= viewer.jump_ms:
        angle += viewer.jump
    cosine, sine, norm = math.cos(angle), math.sin(angle), 0.0
    for d in range(len(taste)):
        taste[d] = cosine * viewer.first[d] + sine * viewer.second[d]
        norm += taste[d] * taste[d]
    norm = 1.0 / math.sqrt(norm)
    for d in range(len(taste)):
        taste[d] *= norm


@kernel(_nrt=False)
def popularity_of(videos, video, time_ms):
    """Return quality plus a buzz that rises to its peak after upload and fades; 0 before upload."""
    age = max(time_ms - videos[video].upload_ms, 0) / (HOUR_MS * videos[video].peak_h)
    return 0.6 * videos[video].quality + videos[video].buzz * age * math.exp(1.0 - age)


@njit(nogil=True, _nrt=False)
def appeal_of(physics, viewers, videos, taste, user, video, time_ms, followed):
    """Return the appeal as log odds. A bot likes everything equally."""
    if viewers[user].bot:
        return viewers[user].eagerness
    match = np.float32(0.0)
    for d in range(len(taste)):
        match += taste[d] * videos[video].latent[d]
    appeal = physics.baseline + viewers[user].eagerness + physics.match * SCALE * match
    appeal += physics.popularity * popularity_of(videos, video, time_ms)
    if viewers[user].language != videos[video].language:
        appeal += FOREIGN
    return appeal + FOLLOWED if followed else appeal


@njit(nogil=True, _nrt=False)
def stay_of(physics, viewers, user, appeal, depth):
    """Return the log odds of watching on, after `depth` impressions of the session."""
    if viewers[user].bot:
        return appeal
    return appeal + TELEVISION * viewers[user].television - physics.fatigue * math.log(1.0 + depth / 10.0)


@njit(nogil=True, _nrt=False)
def starts(appeal):
    return sigmoid(3.0 + 0.3 * appeal)


@njit(nogil=True, _nrt=False)
def draw(physics, appeal, stay, duration_s, followed, stream):
    """Draw the watch time in ms and the outcomes, as bits in the order of OUTCOMES, of an examined video."""
    watched = watch_s(physics.watch_law, stay, duration_s, stream) if uniform(stream) < starts(appeal) else 0.0
    flags = 0
    if watched >= min(CLICK_S, duration_s):
        flags = 1
        flags |= 4 * (uniform(stream) < sigmoid(LIKE[0] + LIKE[1] * appeal))
        flags |= 8 * (uniform(stream) < sigmoid(SHARE[0] + SHARE[1] * appeal))
        flags |= 16 * (uniform(stream) < sigmoid(FOLLOW[0] + FOLLOW[1] * appeal) and not followed)
        flags |= 32 * (uniform(stream) < sigmoid(COMMENT[0] + COMMENT[1] * appeal))
    if watched >= min(LONG_VIEW_S, duration_s):
        flags |= 2
    else:
        flags |= 64 * (uniform(stream) < sigmoid(HIDE[0] + HIDE[1] * appeal))
    return math.ceil(watched * 1000.0 - 1e-6), flags  # rounded up, so that a long view stays one in the log


@kernel
def truths(physics, viewers, videos, users, rows, times, followed, depth):
    """Return (N, 1 + outcomes): expected watch time in ms, then probabilities in the order of OUTCOMES."""
    out = np.empty((len(users), 8))
    taste = np.empty(DIMENSION, np.float32)
    for i in range(len(users)):
        user, d = users[i], videos[rows[i]].duration_ms / 1000.0
        taste_into(taste, viewers, user, times[i])
        appeal = appeal_of(physics, viewers, videos, taste, user, rows[i], times[i], followed[i])
        stay, start = stay_of(physics, viewers, user, appeal, depth[i]), starts(appeal)
        click = start * survival(physics.watch_law, stay, d, min(CLICK_S, d))
        long_view = start * survival(physics.watch_law, stay, d, min(LONG_VIEW_S, d))
        out[i, 0] = 1000.0 * start * mean_s(physics.watch_law, stay, d)
        out[i, 1], out[i, 2] = click, long_view
        out[i, 3] = click * sigmoid(LIKE[0] + LIKE[1] * appeal)
        out[i, 4] = click * sigmoid(SHARE[0] + SHARE[1] * appeal)
        out[i, 5] = 0.0 if followed[i] else click * sigmoid(FOLLOW[0] + FOLLOW[1] * appeal)
        out[i, 6] = click * sigmoid(COMMENT[0] + COMMENT[1] * appeal)
        out[i, 7] = (1.0 - long_view) * sigmoid(HIDE[0] + HIDE[1] * appeal)
    return out


def truth_from(table: np.ndarray, shape: tuple[int, ...]) -> Truth:
    probability = {name: table[:, 1 + i].reshape(shape) for i, name in enumerate(OUTCOMES)}
    return Truth(table[:, 0].reshape(shape), probability)
