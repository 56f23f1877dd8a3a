"""One tiny simulated platform through the real feature stage, for everything that needs model inputs."""

import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest

CONF = Path(__file__).resolve().parents[1] / "conf"


@pytest.fixture(scope="session")
def world_schema():
    from watchnext.schema import FeatureSchema

    return FeatureSchema.load(CONF / "features" / "world.yaml")


@pytest.fixture(scope="session")
def world_tables(world_schema):
    """Validated tables of 60 users, 150 videos and four days, about 3,000 impressions."""
    from watchnext.data.validation import validate
    from watchnext.data.world import World

    world = World(users=60, videos=150, creators=20, tags=10, days=4, impressions_per_user_day=12.0, seed=3)
    return validate(world.log(), world_schema).tables


@pytest.fixture(scope="session")
def world_split(world_tables):
    from watchnext.data.splits import TimeSplit

    return TimeSplit(valid_days=1, test_days=1).assign(world_tables.impressions["day"])


@pytest.fixture(scope="session")
def world_folder(world_schema, world_tables, world_split, tmp_path_factory) -> Path:
    """What the feature stage writes for them."""
    from watchnext.features.build import FeatureBuilder
    from watchnext.features.labels import Labels

    folder = tmp_path_factory.mktemp("world") / "features"
    builder = FeatureBuilder(
        schema=world_schema, labels=Labels(), utc_offset_h=0, regime="streaming", min_count=2, data_hash="tiny"
    )
    builder.build(world_tables, world_split, folder)
    return folder


@pytest.fixture(scope="session")
def world_features(world_folder):
    from watchnext.features.batches import FeatureSet

    return FeatureSet.load(world_folder)
