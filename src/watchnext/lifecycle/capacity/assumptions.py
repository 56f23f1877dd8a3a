"""Assumptions on a platform and its machines: low, mid and high, each with its source (`capacity` in conf/config.yaml)."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

SCENARIOS = ("low", "mid", "high")


@dataclass(frozen=True)
class CapacityAssumptions:
    """One scenario.

    peak_per_1000     slates a second for a thousand daily viewers, in the busiest hour
    peak_over_mean    that hour over the mean hour
    impressions       videos shown to a daily viewer a day
    viewers_kept      viewers with a state, over daily viewers
    busy              largest share of a core or a link that is planned for, at the peak
    filled            likewise, of memory
    copies            of state, index and events
    overhead          share of serving spent on communication and storage
    crossing          share of internal traffic that crosses zones and is paid
    sampled           share of impressions that train
    window_h          hours a day in which features and training finish
    log_days          days that the events and training rows are kept
    served_share      share of slates that are kept in the served log
    least             smallest number of machines of an installation
    machine_cores, machine_gb, machine_gbit_s, machine_usd_h   one machine: cores, memory, network, price an hour
    storage_usd_gb, crossing_usd_gb                            a GB of object storage a month, a GB between zones
    """

    peak_per_1000: float
    peak_over_mean: float
    impressions: float
    viewers_kept: float
    busy: float
    filled: float
    copies: float
    overhead: float
    crossing: float
    sampled: float
    window_h: float
    log_days: float
    served_share: float
    least: float
    machine_cores: float
    machine_gb: float
    machine_gbit_s: float
    machine_usd_h: float
    storage_usd_gb: float
    crossing_usd_gb: float

    @classmethod
    def of(cls, configured: Mapping[str, Mapping], scenario: str) -> "CapacityAssumptions":
        """Take one scenario from the configuration. Raises ValueError for one out of its bounds."""
        values = {field.name: configured[field.name][scenario] for field in fields(cls)}
        for name, value in values.items():
            if not isinstance(value, int | float) or not value >= 0 or (value == 0 and name != "crossing"):
                raise ValueError(f"capacity.assumptions.{name}.{scenario} is {value!r}, expected a number above 0")
        for name in ("busy", "filled", "overhead", "crossing", "sampled", "served_share"):
            if values[name] > 1 or (name == "overhead" and values[name] == 1):
                raise ValueError(f"capacity.assumptions.{name}.{scenario} is {values[name]!r}, expected a share below 1")
        return cls(**values)
