"""The figures that Gorse and Metarank publish, beside measured and planned ones of the same kind.

Gorse     memory of the master with 1.5M users, 150k items and 10M feedbacks, as reported by a user: up to 120 GB
          (gorse-io/gorse, issue 239)
Metarank  10 to 30 ms for a re-ranking, 1,000 to 3,000 events a second, 812 MB of Redis for 1,024,000 users
          (metarank/metarank, doc/performance.md)
Neither publishes requests a second and machine; these cells stay empty.
"""

from watchnext.lifecycle.capacity.assumptions import CapacityAssumptions
from watchnext.lifecycle.capacity.scaling_curves import ScalingCurves
from watchnext.lifecycle.capacity.stage_needs import events_per_s

MILLION = 1e6
GORSE_BYTES_A_USER = 120e9 / 1.5e6
METARANK_BYTES_A_USER = 812e6 / 1.024e6
METARANK_MS, METARANK_EVENTS_PER_S = (10, 30), (1_000, 3_000)
UNKNOWN = "–"


def peers_of(assumed: CapacityAssumptions, curves: ScalingCurves) -> list[list[str]]:
    """Return a table: a head, then a row a figure with cells of watchnext, Gorse and Metarank."""
    own = curves.store_bytes.at(MILLION) / MILLION
    bytes_a_user = (own, GORSE_BYTES_A_USER, METARANK_BYTES_A_USER)
    kept = MILLION * assumed.viewers_kept
    events = events_per_s(MILLION, assumed)
    memory = 1e9 * assumed.machine_gb * assumed.filled
    least, most = METARANK_EVENTS_PER_S
    return [
        ["", "watchnext, measured", "Gorse, published", "Metarank, published"],
        ["memory of a million viewers, GB", *(f"{each * 1e-3:.1f}" for each in bytes_a_user)],
        ["machines for that memory, a million daily viewers",
         *(f"{each * kept / memory:.2f}" for each in bytes_a_user)],
        ["events a second", f"{curves.server_events_per_s:,.0f}", UNKNOWN, f"{least:,} to {most:,}"],
        ["processes for the events of a million daily viewers", f"{events / curves.server_events_per_s:.1f}", UNKNOWN,
         f"{events / most:.1f} to {events / least:.1f}"],
        ["a request, ms", f"{curves.slate_p50_ms:.0f} (p50), {curves.slate_p99_ms:.0f} (p99), whole funnel", UNKNOWN,
         "{} to {}, re-ranking alone".format(*METARANK_MS)],
    ]  # fmt: skip
