"""Remember which releases served, so that a restart falls back to the last good one and a rollback finds the one before."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from watchnext.files import replaced
from watchnext.serving.release.manifest import NAME, REPAIR, ReleaseError
from watchnext.serving.release.reference_sample import require_reproduced
from watchnext.serving.release.release import Release, current, release_in
from watchnext.serving.store.building.opening import StoreMisfitError

log = logging.getLogger(__name__)
T = TypeVar("T")
KEPT = 20


class ServedReleases:
    """The names of the last releases that were verified and served, the latest last, in a file that outlives the server."""

    def __init__(self, path: Path) -> None:
        self._path = Path(path)
        self.names: list[str] = self._read()

    @property
    def before(self) -> str | None:
        """The release that served before the present one."""
        return self.names[-2] if len(self.names) > 1 else None

    def record(self, name: str, *, back: bool = False) -> None:
        """Add a release that serves from now on; with `back`, forget the one that it replaces."""
        names = self.names[:-1] if back else self.names
        self._write(names if names[-1:] == [name] else [*names, name][-KEPT:])

    def restore(self, names: list[str]) -> None:
        self._write(names)

    def _read(self) -> list[str]:
        try:
            names = json.loads(self._path.read_text()) if self._path.exists() else []
            if not isinstance(names, list) or not all(isinstance(name, str) and NAME.fullmatch(name) for name in names):
                raise ValueError("expected a list of names of releases")
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s cannot be read, no release is known to have served: %s", self._path, error)
            return []
        return names[-KEPT:]

    def _write(self, names: list[str]) -> None:
        self.names = list(names)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            replaced(self._path, json.dumps(self.names))
        except OSError as error:
            log.warning("%s cannot be written, a restart will not know what served: %s", self._path, error)


def checked(folder: Path) -> Release:
    """Load a release, verified by its checksums and by its reference sample. Raises ReleaseError, whatever is wrong with it."""
    try:
        release = Release.load(folder)
        require_reproduced(release)
    except ReleaseError:
        raise
    except Exception as error:
        raise ReleaseError(f"{folder} cannot be loaded ({type(error).__name__}: {error}); run `{REPAIR}`") from error
    return release


def checked_beside(folder: Path, serving: Release) -> Release:
    """Load a release that is to be tried beside `serving`, or to follow it. Raises ReleaseError as `checked`, and for one of
    another data set."""
    release = checked(folder)
    own, expected = (each.manifest["data"] for each in (release, serving))
    if own != expected:
        raise ReleaseError(f"{folder} is of the data set {own}, expected {expected}, that of {serving.id}")
    return release


def first_that_opens(root: Path, served: ServedReleases, opened: Callable[[Path], T]) -> T:
    """Return `opened(folder)` of the release that `root/current` names or, where it cannot serve, of the latest that did.

    Raises ReleaseError or StoreError of the former where none can.
    """
    try:
        return opened(current(root))
    except (ReleaseError, StoreMisfitError) as error:
        for name in reversed(served.names):
            try:
                fallback = opened(release_in(root, name))
            except (ReleaseError, StoreMisfitError):
                continue
            log.error("%s; serving %s, which served last", error, name)
            return fallback
        raise
