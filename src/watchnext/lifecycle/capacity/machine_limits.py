"""The sizes at which the parts of one machine are full: the first breaks first, and each calls for an engine."""

from collections.abc import Callable
from dataclasses import dataclass

from watchnext.lifecycle.capacity.assumptions import CapacityAssumptions
from watchnext.lifecycle.capacity.scaling_curves import ScalingCurves
from watchnext.lifecycle.capacity.stage_needs import VIDEOS_A_VIEWER, events_per_s, server_memory, state_bytes

LARGEST = 1e12  # viewers


@dataclass(frozen=True)
class OneMachineLimit:
    """The largest number of daily `viewers` that a part carries on one machine or in one process, and what comes after it."""

    part: str
    viewers: float
    after: str


def limits_of(assumed: CapacityAssumptions, curves: ScalingCurves) -> list[OneMachineLimit]:
    """Find the limits of one machine, the lowest first; there are two videos a daily viewer."""
    memory = 1e9 * assumed.machine_gb * assumed.filled

    def days_work(cpu_s: float) -> float:
        return cpu_s / (3_600 * assumed.window_h) / (assumed.machine_cores * assumed.busy)

    def folding(viewers: float) -> float:
        return days_work(curves.features_s.at(viewers * assumed.impressions))

    def learning(viewers: float) -> float:
        return days_work(viewers * assumed.impressions * assumed.sampled / curves.rows_per_cpu_s)

    needs = [
        ("slates of one server process", lambda v: v * assumed.peak_per_1000 / 1e3 / curves.server_slates_per_s,
         "several servers on one Redis (built)"),
        ("events of one server process", lambda v: events_per_s(v, assumed) / curves.server_events_per_s,
         "Redis Cluster, fed by a partitioned log such as Kafka"),
        ("viewers' state in the memory of one machine", lambda v: state_bytes(v, assumed, curves) / memory, "Redis Cluster"),
        ("videos in the memory of one server", lambda v: server_memory(v * VIDEOS_A_VIEWER, assumed, curves) / memory,
         "a vector engine such as Milvus, and video state by shard"),
        ("features of a day in the window", folding, "Spark"),
        ("training on a day in the window", learning, "several devices, or a GPU"),
    ]  # fmt: skip
    found = [OneMachineLimit(part, _largest(need), after) for part, need, after in needs]
    return sorted(found, key=lambda limit: limit.viewers)


def _largest(need: Callable[[float], float]) -> float:
    """Find the largest number of viewers whose need is at most 1 by bisection; the need grows with them."""
    low, high = 0.0, LARGEST
    while high - low > max(low * 1e-4, 1.0):
        middle = (low * high) ** 0.5 if low > 1 else high / 2
        low, high = (middle, high) if need(middle) <= 1 else (low, middle)
    return low
