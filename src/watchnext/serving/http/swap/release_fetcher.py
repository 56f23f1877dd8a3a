"""Follow the promotions at a URL: fetch each release into the folder of the releases, whose link the server follows."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

from watchnext.serving.release.release_url import Promotion, ReleaseUrl

POLL_S = 5.0
LONGEST_S = 600.0  # between two tries to copy a release: each moves all of it


class ReleaseFetcher:
    """Fetch the release of every promotion, in a thread of its own: a URL that hangs holds up nothing else.

    refuse  is called with the name of a release, or the URL, and why it cannot be fetched; with None once it can
    """

    def __init__(self, url: ReleaseUrl, releases: Path, refuse: Callable[[str, str | None], None]) -> None:
        self._url, self._releases, self._refuse = url, Path(releases), refuse
        self._taken: Promotion | None = None
        self._failed: tuple[Promotion, str] | None = None  # what was not copied, and why
        self._again, self._wait_s = 0.0, POLL_S  # when it is tried again, and how long after a failure
        self._reason: str | None = None
        self._away = False  # the URL did not answer the last time
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
            if self._away:  # in the middle of a copy, perhaps: it is tried at once
                self._away, self._failed = False, None
            reason = None if promotion == self._taken else self._not_fetched(promotion)
        except Exception as error:
            self._away, reason = promotion is None, str(error)
        if reason != self._reason:
            self._reason = reason
            self._refuse(promotion.release if promotion else self._url.url, reason)

    def _not_fetched(self, promotion: Promotion) -> str | None:
        """Fetch a release; return why that failed, None where it did not. One that failed is tried again after ever longer
        waits, and at once when a URL that was away answers again: bytes may arrive damaged once, and a disk may be full for an
        hour."""
        is_new = self._failed is None or self._failed[0] != promotion
        if not is_new and time.monotonic() < self._again:
            return self._failed[1]
        try:
            self._url.fetch(promotion, self._releases)
        except Exception as error:
            self._wait_s = POLL_S if is_new else min(2 * self._wait_s, LONGEST_S)
            self._again, self._failed = time.monotonic() + self._wait_s, (promotion, str(error))
            return self._failed[1]
        self._taken, self._failed = promotion, None
        return None
