"""`python -m watchnext.simulator world`: a simulated platform's log as files."""

import os
from pathlib import Path

from omegaconf import DictConfig

from watchnext.cli import dispatch, instantiate
from watchnext.data.tables import DataError
from watchnext.simulator.log_files import write_world

KEYS = {key: f"data.loader.{key}" for key in ("users", "videos", "days", "seed")}


def world(config: DictConfig) -> None:
    """Simulate a platform and write its log to `out` (users= videos= days= out=; data=world_still, data=world_popular)."""
    if not config.out or not config.data.loader._target_.endswith(".World"):
        raise DataError(
            f"data is {config.data.name!r} and out is {config.out!r}; run `python -m watchnext.simulator world out=DIR` with "
            "one of the worlds: data=world, data=world_still, data=world_popular"
        )
    simulated, folder = instantiate(config.data.loader), Path(config.out)
    written = write_world(simulated, folder, threads=len(os.sched_getaffinity(0)))
    users, videos = len(simulated.viewers), len(simulated.catalogue)
    print(f"{folder}: {written:,} impressions, {users:,} users, {videos:,} videos, {simulated.days} days")


if __name__ == "__main__":
    dispatch("watchnext.simulator", {"world": world}, (DataError,), presets={"world": "data=world"}, short={"world": KEYS})
