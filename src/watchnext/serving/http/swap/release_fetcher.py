"""Follow the promotions at a URL: fetch each release into the folder of the releases, whose link the server follows."""

import threading
from collections.abc import Callable
from pathlib import Path

from watchnext.serving.release.release_url import Promotion, ReleaseUrl, UrlDownError

POLL_S = 5.0


class ReleaseFetcher:
    """Fetch the release of every promotion, in a thread of its own: a URL that hangs holds up nothing else.

    refuse  is called with the name of a release, or the URL, and why it cannot be fetched; with None once it can
    """

    def __init__(self, url: ReleaseUrl, releases: Path, refuse: Callable[[str, str | None], None]) -> None:
        self._url, self._releases, self._refuse = url, Path(releases), refuse
        self._taken: Promotion | None = None
        self._damaged: Promotion | None = None  # it is not copied again: the bytes would be the same
        self._reason: str | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="release-fetcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread; one that a file system holds ends with the process. A second call does nothing."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(1.0)

    def _run(self) -> None:
        while not self._stopping.wait(POLL_S):
            self.follow()

    def follow(self) -> None:
        """Fetch what was promoted since the last call."""
        promotion = None
        try:
            promotion = self._url.promotion()
            if promotion == self._damaged:
                return
            if promotion != self._taken:
                self._url.fetch(promotion, self._releases)
                self._taken = promotion
            reason = None
        except Exception as error:
            reason = str(error)
            if not isinstance(error, UrlDownError | OSError):
                self._damaged = promotion
        if reason != self._reason:
            self._reason = reason
            self._refuse(promotion.release if promotion else self._url.url, reason)
