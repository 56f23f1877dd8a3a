"""Settings of the server, read from WATCHNEXT_* environment variables and nothing else."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.schema import SchemaError
from watchnext.serving.release.manifest import ReleaseError, verified
from watchnext.serving.release.release import CLOCKS, current
from watchnext.serving.store.engines.engine import state_of
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.engines.folder import locked
from watchnext.serving.store.store import JOURNAL_BYTES, VIEWERS_KEPT, misfit


class SettingsError(ValueError):
    """A WATCHNEXT_* variable, or a port, that the server cannot use."""


class Settings(BaseSettings):
    """Folders and clock of the server. WATCHNEXT_STORE sets `store`, and so on; an empty variable counts as unset.

    clock                        release (time starts where the release's state ends) or wall; None is the clock of the release
    viewers_kept, journal_bytes  as in `Bounds` of the store
    """

    model_config = SettingsConfigDict(env_prefix="WATCHNEXT_", env_ignore_empty=True, frozen=True)

    releases: Path = Path("releases")
    store: Path = Path("store")
    served: Path = Path("outputs/served")
    clock: Literal[CLOCKS] | None = None
    viewers_kept: PositiveInt = VIEWERS_KEPT
    journal_bytes: PositiveInt = JOURNAL_BYTES

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the variables. Raises SettingsError."""
        try:
            return cls()
        except ValidationError as error:
            wrong = error.errors()[0]
            variable = f"WATCHNEXT_{wrong['loc'][0].upper()}"
            expected = wrong["ctx"]["expected"] if wrong["type"] == "literal_error" else "a whole number above 0"
            raise SettingsError(f"{variable} is {wrong['input']!r}, expected {expected}; change it, or unset it") from error

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
            raise misfit(self.store, states["current"], manifest["id"], manifest["state"])

    def _state_of(self, name: str) -> str:
        with closing(Environment(self.store / name, durable=True, map_bytes=MAP_BYTES)) as environment:
            return state_of(environment)
