"""Trainings that were cut short: where each stood after its last epoch, in a folder that a finished training removes."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from watchnext.files import sha256_of, synced

KEPT = 3  # unfinished trainings; a checkpoint is about four times the size of its network
NAMED = 3  # differences that a message names


class Checkpoints:
    """The folder of one unfinished training: `run`, the id that it is tracked under, and a file a network, the last epoch's."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @property
    def run(self) -> str | None:
        return (self.folder / "run").read_text() if (self.folder / "run").exists() else None

    @run.setter
    def run(self, id: str) -> None:
        (self.folder / "run").write_text(id)

    def write(self, name: str, epoch: int, save: Callable[[Path], None]) -> None:
        """What `save` writes takes the place of the epoch before. The file's name holds its digest: a flipped byte in it would
        be loaded without a word."""
        aside = self.folder / f".{name}.aside"
        save(aside)
        synced(aside)
        before = self._epochs(name)
        aside.replace(self.folder / f"{name}.{epoch}.{sha256_of(aside)[:16]}.ckpt")
        synced(self.folder)
        for _, path in before:
            path.unlink()

    def latest(self, name: str) -> Path | None:
        """The last epoch that was written of `name`, None before the first; one that was damaged is removed. Says which."""
        for epoch, path in reversed(self._epochs(name)):
            if sha256_of(path)[:16] == path.name.split(".")[-2]:
                print(f"resumed after epoch {epoch} from {path}", flush=True)
                return path
            print(f"{path} is not what was written, so it is left out", flush=True)
            path.unlink()
        return None

    def _epochs(self, name: str) -> list[tuple[int, Path]]:
        return sorted((int(path.name.split(".")[-3]), path) for path in self.folder.glob(f"{name}.*.ckpt"))


@contextmanager
def described_folder(root: Path, name: str, what: Mapping, *, most: int) -> Iterator[Path]:
    """The folder of the work on `name` that `what` describes, JSON-ready, on this machine: the next work on the
    very same finds it again, until `most` newer ones were begun.

    Raises ValueError where another process works in it.
    """
    what = {**what, **surroundings()}
    told = json.dumps(what, indent=1, sort_keys=True)
    folder = Path(root) / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"
    if not folder.exists() and (other := _others(folder, f"{name}-")):
        was = json.loads((other[-1] / "what.json").read_text())
        print(f"not resumed from {other[-1]}, which has another {_named(list(differing(was, what)))}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        (folder / "what.json").write_text(told)
        _bounded(folder, most)
        yield folder


@contextmanager
def unfinished(root: Path, name: str, what: Mapping) -> Iterator[Checkpoints]:
    """The checkpoints of the training of `name` that `what` describes, as in `described_folder`. They are removed where the
    block ends well, and otherwise kept for the next one of the very same."""
    with described_folder(root, name, what, most=KEPT) as folder:
        yield Checkpoints(folder)
        shutil.rmtree(folder)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """One process at a time; the lock ends with it, however it ends."""
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process trains this very model, see {folder}; wait for it or stop it") from None
    try:
        yield
    finally:
        lock.release()


def surroundings() -> dict:
    """What besides configuration, data and code decides the last bits of what is trained."""
    machine = {"torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability()}
    return {**machine, "threads": torch.get_num_threads()}


def differing(first: Mapping, second: Mapping, prefix: str = "") -> Iterator[str]:
    """Dotted keys of what is not the same in nested mappings."""
    for key in sorted({*first, *second}):
        one, two = first.get(key), second.get(key)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            yield from differing(one, two, f"{prefix}{key}.")
        elif one != two:
            yield f"{prefix}{key}"


def _named(keys: list[str]) -> str:
    return ", ".join(keys[:NAMED]) + (f" and {len(keys) - NAMED} more" if len(keys) > NAMED else "")


def _others(folder: Path, prefix: str = "") -> list[Path]:
    """The folders beside `folder`, the one that was written last at the end."""
    found = [path.parent for path in folder.parent.glob(f"{prefix}*/what.json") if path.parent != folder]
    return sorted(found, key=lambda path: path.stat().st_mtime_ns)


def _bounded(folder: Path, most: int) -> None:
    """Remove the oldest folders above `most`, those in use aside."""
    for other in _others(folder)[: -(most - 1)]:
        try:
            with FileLock(other / "lock", timeout=0):
                shutil.rmtree(other)
        except Timeout:
            continue
