"""Build the store of a release beside the one that serves, and take over one that was built: each by a link, all or nothing."""

import logging
import os
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from watchnext.serving.release.release import Release
from watchnext.serving.store.building.bootstrap import carry, load_state, put_origin, salvage
from watchnext.serving.store.building.integrity import require_sound
from watchnext.serving.store.engines.engine import REPAIR, TABLES, Engine, StoreError, number_key, state_of
from watchnext.serving.store.engines.environment import MAP_BYTES, Environment, lengthened
from watchnext.serving.store.engines.folder import claim_next, clear, commit_claim, drop_claim, new_environment, point
from watchnext.serving.store.engines.redis_engine import RedisEngine, is_url
from watchnext.serving.store.erasure import drop_erased
from watchnext.serving.store.tables.meta import put_meta

log = logging.getLogger(__name__)

Replay = Callable[[Engine, Release], None]  # folds the journal of an engine on top of the release's state


def opened(folder: Path, release: Release, replay: Replay, *, durable: bool, map_bytes: int) -> Environment:
    """Open the environment of a locked folder; take over one that was built beside it, or build the first.

    Raises StoreError for a store of another schema or catalogue, StoreDamagedError for a damaged one if it is to be `durable`.
    """
    drop_claim(folder)  # of a server that was killed while it tried or took another release
    take_over(folder, release, replay, durable=durable, map_bytes=map_bytes)
    if not os.path.lexists(folder / "current"):
        log.info("no store in %s yet: building it from the release %s", folder, release.id)
        build(folder, release, replay, durable=durable, map_bytes=map_bytes)
    elif durable:
        require_sound(folder / "current")
    environment = Environment(folder / "current", durable=durable, map_bytes=map_bytes)
    _require_fit(environment, folder, release)
    return environment


def opened_for_reading(folder: Path | str, release: Release, *, map_bytes: int) -> Engine:
    """Open the tables beside the process that writes them. Raises StoreError."""
    if is_url(folder):
        engine = RedisEngine(str(folder), state=release.state_fingerprint, durable=False)
    else:
        engine = Environment(Path(folder) / "current", durable=False, map_bytes=map_bytes, readonly=True)
    _require_fit(engine, folder, release)
    return engine


def opened_journal(folder: Path | str) -> Engine:
    """Open the tables beside the process that writes them, to read the journal alone: whatever state the records are of.

    Raises StoreError.
    """
    if is_url(folder):
        return RedisEngine(str(folder), state="", durable=False)
    return Environment(Path(folder) / "current", durable=False, map_bytes=MAP_BYTES, readonly=True)


def opened_shared(url: str, release: Release, replay: Replay, *, durable: bool) -> RedisEngine:
    """Open the tables of a release in Redis, built where they are missing. Raises StoreError."""
    engine = RedisEngine(url, state=release.state_fingerprint, durable=durable)
    try:
        if state_of(engine) != release.state_fingerprint:
            log.info("no state for %s in %s yet: building it", release.id, engine.shown)
            build_shared(url, release, replay, durable=durable)
        return engine
    except BaseException:
        engine.close()
        raise


def _require_fit(engine: Engine, folder: Path | str, release: Release) -> None:
    if (held := state_of(engine)) != release.state_fingerprint:
        engine.close()
        raise misfit(folder, held, release.id, release.state_fingerprint)


def build(folder: Path, release: Release, replay: Replay, *, durable: bool, map_bytes: int) -> int:
    """Build the release's state, then the journal of the store in the folder; return how many of its events are lost."""
    lost, built = 0, new_environment(folder)
    environment = Environment(built, durable=False, map_bytes=map_bytes)  # synced once, when it closes
    put_origin(environment, release, since_ms=release.as_of_ms)
    load_state(environment, release)
    if os.path.lexists(folder / "current"):
        try:
            lengthened(folder / "current")
            with closing(Environment(folder / "current", durable=False, map_bytes=map_bytes, readonly=True)) as old:
                lost = salvage(old, environment)
        except StoreError as error:
            log.error("nothing of the old store can be read, the new one holds the release's state alone: %s", error)
    drop_erased(environment, release.user_ids, release.as_of_ms)
    replay(environment, release)
    environment.close()
    point(folder, "current", built.name)
    clear(folder)
    return lost


def build_shared(url: str, release: Release, replay: Replay, *, durable: bool) -> None:
    """Build the records of a release in Redis, unless another process does; journal and keys are common to all releases."""
    engine = RedisEngine(url, state=release.state_fingerprint, durable=durable, builds=True)
    with closing(engine), engine.building() as is_needed:
        if not is_needed:
            return
        with engine.write() as txn:
            for name, table in TABLES.items():
                if not table.carried:
                    txn.clear(name)
            txn.put_many("erased_here", list(txn.items("erased")))
        put_meta(engine, since=number_key(release.as_of_ms), built=uuid.uuid4().hex.encode())
        load_state(engine, release)
        drop_erased(engine, release.user_ids, release.as_of_ms)
        replay(engine, release)
        put_origin(engine, release, since_ms=release.as_of_ms)  # from here on servers take it


def carry_current(folder: Path, environment: Environment, *, map_bytes: int) -> None:
    """Copy journal, keys and the other carried tables of the serving store, if there is one, to `environment`.

    The serving store may stay open in another process.
    """
    if os.path.lexists(folder / "current"):
        with closing(Environment(folder / "current", durable=False, map_bytes=map_bytes, readonly=True)) as old:
            carry(old, environment)


def take_over(folder: Path, release: Release, replay: Replay, *, durable: bool, map_bytes: int) -> None:
    """Replace the store by the environment that `from_log` built beside it, plus all events acknowledged meanwhile.

    An environment for another schema or catalogue waits for its release. A takeover killed at any point is resumed.
    """
    if (claimed := claim_next(folder)) is None:
        return
    with closing(Environment(claimed, durable=durable, map_bytes=map_bytes)) as environment:
        if state_of(environment) != release.state_fingerprint:
            return
        carry_current(folder, environment, map_bytes=map_bytes)
        replay(environment, release)
    commit_claim(folder, claimed)
    log.info("the store %s is now %s, built from a log", folder, claimed.name)


class StoreMisfitError(StoreError):
    """Records of another schema or catalogue, under which they have another meaning."""


def misfit(folder: Path | str, held: str, release_id: str, needed: str) -> StoreMisfitError:
    return StoreMisfitError(f"the store {folder} holds state {held}, but release {release_id} needs {needed}; run `{REPAIR}`")
