"""Machines, storage and cost of so many daily viewers and videos: measured curves times assumptions, stage by stage."""

from collections.abc import Mapping
from dataclasses import dataclass

from watchnext.lifecycle.capacity.assumptions import SCENARIOS, CapacityAssumptions
from watchnext.lifecycle.capacity.scaling_curves import ScalingCurves

DAY_S, MONTH_H, MONTH_S = 86_400, 730, 730 * 3_600
CANDIDATES = 500  # ranked for a slate, as in the measured requests
EVENTS = 2  # of an impression: shown, outcome
SIZES = (1e3, 1e6, 100e6, 500e6)  # daily viewers
VIDEOS_A_VIEWER = 2  # 1 billion videos, 500 million viewers


@dataclass(frozen=True)
class StageNeeds:
    """Needs of a stage at the peak: cores, bytes of memory, bytes a second of network.

    hours   of a day in which its machines are rented
    stored  bytes of object storage
    crossed bytes a month that cross zones and are paid
    """

    name: str
    cores: float = 0.0
    memory: float = 0.0
    network: float = 0.0
    hours: float = 24.0
    stored: float = 0.0
    crossed: float = 0.0

    def shares(self, assumed: CapacityAssumptions) -> dict[str, float]:
        """Return the machines that each resource asks for."""
        return {
            "cores": self.cores / (assumed.machine_cores * assumed.busy),
            "memory": self.memory / (1e9 * assumed.machine_gb * assumed.filled),
            "network": self.network / (1e9 / 8 * assumed.machine_gbit_s * assumed.busy),
        }

    def machines(self, assumed: CapacityAssumptions) -> float:
        """Return the machines that the scarcest resource asks for, with fractions: stages share machines."""
        return max(self.shares(assumed).values())

    def bound(self, assumed: CapacityAssumptions) -> str:
        """Name the scarcest resource; `storage` for a stage without machines."""
        shares = self.shares(assumed)
        return max(shares, key=shares.__getitem__) if any(shares.values()) else "storage"

    def usd(self, assumed: CapacityAssumptions) -> float:
        """Return the cost of a month."""
        rented = self.machines(assumed) * self.hours / 24 * MONTH_H * assumed.machine_usd_h
        return rented + self.stored / 1e9 * assumed.storage_usd_gb + self.crossed / 1e9 * assumed.crossing_usd_gb


@dataclass(frozen=True)
class CapacityPlan:
    """The needs of `viewers` a day and `videos` in one scenario; `sharded`: video state and index no longer fit a server."""

    viewers: float
    videos: float
    assumed: CapacityAssumptions
    slates_per_s: float
    events_per_s: float
    sharded: bool
    stages: tuple[StageNeeds, ...]

    @classmethod
    def of(cls, viewers: float, videos: float, assumed: CapacityAssumptions, curves: ScalingCurves) -> "CapacityPlan":
        """Multiply. Raises ValueError for numbers that are not positive."""
        for name, value in (("viewers", viewers), ("videos", videos)):
            if not 0 < value < 1e13:
                raise ValueError(f"{name}={value:g}, expected a number above 0 and below 1e13, like {name}=1e6")
        slates = viewers * assumed.peak_per_1000 / 1e3
        events = events_per_s(viewers, assumed)
        sharded = server_memory(videos, assumed, curves) > 1e9 * assumed.machine_gb * assumed.filled
        serving = _serving(slates, videos, assumed, curves, sharded=sharded)
        stages = (
            *serving,
            _communication(slates, events, sum(stage.cores for stage in serving), assumed, curves, sharded=sharded),
            StageNeeds("viewer state", memory=state_bytes(viewers, assumed, curves) * assumed.copies),
            StageNeeds("events", cores=events * curves.event_cpu_us / 1e6),
            *_training(viewers, assumed, curves),
            _storage(viewers, slates, assumed, curves),
        )
        return cls(viewers, videos, assumed, slates, events, sharded, stages)

    @property
    def machines(self) -> float:
        """Machines at the busiest moment, all stages at once; at least those of the smallest installation."""
        return max(sum(stage.machines(self.assumed) for stage in self.stages), self.assumed.least)

    @property
    def usd(self) -> float:
        """Cost of a month."""
        least = self.assumed.least * MONTH_H * self.assumed.machine_usd_h
        storage = self.stages[-1].usd(self.assumed)
        return max(sum(stage.usd(self.assumed) for stage in self.stages[:-1]), least) + storage

    @property
    def usd_a_million(self) -> float:
        """Cost of a month for a million daily viewers."""
        return self.usd / self.viewers * 1e6


def scenarios_of(viewers: float, videos: float, configured: Mapping, curves: ScalingCurves) -> dict[str, CapacityPlan]:
    """Plan for all scenarios of the configuration."""
    return {name: CapacityPlan.of(viewers, videos, CapacityAssumptions.of(configured, name), curves) for name in SCENARIOS}


def events_per_s(viewers: float, assumed: CapacityAssumptions) -> float:
    """Return the events a second at the peak."""
    return EVENTS * viewers * assumed.impressions * assumed.peak_over_mean / DAY_S


def _video_bytes(videos: float, curves: ScalingCurves) -> float:
    """Return the bytes of all videos' columns and vectors, which processes of a machine share."""
    return videos * curves.video_column_bytes + curves.index_bytes.at(videos)


def server_memory(videos: float, assumed: CapacityAssumptions, curves: ScalingCurves) -> float:
    """Return the memory of a machine with a process a core, each with the state of all videos in arrays of its own."""
    return assumed.machine_cores * (curves.server_bytes + videos * curves.video_state_bytes) + _video_bytes(videos, curves)


def _serving(slates: float, videos: float, assumed: CapacityAssumptions, curves: ScalingCurves, *, sharded: bool):
    """Plan the servers of slates, and if videos are sharded, the machines that hold and search them."""
    if not sharded:
        cores = slates * curves.slate_ms.at(videos) / 1e3
        per_core = server_memory(videos, assumed, curves) / assumed.machine_cores
        return (StageNeeds("slates", cores=cores, memory=cores / assumed.busy * per_core),)
    held = _video_bytes(videos, curves) + videos * curves.video_state_bytes
    shards = -(-held // (1e9 * assumed.machine_gb * assumed.filled))
    cores = slates * curves.slate_ms.at(videos / shards) / 1e3
    searching = slates * shards * curves.search_ms.at(videos / shards) / 1e3
    return (
        StageNeeds("slates", cores=cores, memory=cores / assumed.busy * curves.server_bytes),
        StageNeeds("search and video state", cores=searching, memory=held * assumed.copies),
    )


def _communication(
    slates: float, events: float, cores: float, assumed: CapacityAssumptions, curves: ScalingCurves, *, sharded: bool
) -> StageNeeds:
    """Plan serialisation and traffic inside: a viewer's state a slate, videos of other machines, copies of each event."""
    videos = CANDIDATES * (curves.video_state_bytes + curves.video_column_bytes) if sharded else 0.0
    network = slates * (curves.viewer_bytes + videos) + events * (curves.event_bytes + curves.viewer_bytes) * assumed.copies
    crossed = network / assumed.peak_over_mean * MONTH_S * assumed.crossing
    return StageNeeds(
        "communication", cores=cores * assumed.overhead / (1 - assumed.overhead), network=network, crossed=crossed
    )


def state_bytes(viewers: float, assumed: CapacityAssumptions, curves: ScalingCurves) -> float:
    """Return the bytes of one copy of the state of all viewers that are kept."""
    return curves.store_bytes.at(viewers * assumed.viewers_kept)


def _training(viewers: float, assumed: CapacityAssumptions, curves: ScalingCurves) -> tuple[StageNeeds, ...]:
    """Plan the daily stages, which finish in the window."""
    impressions, window_s = viewers * assumed.impressions, 3_600 * assumed.window_h
    folding = curves.features_s.at(impressions) / window_s
    learning = impressions * assumed.sampled / curves.rows_per_cpu_s / window_s
    return (
        StageNeeds("features", cores=folding, hours=assumed.window_h),
        StageNeeds("training", cores=learning, hours=assumed.window_h),
    )


def _storage(viewers: float, slates: float, assumed: CapacityAssumptions, curves: ScalingCurves) -> StageNeeds:
    """Plan what is kept: events, served slates, training rows."""
    impressions = viewers * assumed.impressions
    day = impressions * EVENTS * curves.journal_event_bytes
    day += slates / assumed.peak_over_mean * DAY_S * assumed.served_share * curves.answer_log_bytes
    day += impressions * assumed.sampled * curves.training_row_bytes
    return StageNeeds("storage", stored=day * assumed.log_days)
