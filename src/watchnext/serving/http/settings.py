"""Settings of the server, read from WATCHNEXT_* environment variables and nothing else."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PositiveInt, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from watchnext.features.encode.pipeline import FeaturePipeline
from watchnext.schema import SchemaError
from watchnext.serving.http.access.gate import ANY, LOCAL_HOSTS, Access, is_loopback
from watchnext.serving.http.access.keys import NEW_KEY, Keys, KeysError
from watchnext.serving.http.swap.served_releases import ServedReleases, first_that_opens
from watchnext.serving.release.manifest import ReleaseError, verified
from watchnext.serving.release.release import CLOCKS
from watchnext.serving.release.release_url import ReleaseUrl, fetched
from watchnext.serving.store.building.opening import misfit
from watchnext.serving.store.engines.engine import state_of
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.engines.folder import locked
from watchnext.serving.store.engines.redis_engine import RedisEngine, is_url, location
from watchnext.serving.store.tables.retention import JOURNAL_BYTES, LIVE_VIDEOS, VIEWERS_KEPT

EXPECTED = {
    "bool_parsing": "1 or 0",
    "int_parsing": "a whole number above 0",
    "less_than_equal": "a share of at most 1",
}  # by pydantic's type of error


def _split(given: object) -> object:
    return [word.strip().lower() for word in given.split(",") if word.strip()] if isinstance(given, str) else given


Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]  # split at commas


class SettingsError(ValueError):
    """A WATCHNEXT_* variable, or a port, that the server cannot use."""


class Settings(BaseSettings):
    """Folders and clock of the server. WATCHNEXT_STORE sets `store`, and so on; an empty variable counts as unset.

    releases_url                 where promotions are pushed to; each release is fetched into the folder `releases`
    store                        a folder, or the URL of a Redis
    clock                        release (time starts where the release's state ends) or wall; None is the clock of the release
    drift                        report of `python -m watchnext.monitoring drift` that the status of the page reads
    viewers_kept, journal_bytes, live_videos  as in `Bounds` of the store
    keys                         file of bearer keys; None: this machine only
    demo                         without keys, viewers are listed; None: where the clock is the release's
    hosts, origins, rate         as in `Access`
    shadow_cpu                   share of a core that a challenger may take to score requests aside
    log                          text, or JSON with a line for each answer
    """

    model_config = SettingsConfigDict(env_prefix="WATCHNEXT_", env_ignore_empty=True, frozen=True)

    releases: Path = Path("releases")
    releases_url: str | None = None
    store: Annotated[Path | str, BeforeValidator(location)] = Path("store")
    served: Path = Path("outputs/served")
    drift: Path = Path("outputs/drift/served/drift.json")
    clock: Literal[CLOCKS] | None = None
    viewers_kept: PositiveInt = VIEWERS_KEPT
    journal_bytes: PositiveInt = JOURNAL_BYTES
    live_videos: PositiveInt = LIVE_VIDEOS
    keys: Path | None = None
    demo: bool | None = None
    hosts: Names = LOCAL_HOSTS
    origins: Names = ()
    shadow_cpu: Annotated[float, Field(gt=0, le=1)] = 0.1
    log: Literal["text", "json"] = "text"
    rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @classmethod
    def from_environment(cls) -> "Settings":
        """Read the variables. Raises SettingsError."""
        try:
            return cls()
        except ValidationError as error:
            wrong = error.errors()[0]
            variable = f"WATCHNEXT_{wrong['loc'][0].upper()}"
            expected = EXPECTED.get(wrong["type"]) or wrong.get("ctx", {}).get("expected", "a number above 0")
            raise SettingsError(f"{variable} is {wrong['input']!r}, expected {expected}; change it, or unset it") from error

    def access(self, *, clock: str) -> Access:
        """Return who may call a server with this clock. Raises SettingsError."""
        if self.keys is None and ANY in self.origins:
            raise SettingsError(f"WATCHNEXT_ORIGINS is '*', expected names of pages without keys; make one: `{NEW_KEY}`")
        try:
            keys = None if self.keys is None else Keys(self.keys)
        except KeysError as error:
            raise SettingsError(f"WATCHNEXT_KEYS: {error}") from error
        demo = clock == "release" if self.demo is None else self.demo
        return Access(keys=keys, demo=demo, hosts=self.hosts, origins=self.origins, rate_per_s=self.rate)

    def check_address(self, host: str) -> None:
        """Raise SettingsError for an address that other machines reach, where there are no keys."""
        if self.keys is None and not is_loopback(host):
            raise SettingsError(
                f"the server would listen on {host} without keys, expected a loopback address like 127.0.0.1; make a key: "
                f"`{NEW_KEY}`, and set WATCHNEXT_KEYS=FILE"
            )

    def check(self) -> None:
        """Check that a server can start: fetch the release, read every byte of it, load nothing.

        Raises ReleaseError or StoreError.
        A network loaded here would crash the supervisor process when it ends.
        """
        self.access(clock="wall")
        if self.releases_url:
            fetched(ReleaseUrl(self.releases_url), self.releases)
        first_that_opens(self.releases, ServedReleases(self.served_releases), self._check_release)

    @property
    def served_releases(self) -> Path:
        """The file that names the releases which served."""
        return self.served / "releases.json"

    @property
    def canary_report(self) -> Path:
        """The file of what a canary's arms did."""
        return self.served / "canary.json"

    def _check_release(self, release: Path) -> None:
        manifest = verified(release)
        try:
            FeaturePipeline.load(release / "pipeline")
        except SchemaError as error:
            raise ReleaseError(f"{release} cannot serve: {error}") from error
        if is_url(self.store):
            RedisEngine(self.store, state=manifest["state"], durable=True).close()
            return
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
