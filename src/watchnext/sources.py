"""Which code something was made by."""

import hashlib
from pathlib import Path


def code_digest(package: Path) -> str:
    """16 hex digits over a package's sources: what other code built, or compiled, is not carried on."""
    sources = sorted((path.relative_to(package).as_posix(), path) for path in Path(package).rglob("*.py"))
    return hashlib.sha256(b"".join(name.encode() + path.read_bytes() for name, path in sources)).hexdigest()[:16]
