"""Seal stored values with a checksum: key and payload > payload and CRC-32, so that a flipped bit is found where it is read."""

from zlib import crc32

from watchnext.serving.store.engines.engine import REPAIR, StoreError

SEALED = ("journal", "viewers", "seen", "videos", "creators", "live", "names")  # others: keys, or made again
SEAL_BYTES = 4


class StoreDamagedError(StoreError):
    """A stored value, or the file, is not as it was written."""


def sealed(key: bytes, payload: bytes) -> bytes:
    """Append the checksum of key and payload."""
    return payload + crc32(payload, crc32(key)).to_bytes(SEAL_BYTES, "big")


def is_intact(key: bytes, packed: bytes) -> bool:
    """Return True if the value is as `sealed` made it for this key."""
    return packed[-SEAL_BYTES:] == crc32(packed[:-SEAL_BYTES], crc32(key)).to_bytes(SEAL_BYTES, "big")


def unsealed(table: str, key: bytes, packed: bytes) -> bytes:
    """Return the payload. Raises StoreDamagedError naming table and key."""
    if not is_intact(key, packed):
        raise StoreDamagedError(f"{table} {key.hex()} in the store is damaged (checksum); stop the server and run `{REPAIR}`")
    return packed[:-SEAL_BYTES]
