"""A disk that is watched and that fails (disk.c): a trace of the calls that change files, its replay, and calls that fail.

A trace is replayed into two kinds of states. One has the first n calls, as after `kill -9`. One is what a power cut after n
calls may leave: what was synced, any of the later writes, each in sectors of 512 bytes, and of every folder the first of the
later changes of names, which are safe once that folder was synced. Not simulated: a disk that lies about a sync, a sector that
is half written, names of one folder changed in another order, writes through a mapping (LMDB's lock file alone has them).
"""

import contextlib
import os
import random
import shutil
import struct
import subprocess
from collections.abc import Iterator
from ctypes import Structure, c_int32, c_int64
from dataclasses import dataclass, field
from itertools import pairwise
from mmap import mmap
from pathlib import Path

import pytest

SECTOR = 512
HEAD = struct.Struct("=IIIIQ")
WRITE, SYNC, TRUNCATE, CREATE, MKDIR, SYMLINK, RENAME, UNLINK, RMDIR = range(1, 10)
MADE = (CREATE, MKDIR, SYMLINK)


def built(folder: Path) -> Path:
    """Compile disk.c."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed; run `apt-get install gcc`")
    library = folder / "disk.so"
    source = Path(__file__).with_name("disk.c")
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl", "-lpthread"], check=True)
    return library


class Control(Structure):
    """calls made; calls until one fails (0: none); its errno (0: half of it is written); later ones fail too."""

    _fields_ = (("calls", c_int64), ("left", c_int64), ("error", c_int32), ("stays", c_int32))


def control(path: Path) -> Control:
    """Map the control page of processes that have it in DISK_CONTROL."""
    if not path.exists():
        path.write_bytes(bytes(4096))
    with path.open("r+b") as file:
        return Control.from_buffer(mmap(file.fileno(), 4096))


def variables(library: Path, root: Path, *, trace: Path | None = None, page: Path | None = None) -> dict[str, str]:
    """Return the environment of a process whose files below `root` are watched."""
    given = {"LD_PRELOAD": str(library), "DISK_ROOT": str(root)}
    return given | {name: str(path) for name, path in (("DISK_TRACE", trace), ("DISK_CONTROL", page)) if path}


@dataclass(frozen=True, slots=True)
class Call:
    """path and, of a new name, `more` (the target of a link, the new name) are below the root; `more` else the bytes."""

    kind: int
    is_durable: bool
    path: str
    offset: int
    more: bytes


def trace_of(trace: Path, root: Path) -> list[Call]:
    """Read the calls that changed files below `root`."""
    packed, at, calls, below = trace.read_bytes(), 0, [], f"{root}/"
    while at < len(packed):
        kind, flags, of_path, of_more, offset = HEAD.unpack_from(packed, at)
        middle, at = at + HEAD.size + of_path, at + HEAD.size + of_path + of_more
        path, more = packed[middle - of_path : middle].decode(), packed[middle:at]
        if f"{path}/".startswith(below) and (kind, path) != (MKDIR, str(root)):
            more = os.path.relpath(more.decode(), root).encode() if kind == RENAME else more
            calls.append(Call(kind, bool(flags), os.path.relpath(path, root), offset, more))
    return calls


@dataclass(slots=True)
class Content:
    """Bytes of one file: what is safe, and what was written since as offsets and bytes; a cut is an offset alone."""

    safe: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def left(self, draw: random.Random | None) -> bytearray:
        content = bytearray(self.safe)
        for offset, written in self.pending:
            for part in [(offset, written)] if draw is None else _drawn(offset, written, draw):
                put(content, *part)
        return content


def put(content: bytearray, offset: int, written: bytes | None) -> None:
    """Write at an offset, or cut there."""
    if written is None:
        del content[offset:]
    content.extend(bytes(max(offset - len(content), 0)))
    if written is not None:
        content[offset : offset + len(written)] = written


def _drawn(offset: int, written: bytes | None, draw: random.Random) -> Iterator[tuple[int, bytes | None]]:
    share = draw.choice((0.0, 0.5, 0.9, 1.0))
    if written is None:
        yield from [(offset, None)] if draw.random() < share else ()
        return
    edges = [0, *range(-offset % SECTOR or SECTOR, len(written), SECTOR), len(written)]
    for first, end in pairwise(edges):
        if draw.random() < share:
            yield offset + first, written[first:end]


class Disk:
    """Take the calls of a trace one by one; `leave` makes a folder with what is left if the process, or the power, ends now."""

    def __init__(self) -> None:
        self._contents: dict[str, Content] = {}  # by the present name
        self._names: list[tuple[Call, Content | None]] = []
        self._safe: dict[str, int] = {}  # folder > number of the changes of names, of all, before which its own are safe

    def take(self, call: Call) -> None:
        content = self._contents.get(call.path)
        if call.kind in (WRITE, TRUNCATE):
            written = (call.offset, call.more if call.kind == WRITE else None)
            put(content.safe, *written) if call.is_durable else content.pending.append(written)
        elif call.kind == SYNC and content is not None:
            content.safe, content.pending = content.left(None), []
        elif call.kind == SYNC:
            self._safe[call.path] = len(self._names)
        else:
            self._rename(call)

    def _rename(self, call: Call) -> None:
        if call.kind == CREATE:
            self._contents[call.path] = Content()
        self._names.append((call, self._contents.get(call.path)))
        if call.kind == UNLINK:
            self._contents.pop(call.path, None)
        elif call.kind == RENAME:
            self._contents.pop(to := call.more.decode(), None)
            for path in [each for each in self._contents if f"{each}/".startswith(f"{call.path}/")]:
                self._contents[to + path.removeprefix(call.path)] = self._contents.pop(path)

    def text(self, path: str) -> str:
        """Return what was written to a file, safe or not."""
        return self._contents[path].left(None).decode() if path in self._contents else ""

    def leave(self, folder: Path, draw: random.Random | None = None) -> None:
        """Make the folder; with `draw`, one of the states after a power cut."""
        folder.mkdir()
        contents = {}
        for call, content in self._kept(draw):
            path = folder / call.path
            if call.kind == CREATE:
                path.touch()
                contents[path.stat().st_ino] = content
            elif call.kind == MKDIR:
                path.mkdir()
            elif call.kind == SYMLINK:
                path.symlink_to(call.more.decode())
            elif call.kind == RENAME:
                os.replace(path, folder / call.more.decode())
            elif call.kind == UNLINK:
                path.unlink()
            else:
                with contextlib.suppress(OSError):  # what was in it is still there
                    path.rmdir()
        for path in list(folder.rglob("*")):
            if path.is_file() and not path.is_symlink():
                path.write_bytes(contents[path.stat().st_ino].left(draw))

    def _kept(self, draw: random.Random | None) -> Iterator[tuple[Call, Content | None]]:
        """Yield the changes of names that are left, without those of what is not there."""
        every, ends, there = len(self._names), {}, {"."}
        for at, (call, content) in enumerate(self._names):
            for parent in _parents(call) - ends.keys():
                ends[parent] = every if draw is None else draw.randint(self._safe.get(parent, 0), every)
            needed = _parents(call) | ({call.path} if call.kind in (RENAME, UNLINK, RMDIR) else set())
            if needed <= there and all(at < ends[parent] for parent in _parents(call)):
                there -= {call.path}
                there |= {call.more.decode()} if call.kind == RENAME else {call.path} if call.kind in MADE else set()
                yield call, content


def _parents(call: Call) -> set[str]:
    ends = [call.path, *([call.more.decode()] if call.kind == RENAME else [])]
    return {os.path.dirname(path) or "." for path in ends}
