"""Compiled functions, kept on disk between runs until any source beside them changes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

from numba import config, njit

from watchnext.sources import code_digest


def kernel(function: Callable | None = None, **options: object) -> Callable:
    """Compile to machine code that needs no GIL; `options` are numba's.

    numba keeps a compiled function until its own file changes, and does not notice that a function which it calls, and has
    taken in, changed in another file: it would go on running the old one. Here the folder of what is kept is named by all
    sources of the package, so that an edit of any of them compiles anew.
    """
    if function is None:
        return lambda found: kernel(found, **options)
    before = config.CACHE_DIR
    config.CACHE_DIR = before or _folder(Path(function.__code__.co_filename).parent)
    try:
        return njit(cache=True, nogil=True, **options)(function)
    finally:
        config.CACHE_DIR = before


@cache
def _folder(package: Path) -> str:
    return str(package / "__pycache__" / f"kernels-{code_digest(package)}")
