"""Random numbers for compiled loops: one stream per (seed, purpose, two counters), independent of the thread order.

splitmix64 (Steele, Lea & Flood, OOPSLA 2014). A stream is an array of one uint64, which every draw advances.
"""

import math

import numpy as np
from numba import njit

from watchnext.kernels import kernel

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
S11, S27, S30, S31 = np.uint64(11), np.uint64(27), np.uint64(30), np.uint64(31)


@njit(nogil=True, _nrt=False)
def mixed(z):
    z = (z ^ (z >> S30)) * FIRST
    z = (z ^ (z >> S27)) * SECOND
    return z ^ (z >> S31)


@kernel(_nrt=False)
def reset(stream, seed, purpose, first, second):
    """Reset a stream to the start for these four values."""
    state = mixed(np.uint64(seed) + GOLDEN)
    for part in (purpose, first, second):
        state = mixed(state ^ (np.uint64(part) + GOLDEN))
    stream[0] = state


@njit(nogil=True, _nrt=False)
def uniform(stream):
    """Draw from [0, 1) with 53 bits."""
    stream[0] += GOLDEN
    return np.float64(mixed(stream[0]) >> S11) * (1.0 / 9007199254740992.0)


@njit(nogil=True, _nrt=False)
def below(stream, count):
    """Draw an integer from [0, count)."""
    return np.int64(uniform(stream) * count)


@njit(nogil=True, _nrt=False)
def exponential(stream):
    return -math.log(1.0 - uniform(stream))


@njit(nogil=True, _nrt=False)
def logistic(stream):
    u = uniform(stream) + 1e-17  # 0 would be minus infinity
    return math.log(u / (1.0 - u))


@njit(nogil=True, _nrt=False)
def normal(stream):
    """Draw a standard normal (Box and Muller 1958, one of the pair)."""
    radius = math.sqrt(-2.0 * math.log(1.0 - uniform(stream)))
    return radius * math.cos(2.0 * math.pi * uniform(stream))


@njit(nogil=True, _nrt=False)
def poisson(stream, mean):
    """Draw a Poisson number by Knuth's product of uniforms, for small means."""
    limit, product, count = math.exp(-mean), uniform(stream), 0
    while product > limit:
        product *= uniform(stream)
        count += 1
    return count
