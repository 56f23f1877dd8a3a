"""Releases at a URL of any file system that fsspec knows: a promotion pushes one, and every server fetches it.

URL/<digest of the manifest>/  a sealed release; its manifest is written last, and nothing of it is changed
URL/current                    release, digest and time of the last promotion, as JSON; written when all else is there
"""

import fcntl
import hashlib
import json
import logging
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TypeVar

import fsspec

from watchnext.files import link, removed, sha256_of, synced, synced_below
from watchnext.serving.release.manifest import NAME, SEAL, ReleaseError, digest_of, read_manifest, verified

VARIABLE = "WATCHNEXT_RELEASES_URL"
PROMOTE = "python -m watchnext.lifecycle promote release="
COPIED_AT_ONCE = 8  # files
START_S = 30.0  # longest wait of a server that starts
R = TypeVar("R")

log = logging.getLogger(__name__)


class UrlDownError(ReleaseError):
    """A URL that does not answer; what it names may be sound."""


@dataclass(frozen=True)
class Promotion:
    """Content of `current` at the URL: the release that is to serve, the digest of its manifest, the time of the promotion."""

    release: str
    digest: str
    at: str


class ReleaseUrl:
    """The releases at a URL. Raises ReleaseError, which names the URL, where its file system cannot be used."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url, use_listings_cache=False)
        except (ImportError, ValueError) as error:  # the message of the former names what to install
            raise ReleaseError(f"{VARIABLE} is {url}, which fsspec cannot open: {error}") from error

    # ---- a promotion -------------------------------------------------------------------------------------------------

    def upload(self, folder: Path) -> None:
        """Copy a release to the URL, where it is not there yet; no server takes it. Raises ReleaseError."""
        manifest = verified(folder)
        target = f"{self._root}/{digest_of(manifest)}"
        with self._answers():
            if not self._files.exists(f"{target}/{SEAL}"):
                for parent in sorted({str(PurePosixPath(target) / PurePosixPath(name).parent) for name in manifest["files"]}):
                    self._files.makedirs(parent, exist_ok=True)
                for names in (manifest["files"], [SEAL]):
                    with ThreadPoolExecutor(COPIED_AT_ONCE) as pool:
                        list(pool.map(lambda name: self._files.put_file(str(folder / name), f"{target}/{name}"), names))

    def point(self, folder: Path) -> None:
        """Let every server take a release that was uploaded. Raises ReleaseError."""
        manifest = read_manifest(folder)
        promotion = Promotion(manifest["id"], digest_of(manifest), datetime.now(UTC).isoformat())
        aside = f"{self._root}/.current-{secrets.token_hex(4)}"
        with self._answers():
            self._files.pipe_file(aside, json.dumps(vars(promotion)).encode())
            self._files.mv(aside, f"{self._root}/current")  # in one step, where a file system has such a step

    # ---- a server ----------------------------------------------------------------------------------------------------

    def promotion(self) -> Promotion:
        """Read which release is to serve. Raises ReleaseError."""
        try:
            with self._answers():
                packed = self._files.cat_file(f"{self._root}/current")
            promotion = Promotion(**json.loads(packed))
            if not NAME.fullmatch(promotion.release) or promotion.release == "current":
                raise ValueError(f"it names {promotion.release!r}")
            if len(bytes.fromhex(promotion.digest)) != hashlib.sha256().digest_size:
                raise ValueError(f"its digest is {promotion.digest!r}")
        except FileNotFoundError as error:
            raise ReleaseError(f"{self.url} names no release; promote one: `{VARIABLE}={self.url} {PROMOTE}ID`") from error
        except (ValueError, TypeError) as error:
            raise ReleaseError(f"{self.url}/current is damaged ({error}); promote a release again: `{PROMOTE}ID`") from error
        return promotion

    def fetch(self, promotion: Promotion, releases: Path) -> None:
        """Bring a release to the folder `releases`, checked byte for byte, and point `current` at it.

        Raises ReleaseError naming the file that is missing or differs from what its digest promises; nothing is changed then.
        """
        releases, folder = Path(releases), Path(releases) / promotion.release
        releases.mkdir(parents=True, exist_ok=True)
        with open(releases / ".fetch", "a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # servers may share the folder
            if not folder.exists():
                self._copy(promotion, releases / ".fetched")
                os.rename(releases / ".fetched", folder)
                synced(releases)
            elif (held := digest_of(read_manifest(folder))) != promotion.digest:
                raise ReleaseError(
                    f"{folder} has the digest {held}, but {self.url} promises {promotion.digest} under this name; remove the "
                    f"wrong one, and promote again: `{PROMOTE}{promotion.release}`"
                )
            if not (releases / "current").is_symlink() or os.readlink(releases / "current") != promotion.release:
                verified(folder)  # one that lay here may have been damaged since
                link(releases, "current", promotion.release)

    def _copy(self, promotion: Promotion, aside: Path) -> None:
        removed(aside)  # of a server that was killed
        aside.mkdir()
        try:
            source = f"{self._root}/{promotion.digest}"
            self._copy_file(f"{source}/{SEAL}", aside / SEAL, promotion)
            manifest = read_manifest(aside)
            if (actual := digest_of(manifest)) != promotion.digest or manifest["id"] != promotion.release:
                raise ReleaseError(f"{source}/{SEAL} is of {manifest['id']}, digest {actual}; {self._repair(promotion)}")
            for name in manifest["files"]:
                if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                    raise ReleaseError(f"{source}/{SEAL} names the file {name}, which leads out of the release")
                (aside / name).parent.mkdir(parents=True, exist_ok=True)

            def copied(item: tuple[str, str]) -> None:
                name, digest = item
                self._copy_file(f"{source}/{name}", aside / name, promotion)
                if sha256_of(aside / name) != digest:
                    raise ReleaseError(
                        f"{source}/{name} is damaged or cut short, its sha256 differs from the manifest; "
                        f"{self._repair(promotion)}"
                    )

            with ThreadPoolExecutor(COPIED_AT_ONCE) as pool:
                list(pool.map(copied, manifest["files"].items()))
            synced_below(aside)
        except BaseException:
            shutil.rmtree(aside)
            raise

    def _copy_file(self, source: str, target: Path, promotion: Promotion) -> None:
        try:
            self._files.get_file(source, str(target))
        except FileNotFoundError as error:
            raise ReleaseError(f"{source} is missing; {self._repair(promotion)}") from error
        except Exception as error:  # of the URL, or of this disk, which may be full
            why = f"{type(error).__name__}: {error}"
            raise UrlDownError(f"{source} cannot be copied to {target.parent} ({why}); it is tried again") from error

    def _repair(self, promotion: Promotion) -> str:
        return f"remove {self.url}/{promotion.digest}, and promote again: `{PROMOTE}{promotion.release}`"

    @contextmanager
    def _answers(self) -> Iterator[None]:
        """Raise UrlDownError for whatever else than a missing file a file system raises."""
        try:
            yield
        except FileNotFoundError:
            raise
        except Exception as error:
            raise UrlDownError(f"{self.url} cannot be used ({type(error).__name__}: {error}); it is tried again") from error


def fetched(url: ReleaseUrl, releases: Path) -> None:
    """Fetch the release that is to serve, for a server that starts.

    Where one serves in the folder already, it goes on after START_S, and what is being copied is followed later. Raises
    ReleaseError where none does and nothing can be fetched, or the URL does not answer within START_S.
    """
    serves = os.path.lexists(Path(releases) / "current")
    try:
        promotion = _within(START_S, url.promotion)
        _within(START_S if serves else None, lambda: url.fetch(promotion, releases))
    except (ReleaseError, OSError) as error:
        reason = f"{url.url} does not answer within {START_S:g} s" if isinstance(error, TimeoutError) else str(error)
        if not serves:
            raise ReleaseError(reason) from error
        log.error("%s; what serves in %s goes on", reason, releases)


def _within(wait_s: float | None, act: Callable[[], R]) -> R:
    """Return what `act` returns. Raises what it raises, and TimeoutError after `wait_s` seconds; its thread then goes on, but
    keeps no process alive."""
    future: Future[R] = Future()

    def run() -> None:
        try:
            future.set_result(act())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="release-fetch", daemon=True).start()
    return future.result(wait_s)
