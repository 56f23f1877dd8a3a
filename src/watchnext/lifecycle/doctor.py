"""Find what disagrees in a project: releases, registry, store, stage outputs, leftovers of killed programs, old caches.

The link `releases/current` decides what serves; everything else is made to agree with it. Nothing that may be in use is
removed: leftovers are an hour old at least, and the store is touched under its lock alone.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from watchnext import kernels, tracking
from watchnext.files import removed
from watchnext.lifecycle import release_registry
from watchnext.lifecycle.promote import model_name
from watchnext.serving.release.canary_plan import FILE, end_plan, plan_in
from watchnext.serving.release.manifest import ReleaseError, read_manifest, verified
from watchnext.serving.release.only_one import moving
from watchnext.serving.release.release import Release, current, releases_in, switch
from watchnext.serving.store.engines.engine import StoreError, StoreHeldError
from watchnext.serving.store.engines.folder import LINKS, clear, locked, target_of
from watchnext.serving.store.engines.redis_engine import is_url
from watchnext.serving.store.store import Store, build_store

LEFT_S = 3_600.0  # age from which a temporary file is taken for a leftover
UNUSED_S = 30 * 86_400.0  # after which machine code that no process used goes
LEFTOVERS = {  # pattern below outputs or releases > what leaves it
    "releases": {".staging-*": "a build of a release", ".*.new": "a writer"},
    "outputs": {
        "**/.*.new": "a writer",
        ".*.[0-9]*": "a training",
        "tmp????????": "a choice of settings",
        "loop/checked-*": "a pass of the loop",
    },
}


@dataclass(frozen=True)
class Trouble:
    """A fault: its place, the fault, and the command that repairs it. `repair` does the same; None leaves it to a person."""

    where: str
    what: str
    command: str
    repair: Callable[[], object] | None = None


@dataclass(frozen=True, kw_only=True)
class Doctor:
    """Examine the project of a data set.

    store  a folder, or an address
    """

    data: str
    outputs: Path
    releases: Path
    store: str

    def examine(self) -> list[Trouble]:
        """Return everything that is wrong, what serves first."""
        parts = (self._releases, self._canary, self._registry, self._outputs, self._store, self._leftovers, self._caches)
        return [trouble for part in parts for trouble in part()]

    @property
    def _serving(self) -> str | None:
        with suppress(ReleaseError):
            return current(self.releases).name
        return None

    @property
    def _promote(self) -> str:
        return f"python -m watchnext.lifecycle promote data={self.data} release="

    @property
    def _built(self) -> str | None:
        """Return the release that the outputs belong to; after `dvc pull` it is not there yet."""
        return _read(self.outputs / "release.json").get("release")

    @property
    def _release(self) -> str:
        """Return the command that builds it of the outputs; for DVC they are up to date."""
        return f"python -m watchnext.lifecycle release data={self.data}"

    @property
    def _build_store(self) -> str:
        return f"python -m watchnext.serving build-store data={self.data}"

    def _sound(self, name: str) -> bool:
        with suppress(ReleaseError):
            return verified(self.releases / name)["data"] == self.data
        return False

    def _releases(self) -> Iterator[Trouble]:
        if not self.releases.is_dir():
            yield Trouble(
                str(self.releases), "there is no such folder, so no release", self._release if self._built else "dvc repro"
            )
            return
        for name in releases_in(self.releases):
            try:
                verified(self.releases / name)
            except ReleaseError as error:
                yield Trouble(str(self.releases / name), str(error), f"rm -r {self.releases / name}; {self._release}")
        try:
            current(self.releases)
        except ReleaseError as error:
            champion = release_registry.release_of("champion", name=model_name(self.data)) if self._has_registry else None
            can = champion is not None and self._sound(champion)
            repair = partial(self._moved, switch, self.releases, champion) if can else None
            yield Trouble(str(self.releases / "current"), str(error), f"{self._promote}{champion or 'ID'}", repair)

    def _moved(self, repair: Callable, *given: object, **named: object) -> None:
        with moving(self.releases):
            repair(*given, **named)

    def _canary(self) -> Iterator[Trouble]:
        path = self.releases / FILE
        try:
            plan = plan_in(self.releases)
        except ReleaseError as error:
            yield Trouble(str(path), str(error), f"rm {path}", partial(removed, path))
            return
        if plan is None or plan.ended:
            return
        if plan.release == self._serving or not (self.releases / plan.release).is_dir():
            what = f"it tries {plan.release}, which {'serves' if plan.release == self._serving else 'is gone'}"
            command = f"python -m watchnext.lifecycle rollback data={self.data}"
            yield Trouble(str(path), what, command, partial(end_plan, self.releases, "ended by doctor", release=plan.release))

    @property
    def _has_registry(self) -> bool:
        uri = tracking.tracking_uri()
        return not uri.startswith(tracking.SQLITE) or Path(uri.removeprefix(tracking.SQLITE)).exists()

    def _registry(self) -> Iterator[Trouble]:
        where, name = f"registry {tracking.tracking_uri()}", model_name(self.data)
        if not self._has_registry:
            yield Trouble(where, "there is no such store", self._release)
            return
        known, serving = release_registry.registered(name=name), self._serving
        folders = releases_in(self.releases) if self.releases.is_dir() else []
        for release in folders:
            if release not in known and self._sound(release):
                yield Trouble(where, f"release {release} is not registered as {name}", self._release)
        champion, challenger = (release_registry.release_of(alias, name=name) for alias in ("champion", "challenger"))
        if serving in known and champion != serving:
            repair = partial(self._moved, release_registry.set_champion, serving, name=name)
            yield Trouble(where, f"the champion is {champion}, but {serving} serves", f"{self._promote}{serving}", repair)
        if challenger is not None and challenger not in folders:
            repair = partial(self._moved, release_registry.drop_challenger, name=name)
            yield Trouble(where, f"the challenger {challenger} is not in {self.releases}", self._release, repair)

    def _outputs(self) -> Iterator[Trouble]:
        if (built := self._built) is not None and not (self.releases / built).is_dir():
            what = f"it names {built}, which is not in {self.releases}"
            yield Trouble(str(self.outputs / "release.json"), what, self._release)
        state, serving = _read(self.outputs / "store.json").get("state"), self._serving
        if serving and state is not None and state != read_manifest(self.releases / serving)["state"]:
            what = f"it is of the state {state}, but {serving} has {read_manifest(self.releases / serving)['state']}"
            yield Trouble(str(self.outputs / "store.json"), what, self._build_store)

    def _store(self) -> Iterator[Trouble]:
        if (serving := self._serving) is None or not (is_url(self.store) or Path(self.store).exists()):
            return
        try:
            release = Release.load(self.releases / serving)
            Store.reader(self.store, release).close()
        except ReleaseError:
            return  # reported above
        except StoreError as error:
            repair = None if is_url(self.store) or self._is_held else partial(build_store, Path(self.store), release)
            yield Trouble(self.store, str(error), self._build_store, repair)
        if is_url(self.store) or self._is_held:
            return
        linked = {target_of(Path(self.store), name) for name in LINKS}
        for path in sorted(Path(self.store).glob("env-*")):
            if path.name not in linked:
                yield Trouble(str(path), "a build that was killed left it", f"rm -r {path}", self._clear_store)

    @property
    def _is_held(self) -> bool:
        try:
            locked(Path(self.store)).close()
            return False
        except StoreHeldError:
            return True

    def _clear_store(self) -> None:
        with closing(locked(Path(self.store))):
            clear(Path(self.store))

    def _leftovers(self) -> Iterator[Trouble]:
        before = time.time() - LEFT_S
        for folder, patterns in ((self.releases, LEFTOVERS["releases"]), (self.outputs, LEFTOVERS["outputs"])):
            for pattern, by in patterns.items():
                for path in sorted(folder.glob(pattern)):
                    if path.lstat().st_mtime < before:
                        yield Trouble(str(path), f"{by} that was killed left it", f"rm -r {path}", partial(removed, path))

    def _caches(self) -> Iterator[Trouble]:
        folder = kernels.cache_folder()
        codes = sorted(Path(folder).glob("*.nbc")) if folder else []
        old = [path for path in codes if path.lstat().st_mtime < time.time() - UNUSED_S]
        old += [path for path in Path(folder).glob("*.new") if path.lstat().st_mtime < time.time() - LEFT_S] if folder else []
        if old:
            what = f"{len(old):,} files of machine code were not used for 30 days, or were cut short"
            yield Trouble(str(folder), what, f"rm -r {folder}", partial(_remove_all, old))


def _remove_all(paths: list[Path]) -> None:
    for path in paths:
        removed(path)


def _read(path: Path) -> dict:
    """Return a small report of a stage; nothing where it is missing or damaged, as the stage then runs again."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
