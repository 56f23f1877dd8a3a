"""Decide which release serves: register releases, and switch `current` and the registry together."""

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from watchnext.evaluation.report.report_text import behind
from watchnext.lifecycle import release_registry
from watchnext.serving.release.manifest import verified
from watchnext.serving.release.only_one import ROLLBACK_S, moving
from watchnext.serving.release.release import ReleaseError, current, switch, verdict_of
from watchnext.serving.release.release_url import PROMOTE, VARIABLE, ReleaseUrl
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


def promote(releases: Path, release_id: str, *, data: str, force: bool = False) -> None:
    """Let a release serve, after all checks; with `force`, also one whose slate lost to a baseline.

    Raises as `promotable`, and HeldError while another process moves what serves.
    """
    promotable(releases, release_id, data=data, force=force)
    uploaded(releases / release_id)
    with moving(releases):
        switched(releases, release_id, data=data)


def promotable(releases: Path, release_id: str, *, data: str, force: bool) -> None:
    """Check that a release may serve.

    Raises ReleaseError if it is damaged, missing, of another data set or, without `force`, behind a baseline; LookupError if it
    was never registered.
    """
    _require_of(releases, release_id, data)
    if not force:
        _require_no_better_baseline(releases / release_id, data)
    release_registry.require_registered(release_id, name=model_name(data))


def uploaded(release: Path) -> None:
    """Copy a release to WATCHNEXT_RELEASES_URL, where that is set: what cannot be uploaded does not serve here alone.

    It may take minutes, so the caller does not hold `moving`. Raises ReleaseError.
    """
    if url := _url():
        url.upload(release)


def switched(releases: Path, release_id: str, *, data: str) -> None:
    """Let a release that was checked and uploaded serve: the champion in the registry, then `current`, then at the URL.

    The caller holds `moving`.
    """
    release_registry.set_champion(release_id, name=model_name(data))
    switch(releases, release_id)  # behind the registry, which mirrors the link: the link decides what serves
    _pointed(releases / release_id)


def put_back(releases: Path, before: Callable[[str | None], str], *, data: str) -> tuple[str, str | None]:
    """Let the release serve again that `before` names, given the target of `current`; return both ids.

    What serves here moves first: a rollback must not wait for a registry or a URL that is down. Raises ReleaseError where the
    release is damaged or of another data set, and, with what is left to do, where one of these did not take it; HeldError where
    another process moves what serves for longer than ROLLBACK_S.
    """
    with moving(releases, wait_s=ROLLBACK_S):
        link = releases / "current"
        now = os.readlink(link) if link.is_symlink() else None  # also of a release that is gone
        release_id = before(now)
        _require_of(releases, release_id, data)
        switch(releases, release_id)
    try:
        uploaded(releases / release_id)
        with moving(releases, wait_s=ROLLBACK_S):
            if serving_id(releases) == release_id:
                _pointed(releases / release_id)
                release_registry.set_champion(release_id, name=model_name(data))
    except Exception as error:
        raise ReleaseError(
            f"{release_id} serves instead of {now} in {releases}, but the registry, or servers that follow a URL, do not know: "
            f"{error}; when that is repaired, run `{PROMOTE}{release_id} data={data} force=true`"
        ) from error
    return release_id, now


def _pointed(release: Path) -> None:
    """Let the servers that follow WATCHNEXT_RELEASES_URL, where that is set, take a release that was uploaded."""
    if url := _url():
        url.point(release)


def _url() -> ReleaseUrl | None:
    return ReleaseUrl(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else None


def _require_of(releases: Path, release_id: str, data: str) -> None:
    manifest = verified(releases / release_id)
    if manifest["id"] != release_id:
        raise ReleaseError(f"{release_id!r} is a link to the release {manifest['id']!r}; promote that id")
    if manifest["data"] != data:
        raise ReleaseError(
            f"{release_id!r} is a release of data set {manifest['data']!r}, not of {data!r}; "
            f"run `python -m watchnext.lifecycle promote data={manifest['data']} release={release_id}`"
        )


def _require_no_better_baseline(release: Path, data: str) -> None:
    if lost := verdict_of(release):
        raise ReleaseError(
            f"the slate of {release.name!r} lost to the baseline {behind(lost)} on the validation days, so it does not serve; "
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
        with moving(release.parent, wait_s=math.inf):
            release_registry.register_release(
                release.name, release, run_id=run.id, metrics=metrics, card=card, name=model_name(data)
            )
    except BaseException:
        if new:
            shutil.rmtree(release)
        raise


def let_first_serve(release: Path, *, data: str) -> bool:
    """Promote a registered release if none serves, unless its slate lost to a baseline. Return True if it serves now."""
    if serving_id(release.parent) is None and not verdict_of(release):
        promotable(release.parent, release.name, data=data, force=False)
        uploaded(release)
    with moving(release.parent, wait_s=math.inf):
        if serving_id(release.parent) is None and not verdict_of(release):
            switched(release.parent, release.name, data=data)
        return serving_id(release.parent) == release.name
