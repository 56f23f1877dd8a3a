"""Decide which release serves: register releases, and switch `current` and the registry together."""

import os
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path

from watchnext.lifecycle import release_registry
from watchnext.lifecycle.only_one import only_one
from watchnext.serving.release.manifest import verified
from watchnext.serving.release.release import ReleaseError, current, switch, verdict_of
from watchnext.serving.release.release_url import VARIABLE, ReleaseUrl
from watchnext.tracking import Run


def model_name(data: str) -> str:
    """Return the name in the registry: one a data set, so that no data set changes what another one serves."""
    return f"watchnext-{data}"


def serving_id(releases: Path) -> str | None:
    """Return the id of the serving release, or None."""
    try:
        return current(releases).name
    except ReleaseError:
        return None


def moving(releases: Path, *, waits: bool = False) -> AbstractContextManager[int]:
    """Hold the lock of `current` and the registry's aliases, which agree only if one process moves both. Raises HeldError."""
    return only_one(releases / ".lock", f"decides which release of {releases} serves", waits=waits)


def promote(releases: Path, release_id: str, *, data: str, force: bool = False) -> None:
    """Let a release serve, after all checks; with `force`, also one whose slate lost to a baseline.

    Raises as `promotable`, and HeldError while another process moves what serves.
    """
    with moving(releases):
        promotable(releases, release_id, data=data, force=force)
        switched(releases, release_id, data=data)


def promotable(releases: Path, release_id: str, *, data: str, force: bool) -> None:
    """Check that a release may serve.

    Raises ReleaseError if it is damaged, missing, of another data set or, without `force`, behind a baseline; LookupError if it
    was never registered.
    """
    manifest = verified(releases / release_id)
    if manifest["id"] != release_id:
        raise ReleaseError(f"{release_id!r} is a link to the release {manifest['id']!r}; promote that id")
    if manifest["data"] != data:
        raise ReleaseError(
            f"{release_id!r} is a release of data set {manifest['data']!r}, not of {data!r}; "
            f"run `python -m watchnext.lifecycle promote data={manifest['data']} release={release_id}`"
        )
    if not force:
        _require_no_better_baseline(releases / release_id, data)
    release_registry.require_registered(release_id, name=model_name(data))


def switched(releases: Path, release_id: str, *, data: str) -> None:
    """Let a release that was checked serve: the champion in the registry, then `current`. The caller holds `moving`.

    Where WATCHNEXT_RELEASES_URL is set, the servers that follow it take the release, too.
    """
    url = ReleaseUrl(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None
    if url:
        url.upload(releases / release_id)  # first: what cannot be uploaded does not serve here alone
    release_registry.set_champion(release_id, name=model_name(data))
    switch(releases, release_id)  # last: the link decides what serves, and the registry mirrors it
    if url:
        url.point(releases / release_id)


def _require_no_better_baseline(release: Path, data: str) -> None:
    if lost := verdict_of(release):
        behind = ", ".join(f"{name} at {depths}" for name, depths in lost.items())
        raise ReleaseError(
            f"the slate of {release.name!r} lost to the baseline {behind} on the validation days, so it does not serve; "
            "selection.json in its folder has the figures; to let it serve all the same, run "
            f"`python -m watchnext.lifecycle promote data={data} release={release.name} force=true`"
        )


def register(
    release: Path, *, new: bool, data: str, run: Run, metrics: Mapping[str, float | None], card: str | None = None
) -> None:
    """Register a finished release as challenger, with a `card` on its page.

    A `new` release that cannot be registered is removed, so that the registry knows every release in the folder.
    """
    try:
        with moving(release.parent, waits=True):
            release_registry.register_release(
                release.name, release, run_id=run.id, metrics=metrics, card=card, name=model_name(data)
            )
    except BaseException:
        if new:
            shutil.rmtree(release)
        raise


def let_first_serve(release: Path, *, data: str) -> bool:
    """Promote a registered release if none serves, unless its slate lost to a baseline. Return True if it serves now."""
    with moving(release.parent, waits=True):
        if serving_id(release.parent) is None and not verdict_of(release):
            promotable(release.parent, release.name, data=data, force=False)
            switched(release.parent, release.name, data=data)
        return serving_id(release.parent) == release.name
