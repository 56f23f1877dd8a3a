"""Compiled functions, cached on disk for every process and checkout of this user."""

import hashlib
import os
import pickle
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from types import CodeType, ModuleType

import llvmlite
import numba
import numpy as np
from numba import njit
from numba.core import config
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.dispatcher import Dispatcher
from numba.core.serialize import dumps

VERSIONS = (sys.version, numba.__version__, llvmlite.__version__, np.__version__)
KEPT = 24  # cached machine codes per function, over all its sources and argument types; the last used are kept


def kernel(function: Callable | None = None, **options: object) -> Callable:
    """Compile to machine code that needs no GIL; `options` are numba's.

    numba's own cache keys a function by its file's path. It misses changes of inlined functions from other files and would run
    the old code. Here the key covers everything that the machine code depends on.
    """
    if function is None:
        return lambda function: kernel(function, **options)
    compiled = njit(nogil=True, **options)(function)
    if isinstance(compiled, Dispatcher):  # NUMBA_DISABLE_JIT leaves the function as it is
        compiled._cache = KernelCache(compiled)
    return compiled


class KernelCache(NullCache):
    """Cache of one function's machine code for numba's dispatcher: one file per source and argument types."""

    def __init__(self, compiled: Dispatcher) -> None:
        self._compiled = compiled
        self._name = f"{compiled.py_func.__module__}.{compiled.py_func.__qualname__}"

    @property
    def cache_path(self) -> str | None:
        return cache_folder()

    @cached_property
    def _source(self) -> str:
        return digest_of(self._compiled)

    def load_overload(self, sig, target_context):
        target_context.refresh()
        if path := self._path(sig, target_context.codegen()):
            with suppress(OSError, EOFError, pickle.UnpicklingError):  # missing or truncated
                payload = pickle.loads(path.read_bytes())
                os.utime(path)
                return CompileResult._rebuild(target_context, *payload)
        _announce_once()
        return None

    def save_overload(self, sig, data):
        path = self._path(sig, data.codegen)
        if path is None or data.lifted or data.library.has_dynamic_globals:
            return
        with suppress(OSError):  # a full disk costs the next process a compilation
            with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".new", delete=False) as aside:
                aside.write(dumps(data._reduce()))
            os.replace(aside.name, path)
            newest_first = sorted(path.parent.glob(f"{self._name}-*.nbc"), key=lambda path: -path.stat().st_mtime)
            for old in newest_first[KEPT:]:
                old.unlink()

    def _path(self, sig, codegen) -> Path | None:
        folder = cache_folder()
        inputs = (VERSIONS, codegen.magic_tuple(), config.BOUNDSCHECK, self._source, [_type_of(kind) for kind in sig])
        digest = hashlib.sha256(repr(inputs).encode()).hexdigest()[:32]
        return folder and Path(folder, f"{self._name}-{digest}.nbc")


def digest_of(compiled: Dispatcher) -> str:
    """Digest the code of a compiled function and of its dependencies: called functions and constants."""
    return hashlib.sha256("\n".join(_dependencies(compiled, set())).encode()).hexdigest()


def _dependencies(value: object, visited: set[int]) -> Iterator[str]:
    if isinstance(value, Dispatcher):
        if id(value) not in visited:
            visited.add(id(value))
            function = value.py_func
            yield repr(sorted(value.targetoptions.items()))
            yield repr(function.__defaults__)
            cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
            known = function.__globals__ | {name: cell.cell_contents for name, cell in cells}
            yield from _code(function.__code__, known, visited)
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype} {value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    elif isinstance(value, tuple | list):
        yield f"{len(value)}"
        for one in value:
            yield from _dependencies(one, visited)
    elif isinstance(value, str | int | float | complex | bytes | np.generic | np.dtype | None):
        yield repr(value)
    else:  # a type, a function of numpy
        name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        yield f"{name} {getattr(value, '_fields', '')}"


def _code(code: CodeType, known: dict, visited: set[int]) -> Iterator[str]:
    """Yield the instructions, the constants, and the values of all names that are in `known`."""
    names = (code.co_names, code.co_varnames, code.co_freevars)
    yield repr((code.co_code, code.co_exceptiontable, names))
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _code(constant, known, visited)
        else:
            yield repr(sorted(map(repr, constant)) if isinstance(constant, frozenset) else constant)
    modules = [known[name] for name in code.co_names if isinstance(known.get(name), ModuleType)]
    for name in (*code.co_names, *code.co_freevars):
        for scope in (known, *map(vars, modules)):
            if name in scope and not isinstance(scope[name], ModuleType):
                yield name
                yield from _dependencies(scope[name], visited)


def _type_of(kind) -> tuple:
    """Describe a numba type by name; a named tuple also by its fields, which are read by position."""
    parts = tuple(map(_type_of, getattr(kind, "types", ())))
    return str(kind), getattr(kind, "fields", ()) if parts else (), parts


@cache
def cache_folder() -> str | None:
    """Return the first writable cache folder; None if there is none, and every process compiles for itself."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser(), "watchnext", "kernels")
    for folder in [Path(config.CACHE_DIR, "watchnext")] if config.CACHE_DIR else [home, Path(__file__).parent / "__pycache__"]:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return str(folder)
    return None


@cache
def _announce_once() -> None:
    from tqdm import tqdm  # prints above progress bars

    uncached = "in every process, as no cache folder is writable: set NUMBA_CACHE_DIR to a writable folder"
    when = "once per machine and version" if cache_folder() else uncached
    tqdm.write(f"compiling kernels ({when}, about a minute in all)", file=sys.stderr)
