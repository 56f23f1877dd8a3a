"""Bearer keys and their scopes: a file with one `name scope[,scope] sha256` a line, read again when it changes.

`python -m watchnext.serving.http.access.keys NAME SCOPE[,SCOPE] >> FILE` makes a key: its line goes to the file, the key itself
to the terminal. The file holds no key, only its hash.
"""

import hmac
import logging
import re
import secrets
import stat
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from watchnext.serving.http.access.scopes import SCOPES

log = logging.getLogger(__name__)
NEW_KEY = "python -m watchnext.serving.http.access.keys NAME SCOPE[,SCOPE] >> FILE"
PREFIX = "wn_"
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
DIGEST = re.compile(r"[0-9a-f]{64}")
KEYS_MOST = 10_000
LOOK_EVERY_S = 1.0  # a file that changed is read within this time


class KeysError(ValueError):
    """A key file that the server does not take."""


@dataclass(frozen=True)
class Key:
    """A key without its secret."""

    name: str
    scopes: frozenset[str]
    digest: bytes


class Keys:
    """The keys of a file. A changed file that is wrong is logged, and the keys before stay. Raises KeysError at first."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._state = _state(file)
        self._keys = _read(file)
        self._looked = time.monotonic()

    def find(self, token: str) -> Key | None:
        """Return the key of a token. All are compared, each in constant time, so that the time names none of them."""
        self._refresh()
        digest, found = sha256(token.encode("utf-8", "surrogateescape")).digest(), None
        for key in self._keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_EVERY_S:
            return
        self._looked = now
        try:
            if (state := _state(self._file)) != self._state:
                self._state = state
                self._keys = _read(self._file)
                log.info("%s has changed: %d keys", self._file, len(self._keys))
        except KeysError as error:
            log.error("the keys before the change stay: %s", error)


def _state(file: Path) -> tuple[int, ...] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size, found.st_mode


def _read(file: Path) -> list[Key]:
    try:
        mode, lines = file.stat().st_mode, file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise KeysError(f"key file {file} cannot be read ({error}), expected one made by `{NEW_KEY}`") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise KeysError(
            f"key file {file} can be written by others (mode {mode & 0o777:o}), expected 600; run `chmod 600 {file}`"
        )
    keys = [_key(file, number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#")]
    if not 0 < len(keys) <= KEYS_MOST:
        raise KeysError(f"key file {file} has {len(keys)} keys, expected 1 to {KEYS_MOST}; add one: `{NEW_KEY}`")
    if len({key.name for key in keys}) < len(keys):
        raise KeysError(f"key file {file} has two keys of one name, expected a name for each; remove the line of one")
    return keys


def _key(file: Path, number: int, line: str) -> Key:
    words = line.split()
    name, scopes, digest = words if len(words) == 3 else ("", "", "")
    chosen = scopes.split(",")
    if not (NAME.fullmatch(name) and {*chosen} <= {*SCOPES} and DIGEST.fullmatch(digest)):
        expected = f"`name scope[,scope] sha256` with scopes of {', '.join(SCOPES)}"
        raise KeysError(f"line {number} of key file {file} is no key, expected {expected}; make one: `{NEW_KEY}`")
    return Key(name, frozenset(chosen), bytes.fromhex(digest))


def new_key(name: str, scopes: Sequence[str]) -> tuple[str, str]:
    """Return a new key and its line for the file. Raises KeysError."""
    key = PREFIX + secrets.token_urlsafe(32)
    line = f"{name} {','.join(scopes)} {sha256(key.encode()).hexdigest()}"
    _key(Path("given"), 1, line)
    return key, line


def main(arguments: Sequence[str]) -> str | None:
    """Print a new key to stderr and its line to stdout; return the message of the process's end, None without an error."""
    if len(arguments) != 2:
        return f"expected a name and scopes of {', '.join(SCOPES)}: `{NEW_KEY}`"
    name, scopes = arguments
    try:
        key, line = new_key(name, scopes.split(","))
    except KeysError:
        expected = f"a name of letters, digits, '.', '_' and '-', and scopes of {', '.join(SCOPES)}"
        return f"{name!r} with the scopes {scopes!r} makes no key, expected {expected}"
    print(line)
    print(key, file=sys.stderr)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
