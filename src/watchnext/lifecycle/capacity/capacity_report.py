"""Tables of a capacity plan as rows of cells, for the terminal and for the documentation."""

from collections.abc import Mapping, Sequence

from watchnext.lifecycle.capacity.assumptions import SCENARIOS, CapacityAssumptions
from watchnext.lifecycle.capacity.machine_limits import limits_of
from watchnext.lifecycle.capacity.peers import peers_of
from watchnext.lifecycle.capacity.scaling_curves import ScalingCurves
from watchnext.lifecycle.capacity.stage_needs import SIZES, VIDEOS_A_VIEWER, CapacityPlan, scenarios_of
from watchnext.metrics import aligned

Rows = list[list[str]]
UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float) -> str:
    """Format a large count in three digits: 1.5M, 500M, 1G."""
    for size, unit in UNITS:
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def amount(value: float) -> str:
    """Format a quantity of any size in three digits, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.01 else "0" if value == 0 else "<0.01"


def needs(plan: CapacityPlan) -> Rows:
    """Tabulate the stages of one plan."""
    rows = [["stage", "cores", "memory, GB", "network, Gbit/s", "stored, TB", "machines", "bound by", "USD a month"]]
    for stage in plan.stages:
        machines = stage.machines(plan.assumed)
        resources = (stage.cores, stage.memory / 1e9, 8 * stage.network / 1e9, stage.stored / 1e12, machines)
        rows.append([stage.name, *map(amount, resources), stage.bound(plan.assumed), amount(stage.usd(plan.assumed))])
    sums = [sum(values) for values in zip(*((s.cores, s.memory, s.network, s.stored) for s in plan.stages), strict=True)]
    memory, network, stored = sums[1] / 1e9, 8 * sums[2] / 1e9, sums[3] / 1e12
    total = map(amount, (sums[0], memory, network, stored, plan.machines))
    return [*rows, ["all, at least the smallest installation", *total, "", amount(plan.usd)]]


def totals(sizes: Sequence[tuple[float, float]], configured: Mapping, curves: ScalingCurves) -> Rows:
    """Tabulate machines and cost of several (viewers, videos): low, mid and high in one cell."""
    rows = [
        ["viewers a day", "videos", "slates a second, peak", "machines", "USD a month", "USD a month for a million viewers"]
    ]
    for viewers, videos in sizes:
        plans = scenarios_of(viewers, videos, configured, curves).values()
        spans = ([getattr(plan, name) for plan in plans] for name in ("slates_per_s", "machines", "usd", "usd_a_million"))
        rows.append([count(viewers), count(videos), *(" / ".join(map(amount, span)) for span in spans)])
    return rows


def published_sizes() -> list[tuple[float, float]]:
    return [(viewers, VIDEOS_A_VIEWER * viewers) for viewers in SIZES]


def limits(configured: Mapping, curves: ScalingCurves) -> Rows:
    """Tabulate the limits of one machine; the first row breaks first."""
    found = limits_of(CapacityAssumptions.of(configured, "mid"), curves)
    return [["full first", "at viewers a day", "then"], *([each.part, count(each.viewers), each.after] for each in found)]


def checks(curves: ScalingCurves) -> Rows:
    """Tabulate the largest measured size of each curve, predicted from the smaller ones."""
    head = ["", "at", "predicted", "measured", "error"]
    return [head, *([name, count(step.size), count(step.predicted), count(step.measured), f"{step.error:+.0%}"]
                    for name, step in curves.steps.items())]  # fmt: skip


def peers(configured: Mapping, curves: ScalingCurves) -> Rows:
    """Tabulate published figures of Gorse and Metarank beside ours, in the mid scenario."""
    return peers_of(CapacityAssumptions.of(configured, "mid"), curves)


def assumptions(configured: Mapping) -> Rows:
    """Tabulate what is assumed."""
    return [["assumed", *SCENARIOS, "source"],
            *([name.replace("_", " "), *(f"{each[scenario]:g}" for scenario in SCENARIOS), each["source"]]
              for name, each in configured.items())]  # fmt: skip


def text(title: str, rows: Rows) -> str:
    """Render a table for the terminal."""
    return "\n".join([title, *aligned(rows)])
