"""Page tokens: the videos that the pages of one feed have shown so far, carried by the client as a checked text."""

import base64
import binascii
from collections.abc import Sequence
from hashlib import blake2b

import orjson

from watchnext.serving.funnel.query import FieldError
from watchnext.serving.store.tables.journal import id_key

PAGED_MOST = 500  # videos of one feed
TOKEN_MOST = 65_536  # characters: PAGED_MOST ids of 64 bytes fit
DIGEST_BYTES = 8


class PageTokenError(FieldError):
    """A page token that was changed, cut short, or made for another viewer."""

    def __init__(self) -> None:
        super().__init__("page_token was not given to this viewer or session as it is; ask for a first page without one")


def token_of(viewer_id: int | str, video_ids: Sequence[int | str]) -> str | None:
    """Return the token that asks for the page behind `video_ids`, all that the feed has shown; None where the feed ends."""
    if len(video_ids) > PAGED_MOST:
        return None
    packed = orjson.dumps(video_ids)
    return base64.urlsafe_b64encode(_digest(viewer_id, packed) + packed).decode()


def shown_before(token: str, viewer_id: int | str) -> list[int | str]:
    """Return the ids of the videos that a token's pages have shown. Raises PageTokenError."""
    try:
        content = base64.b64decode(token, altchars=b"-_", validate=True)
        digest, packed = content[:DIGEST_BYTES], content[DIGEST_BYTES:]
        if digest != _digest(viewer_id, packed):
            raise PageTokenError
        video_ids = orjson.loads(packed)
    except (binascii.Error, ValueError) as error:
        raise PageTokenError from error
    # Anybody can compute the checksum: it finds accidents, and this a token that no server made.
    if not isinstance(video_ids, list) or len(video_ids) > PAGED_MOST or {*map(type, video_ids)} - {int, str}:
        raise PageTokenError
    return video_ids


def _digest(viewer_id: int | str, packed: bytes) -> bytes:
    return blake2b(packed, digest_size=DIGEST_BYTES, key=id_key(viewer_id)[:64]).digest()
