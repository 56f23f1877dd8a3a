"""Digest of the code that produced an output: the imported modules and a hash over their sources."""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


def code_of(*names: str) -> str:
    """Digest the sources of modules, or of the modules of classes, and of all their imports: 16 hex digits.

    Edits of other code do not change it, so a build or training from before such an edit can be resumed.
    """
    files = sorted(imported(*names).items())
    return hashlib.sha256(b"".join(name.encode() + path.read_bytes() for name, path in files)).hexdigest()[:16]


def imported(*names: str) -> dict[str, Path]:
    """Return module > file of the given modules or classes and of their transitive imports from this package.

    Imports inside functions count.
    """
    files: dict[str, Path] = {}
    remaining = list(names)
    while remaining:
        name, path = _module(remaining.pop())
        if path is not None and name not in files:
            files[name] = path
            remaining += [name.rpartition(".")[0], *_imports(path.read_bytes())]
    return files


def targets_of(config: object) -> Iterator[str]:
    """Yield every `_target_` of a composed configuration."""
    if isinstance(config, Mapping):
        yield from (value for key, value in config.items() if key == "_target_")
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from targets_of(value)


def _module(name: str) -> tuple[str, Path | None]:
    """Return the longest prefix of a dotted name that is a module of the package, and its file."""
    words = name.split(".")
    while words[0] == PACKAGE.name:
        folder = PACKAGE.joinpath(*words[1:])
        for path in (folder / "__init__.py", folder.with_suffix(".py")):
            if path.is_file():
                return ".".join(words), path
        words.pop()
    return name, None


@cache
def _imports(source: bytes) -> frozenset[str]:
    """Return the dotted names that a source imports; the package has no relative imports."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(names)
