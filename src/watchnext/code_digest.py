"""The code that something was made by: which modules run, and a digest over their sources."""

import ast
import hashlib
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parent


def code_of(*names: str) -> str:
    """16 hex digits over the sources of modules, or of the modules of classes, and of everything that they import.

    An edit of other code leaves it as it is, so what was built or begun before that edit can be carried on.
    """
    files = sorted(imported(*names).items())
    return hashlib.sha256(b"".join(name.encode() + path.read_bytes() for name, path in files)).hexdigest()[:16]


def imported(*names: str) -> dict[str, Path]:
    """Module > its file: those that are named, directly or as the home of a class, and what they import of this package, in
    the end. An import inside a function counts; what lies outside the package is left out."""
    found: dict[str, Path] = {}
    left = list(names)
    while left:
        name, path = _module(left.pop())
        if path is not None and name not in found:
            found[name] = path
            left += [name.rpartition(".")[0], *_imports(path.read_bytes())]
    return found


def targets_of(config: object) -> Iterator[str]:
    """Every class that a composed configuration names as `_target_`."""
    if isinstance(config, Mapping):
        yield from (value for key, value in config.items() if key == "_target_")
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from targets_of(value)


def _module(name: str) -> tuple[str, Path | None]:
    """The longest part of a dotted name that is a module of the package, with its file."""
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
    """Dotted names that a source imports; the package has no relative imports."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)
