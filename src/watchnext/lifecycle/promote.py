"""Which release serves: `current` switched, the registry following it."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from watchnext import tracking
from watchnext.serving.release.manifest import verified
from watchnext.serving.release.release import ReleaseError, current, switch


def model_name(data: str) -> str:
    """Name in the registry; one a data set, so that trying another data set never touches what this one serves."""
    return f"watchnext-{data}"


def serving_id(releases: Path) -> str | None:
    """Id of the release that serves, None where none does."""
    try:
        return current(releases).name
    except ReleaseError:
        return None


def promote(releases: Path, release_id: str, *, data: str) -> None:
    """Make a release the one that serves; what it needs is looked at before anything is switched.

    Raises ReleaseError if it is damaged, missing or of another data set, LookupError if it was never registered.
    """
    manifest = verified(releases / release_id)
    if manifest["id"] != release_id:
        raise ReleaseError(f"{release_id!r} names the release {manifest['id']!r}; promote that id")
    if manifest["data"] != data:
        raise ReleaseError(
            f"{release_id!r} is a release of data set {manifest['data']!r}, not of {data!r}; "
            f"run `python -m watchnext.lifecycle promote data={manifest['data']} release={release_id}`"
        )
    tracking.set_champion(release_id, name=model_name(data))
    switch(releases, release_id)  # last: what serves is the folder's word, the registry mirrors it


def enter(release: Path, *, new: bool, data: str, run: tracking.Run, metrics: Mapping[str, float | None]) -> bool:
    """Register a finished release as challenger; the first one is promoted by itself. Says whether it serves now. A `new` one
    that cannot be registered is removed: nothing may lie there that the registry does not know."""
    try:
        tracking.register_release(release.name, release, run_id=run.id, metrics=metrics, name=model_name(data))
    except BaseException:
        if new:
            shutil.rmtree(release)
        raise
    if serving_id(release.parent) is None:
        promote(release.parent, release.name, data=data)
    return serving_id(release.parent) == release.name
