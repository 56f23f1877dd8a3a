"""Watch time of a started video: three laws, each with draws, a survival function and a mean in closed form.

`stay` is the log odds of watching on, `d` the duration in seconds, `law` an index into WATCH_LAWS.

logit_logistic  a viewer skips within seconds, leaves on the way, or finishes, longer videos less often; finished ones go on
                into replays, short ones longer. Skips are log-logistic, leaving is logit-logistic in the watch ratio
lognormal       one lognormal time whose median grows with `stay`, cut at the end of the video; nobody replays
skip_or_finish  nothing between a skip of a few seconds and the end
"""

import math

from numba import njit

from watchnext.simulator.random import exponential, logistic, normal, uniform

WATCH_LAWS = ("logit_logistic", "lognormal", "skip_or_finish")
LOGIT_LOGISTIC, LOGNORMAL = 0, 1
SKIP_S = 2.2  # median of a skip; its odds fall with the square of the time
LEAVE_S = 27.0  # typical watch time of viewers who leave on the way
SPREAD = 1.5  # standard deviation of the logarithm, of the law `lognormal`


@njit(nogil=True, _nrt=False)
def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


@njit(nogil=True, _nrt=False)
def _phi(x):
    return 0.5 * math.erfc(-x / math.sqrt(2.0))


@njit(nogil=True, _nrt=False)
def _mean_logit_logistic(location):
    """E[sigmoid(location + X)], X standard logistic: with a = exp(-location), (1 - a + a ln a) / (1 - a)^2."""
    if abs(location) < 1e-3:  # 0 / 0 there; this is its series
        return 0.5 + location / 6.0
    a = math.exp(-location)
    return (1.0 - a - a * location) / (1.0 - a) ** 2


@njit(nogil=True, _nrt=False)
def _replay(d):
    """Return the mean share of a finished video that is watched again."""
    return 0.03 + min(1.0, 4.0 / d)


@njit(nogil=True, _nrt=False)
def _engages(law, stay, d):
    if law == LOGIT_LOGISTIC:
        return sigmoid(0.3 + stay)
    return sigmoid(0.1 + stay - 0.35 * math.log(d / 35.0))


@njit(nogil=True, _nrt=False)
def _finishes(stay, d):
    """Return the probability that an engaged viewer finishes."""
    return sigmoid(-0.2 + 0.3 * stay - 1.05 * math.log(d / 35.0))


@njit(nogil=True, _nrt=False)
def _leaves_at(stay, d):
    """Return the location of the watch ratio's log odds for viewers who leave on the way."""
    return 0.25 + 0.3 * stay - math.log(d / LEAVE_S)


@njit(nogil=True, _nrt=False)
def _log_median(stay, d):
    return 2.2 + 0.9 * stay + 0.25 * math.log(d / 60.0)


@njit(nogil=True, _nrt=False)
def watch_s(law, stay, d, stream):
    """Draw one watch time in seconds."""
    if law == LOGNORMAL:
        return min(d, math.exp(_log_median(stay, d) + SPREAD * normal(stream)))
    if uniform(stream) >= _engages(law, stay, d):
        if law == LOGIT_LOGISTIC:
            odds = uniform(stream)
            return min(d, SKIP_S * math.sqrt(odds / (1.0 - odds)))
        return min(d, SKIP_S * exponential(stream))
    if law != LOGIT_LOGISTIC or uniform(stream) < _finishes(stay, d):
        return d * (1.0 + _replay(d) * exponential(stream))
    return d * sigmoid(_leaves_at(stay, d) + logistic(stream))


@njit(nogil=True, _nrt=False)
def _finished_beyond(d, x):
    return 1.0 if x <= d else math.exp((1.0 - x / d) / _replay(d))


@njit(nogil=True, _nrt=False)
def survival(law, stay, d, x):
    """Return the probability of a watch of at least x seconds, x > 0."""
    if law == LOGNORMAL:
        return _phi((_log_median(stay, d) - math.log(x)) / SPREAD) if x <= d else 0.0
    engages = _engages(law, stay, d)
    if law != LOGIT_LOGISTIC:
        return engages * _finished_beyond(d, x) + (1.0 - engages) * (math.exp(-x / SKIP_S) if x <= d else 0.0)
    finishes = _finishes(stay, d)
    leaves_later = sigmoid(_leaves_at(stay, d) - math.log(x / (d - x))) if x < d else 0.0
    skips_later = 1.0 / (1.0 + (x / SKIP_S) ** 2) if x <= d else 0.0
    return engages * (finishes * _finished_beyond(d, x) + (1.0 - finishes) * leaves_later) + (1.0 - engages) * skips_later


@njit(nogil=True, _nrt=False)
def mean_s(law, stay, d):
    if law == LOGNORMAL:
        middle = _log_median(stay, d)
        cut = (math.log(d) - middle) / SPREAD
        return math.exp(middle + SPREAD**2 / 2.0) * _phi(cut - SPREAD) + d * _phi(-cut)
    engages, finished = _engages(law, stay, d), d * (1.0 + _replay(d))
    if law != LOGIT_LOGISTIC:
        return engages * finished + (1.0 - engages) * SKIP_S * (1.0 - math.exp(-d / SKIP_S))
    finishes = _finishes(stay, d)
    left = d * _mean_logit_logistic(_leaves_at(stay, d))
    return engages * (finishes * finished + (1.0 - finishes) * left) + (1.0 - engages) * SKIP_S * math.atan(d / SKIP_S)
