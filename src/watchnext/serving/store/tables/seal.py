"""Seal stored values with a checksum: key and payload > payload and CRC-32, so that a flipped bit is found where it is read."""

from zlib import crc32

from watchnext.serving.store.engines.engine import REPAIR, StoreError

NUMBERS = ("withdrawn", "erased", "erased_here", "keys", "shown")  # whose values are numbers of 8 bytes each
SEALED = ("journal", "viewers", "seen", "videos", "creators", "live", "names", *NUMBERS)  # and slates, where they are read
SEAL_BYTES, NUMBER_BYTES = 4, 8


class StoreDamagedError(StoreError):
    """A stored value, or the file, is not as it was written."""


def sealed(key: bytes, payload: bytes) -> bytes:
    """Append the checksum of key and payload."""
    return payload + crc32(payload, crc32(key)).to_bytes(SEAL_BYTES, "big")


def is_bare(table: str, packed: bytes) -> bool:
    """Return True for NUMBERS as a version stored them that did not seal these: without the bytes of a checksum."""
    return table in NUMBERS and len(packed) % NUMBER_BYTES == 0


def is_intact(table: str, key: bytes, packed: bytes) -> bool:
    """Return True if the value is as `sealed` made it for this key, or bare."""
    return is_bare(table, packed) or packed[-SEAL_BYTES:] == crc32(packed[:-SEAL_BYTES], crc32(key)).to_bytes(SEAL_BYTES, "big")


def unsealed(table: str, key: bytes, packed: bytes) -> bytes:
    """Return the payload. Raises StoreDamagedError naming table and key."""
    if not is_intact(table, key, packed):
        raise StoreDamagedError(f"{table} {key.hex()} in the store is damaged (checksum); stop the server and run `{REPAIR}`")
    return packed if is_bare(table, packed) else packed[:-SEAL_BYTES]
