"""Compare the simulated worlds with KuaiRand-Pure: `python -m benchmarks.worlds --root DIR`.

Each world has as many users, videos, days and impressions a user and day as the published log. The last line is one JSON
object: log > figure > value, as `python -m watchnext.data compare` prints them.
"""

import argparse
import json

from watchnext.cli import composed, instantiate
from watchnext.data.card.statistics import statistics_of
from watchnext.data.tables import Tables
from watchnext.data.validation import validate
from watchnext.schema import FeatureSchema

WORLDS = ("world", "world_still", "world_popular")


def figures_of(tables: Tables, features: str) -> dict[str, float]:
    """Return aggregates of the rows that pass validation."""
    schema = FeatureSchema.load(f"conf/features/{features}.yaml")
    return {name: float(f"{value:.6g}") for name, value in statistics_of(validate(tables, schema).tables).figures.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", required=True, metavar="DIR", help="the unpacked KuaiRand files")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = composed(["data=kuairand", f"data.loader.root={options.root}"])
    real = instantiate(config.data.loader).read().tables
    days = real.impressions["day"].n_unique()
    sizes = {"users": len(real.users), "videos": len(real.videos), "days": days, "seed": options.seed}
    sizes["impressions_per_user_day"] = len(real.impressions) / len(real.users) / days
    logs = {"KuaiRand-Pure": figures_of(real, config.data.features)}
    for name in WORLDS:
        overrides = [f"data={name}", *(f"++data.loader.{key}={value}" for key, value in sizes.items())]
        world = composed(overrides).data
        logs[name] = figures_of(instantiate(world.loader).log(), world.features)
        print(name, logs[name], flush=True)
    print(json.dumps({"logs": logs} | sizes))


if __name__ == "__main__":
    main()
