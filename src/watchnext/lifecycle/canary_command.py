"""Begin a canary and roll back, by the files that running servers follow."""

from pathlib import Path

from watchnext.lifecycle.promote import put_back, serving_id
from watchnext.serving.http.swap.served_releases import ServedReleases
from watchnext.serving.release.canary_plan import end_plan, new_plan, require_challenger, write_plan
from watchnext.serving.release.manifest import ReleaseError, verified


def begin_canary(releases: Path, release_id: str, *, share: float, shadow: float, data: str) -> None:
    """Let running servers try a release, after its checks. Raises ReleaseError, and HeldError."""
    plan = new_plan(release_id, share=share, shadow=shadow)
    manifest = verified(require_challenger(releases, plan))
    if manifest["data"] != data:
        raise ReleaseError(
            f"{release_id!r} is a release of data set {manifest['data']!r}, not of {data!r}; add data={manifest['data']}"
        )
    write_plan(releases, plan)


def roll_back(releases: Path, served: Path, *, data: str) -> str:
    """End the canary or, without one, let the release serve that did before; return what was done, as a sentence.

    `served` is the folder of the served log, where a server names the releases that served. Raises ReleaseError.
    """
    if plan := end_plan(releases, "rolled back by a command"):
        now = serving_id(releases)
        return f"the canary of {plan.release} ended, {now} answers everyone; a running server follows within seconds"

    def before(now: str | None) -> str:
        names = ServedReleases(served / "releases.json").names
        found = next((name for name in reversed(names) if name != now), None)
        if found is None:
            raise ReleaseError(
                f"there is no canary in {releases}, and no server that logs to {served} served another release than {now}; "
                "choose one by `python -m watchnext.lifecycle promote release=ID`"
            )
        return found

    serves, instead = put_back(releases, before, data=data)
    return f"{serves} serves instead of {instead}; a running server follows within seconds"
