"""Which code something was made by."""

import hashlib
from pathlib import Path


def code_digest(package: Path) -> str:
    """16 hex digits over a package's own sources: what other code built, or compiled, is not carried on."""
    sources = sorted(Path(package).glob("*.py"))
    return hashlib.sha256(b"".join(path.name.encode() + path.read_bytes() for path in sources)).hexdigest()[:16]
