"""Settings of the server, read from WATCHNEXT_* environment variables and nothing else.

WATCHNEXT_RELEASES (releases)   WATCHNEXT_STORE (store)   WATCHNEXT_SERVED (outputs/served)
WATCHNEXT_CLOCK    release (time starts where the release's state ends) or wall; if unset, the clock of the release
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.schema import SchemaError
from watchnext.serving.release.manifest import ReleaseError, verified
from watchnext.serving.release.release import CLOCKS, current
from watchnext.serving.store.environment import MAP_BYTES, Environment, StoreError, locked, state_of
from watchnext.serving.store.store import REPAIR

FOLDERS = {"releases": "releases", "store": "store", "served": "outputs/served"}


class SettingsError(ValueError):
    """A WATCHNEXT_* variable, or a port, that the server cannot use."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Folders and clock of the server."""

    releases: Path
    store: Path
    served: Path
    clock: str | None

    @classmethod
    def from_environment(cls, variables: Mapping[str, str]) -> "Settings":
        """Read the WATCHNEXT_* variables; an empty one counts as unset. Raises SettingsError."""
        clock = variables.get("WATCHNEXT_CLOCK") or None
        if clock not in (None, *CLOCKS):
            raise SettingsError(f"WATCHNEXT_CLOCK is {clock!r}, expected {' or '.join(CLOCKS)}; change it, or unset it")
        folders = {name: Path(variables.get(f"WATCHNEXT_{name.upper()}") or path) for name, path in FOLDERS.items()}
        return cls(clock=clock, **folders)

    def check(self) -> None:
        """Check that a server can start: read every byte of the release, load nothing. Raises ReleaseError or StoreError.

        A network loaded here would crash the supervisor process when it ends.
        """
        release = current(self.releases)
        manifest = verified(release)
        try:
            FeaturePipeline.load(release / "pipeline")
        except SchemaError as error:
            raise ReleaseError(f"{release} cannot serve: {error}") from error
        lock = locked(self.store)
        try:
            if (self.store / "current").exists():
                self._check_store(manifest)
        finally:
            lock.close()

    def _check_store(self, manifest: Mapping) -> None:
        states = {name: self._state_of(name) for name in ("current", "next") if (self.store / name).exists()}
        if manifest["state"] not in states.values():
            needed = f"release {manifest['id']} needs {manifest['state']}"
            raise StoreError(f"the store {self.store} holds state {states['current']}, but {needed}; run `{REPAIR}`")

    def _state_of(self, name: str) -> str:
        environment = Environment(self.store / name, durable=True, map_bytes=MAP_BYTES)
        fingerprint = state_of(environment)
        environment.close()
        return fingerprint
