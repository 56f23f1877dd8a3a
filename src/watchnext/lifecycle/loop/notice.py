"""Say what a pass did: a line in the log, and a POST to a webhook where one is set."""

import json
import logging
import urllib.error
import urllib.request
from collections.abc import Mapping

log = logging.getLogger(__name__)
TIMEOUT_S = 5.0
MOST_BYTES = 16_384  # of a body; the whole report is in the folder


def notify(message: str, report: Mapping, *, webhook: str | None) -> bool:
    """Log `message`, and send it with `report` as JSON to `webhook` (http or https). Return False where that failed.

    A webhook that fails, or takes longer than TIMEOUT_S, is only logged: a release is not taken back for it.
    """
    log.info("%s", message)
    if webhook is None:
        return True
    if not webhook.startswith(("http://", "https://")):
        log.warning("loop.webhook is %r, expected an address that begins with http:// or https://", webhook)
        return False
    body = json.dumps({"text": message, "report": report}).encode()
    if len(body) > MOST_BYTES:
        body = json.dumps({"text": message[: MOST_BYTES // 8]}).encode()
    request = urllib.request.Request(webhook, body, {"Content-Type": "application/json"}, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            answer.read(1)
        return True
    except (OSError, ValueError, urllib.error.URLError) as error:
        log.warning("the webhook did not take the notice: %s", error)
        return False
