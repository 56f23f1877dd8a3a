import os

import numpy as np
import pytest

from small_release import make_release, stage_release
from watchnext.features.arrays import load_arrays, save_arrays
from watchnext.serving.release.reference_sample import require_reproduced
from watchnext.serving.release.release import Release, ReleaseError, current, publish, release_in, releases_in

MANIFEST = {"data": "tiny", "regime": "streaming", "as_of_ms": 5, "clock": "release", "towers": "tiny"}


@pytest.fixture
def root(built, exported, tmp_path):
    make_release(built, exported, tmp_path / "releases", id="first")
    return tmp_path / "releases"


def test_a_release_reproduces_its_sample(root):
    release = Release.load(root / "first")
    assert len(list((release.folder / "sample").iterdir())) == 4
    require_reproduced(release)


@pytest.mark.parametrize("name", ["ranker", "query_tower"])
def test_a_network_that_computes_something_else_is_refused_by_name(built, exported, root, name):
    """Every checksum is right: the release was sealed with a network that its sample is not of."""
    staging = stage_release(built, exported, root)
    arrays = {each: np.array(values) for each, values in load_arrays(staging / "sample" / "2").items()}
    arrays[f"output_{name}"].flat[0] += 0.1
    save_arrays(staging / "sample" / "2", arrays)
    release = Release.load(publish(staging, root, MANIFEST))
    with pytest.raises(ReleaseError, match=f"{name} does not reproduce 2 of its reference sample"):
        require_reproduced(release)


def point(root, target) -> None:
    (root / "current").unlink()
    os.symlink(target, root / "current")


def test_the_link_leads_to_a_release_of_its_folder_or_nowhere(root, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (root / "first").rename(tmp_path / "elsewhere" / "first")
    for target in ("../elsewhere/first", str(tmp_path / "elsewhere" / "first"), "..", ".", "/"):
        point(root, target)
        with pytest.raises(ReleaseError, match=r"is no release of .*promote one of none"):
            current(root)
    (tmp_path / "elsewhere" / "first").rename(root / "first")
    for target in ("first", str(root / "first"), "../releases/first"):
        point(root, target)
        assert current(root) == (root / "first").resolve()
    (root / "current").unlink()
    (root / "current").mkdir()
    with pytest.raises(ReleaseError, match=r"is no link"):
        current(root)


@pytest.mark.parametrize(
    "name", ["..", ".", "", "current", "/etc", "first/..", "../releases/first", "nothing", "first\n", "a" * 200]
)
def test_a_name_that_leads_elsewhere_is_no_release(root, name):
    with pytest.raises(ReleaseError, match=r"is no release of .*promote one of first"):
        release_in(root, name)
    assert releases_in(root) == ["first"]
    assert release_in(root, "first") == (root / "first").resolve()
