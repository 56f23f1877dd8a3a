"""Hand the viewers over to another release while a server runs: a store for it, beside the one that serves.

`python -m watchnext.serving.store.hand_over RELEASE STORE BUILT` builds the environment BUILT for the folder RELEASE with the
journal and keys of STORE: a process of its own, so that the server goes on answering.
"""

import os
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

from watchnext.serving.release.manifest import ReleaseError
from watchnext.serving.release.release import Release
from watchnext.serving.store.building.bootstrap import load_state, put_origin
from watchnext.serving.store.building.opening import carry_current
from watchnext.serving.store.engines.engine import StoreError, state_of
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment
from watchnext.serving.store.engines.folder import claim_new, claim_next, commit_claim, drop_claim
from watchnext.serving.store.engines.redis_engine import is_url, location
from watchnext.serving.store.erasure import drop_erased
from watchnext.serving.store.store import Store

FEW = 500  # events that may be left for the pause
ROUNDS = 20  # of catching up; events that come faster than that are left for the pause


class StoreSuccession:
    """Make the successor of the store in `folder` for another release: `prepare` beside the serving, then `complete` while
    nothing is committed. One at a time; `stop` ends a build. In Redis the successor follows the common journal by itself."""

    def __init__(self, folder: Path | str) -> None:
        self._folder, self._claimed = location(folder), None
        self._process: subprocess.Popen | None = None
        self._stopping = threading.Event()

    def prepare(self, store: Store, release: Release, held: str) -> Store:
        """Return the successor, which lacks a few events at most. `held` is the state that `store` holds. Raises StoreError."""
        self._claimed = None
        if release.state_fingerprint == held:
            return store.reopened(release)
        if is_url(self._folder):
            self._build(release, self._folder)
            return store.at(self._folder, release)
        environment = self._fitting(release) or self._built(release)
        try:
            successor = store.beside(environment, release)
            for _ in range(ROUNDS):
                if successor.follow(store) <= FEW:
                    break
            return successor
        except BaseException:
            environment.close()
            raise

    def complete(self, store: Store, successor: Store) -> None:
        """Take over the last events; from now on the folder's store is the successor. Raises StoreError."""
        if is_url(self._folder):
            successor.catch_up()
            return
        successor.follow(store)
        successor.take_quarantine(store)
        successor.erase_again(store)
        if self._claimed is not None:
            commit_claim(self._folder, self._claimed)

    def follow(self, store: Store, successor: Store) -> None:
        """Let a successor that was prepared take over what `store` accepted meanwhile. Raises StoreError."""
        if is_url(self._folder):
            successor.catch_up()
        else:
            successor.follow(store)

    def drop(self, store: Store, successor: Store) -> None:
        """Close a successor that is not completed, and remove what was built for it. In Redis its records stay."""
        successor.close(successor=store)
        if self._claimed is not None:
            drop_claim(self._folder)
            self._claimed = None

    def stop(self) -> None:
        self._stopping.set()
        if self._process is not None:
            self._process.kill()

    def _fitting(self, release: Release) -> Environment | None:
        """Open the environment that `state build` left for the release, if there is one."""
        if (claimed := claim_next(self._folder)) is None:
            return None
        environment = Environment(claimed, durable=True, map_bytes=MAP_BYTES)
        if state_of(environment) != release.state_fingerprint:
            environment.close()
            return None
        self._claimed = claimed
        return environment

    def _built(self, release: Release) -> Environment:
        self._claimed = claim_new(self._folder)
        self._build(release, self._claimed)
        return Environment(self._claimed, durable=True, map_bytes=MAP_BYTES)

    def _build(self, release: Release, built: Path | str) -> None:
        command = [sys.executable, "-m", __name__, str(release.folder), str(self._folder), str(built)]
        variables = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # the package may be importable here alone
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=variables)
        if self._stopping.is_set():
            self._process.kill()
        _, errors = self._process.communicate()
        if self._process.returncode:
            raise StoreError(f"the store for {release.id} could not be built: {errors.strip() or self._process.returncode}")


def build(release: Release, folder: Path, built: Path) -> None:
    """Fill the environment `built`: the release's folded state, then the journal of the store in `folder` from `as_of` on."""
    with closing(Environment(built, durable=False, map_bytes=MAP_BYTES)) as environment:  # synced once, when it closes
        put_origin(environment, release, since_ms=release.as_of_ms)
        load_state(environment, release)
        carry_current(folder, environment, map_bytes=MAP_BYTES)
        drop_erased(environment, release.user_ids, release.as_of_ms)
        Store(environment, release).replay()


def main(release: str, folder: str, built: str) -> str | None:
    os.nice(10)  # requests go first
    try:
        if is_url(built):
            Store.open(built, Release.load(Path(release))).close()
        else:
            build(Release.load(Path(release)), Path(folder), Path(built))
    except (ReleaseError, StoreError) as error:
        return str(error)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
