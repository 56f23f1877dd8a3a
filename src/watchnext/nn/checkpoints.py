"""Checkpoints of interrupted trainings: one folder per training, written after each epoch, removed when training ends."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from watchnext.code_digest import code_of, targets_of
from watchnext.files import sha256_of, synced

KEPT = 3  # interrupted trainings to keep; a checkpoint is about four times the size of its network
LISTED = 3  # changed settings listed in a message
PLACEMENT = ("accelerator", "devices", "num_nodes", "strategy")  # of the trainer


class Checkpoints:
    """Folder of one interrupted training: the tracking id `run`, and the last checkpoint of each network."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)

    @property
    def run(self) -> str | None:
        return (self.folder / "run").read_text() if (self.folder / "run").exists() else None

    @run.setter
    def run(self, id: str) -> None:
        (self.folder / "run").write_text(id)

    def write(self, name: str, epoch: int, save: Callable[[Path], None]) -> None:
        """Replace the previous epoch's checkpoint. The file name holds a digest, so that damage is detected before loading."""
        aside = self.folder / f".{name}.aside"
        save(aside)
        synced(aside)
        before = self._epochs(name)
        aside.replace(self.folder / f"{name}.{epoch}.{sha256_of(aside)[:16]}.ckpt")
        synced(self.folder)
        for _, path in before:
            path.unlink()

    def latest(self, name: str) -> Path | None:
        """Path of the newest intact checkpoint of `name`, or None. Damaged ones are removed. Prints the choice."""
        for epoch, path in reversed(self._epochs(name)):
            if sha256_of(path)[:16] == path.name.split(".")[-2]:
                print(f"resumed after epoch {epoch} from {path}", flush=True)
                return path
            print(f"{path} is damaged (digest mismatch) and was removed", flush=True)
            path.unlink()
        return None

    def _epochs(self, name: str) -> list[tuple[int, Path]]:
        return sorted((int(path.name.split(".")[-3]), path) for path in self.folder.glob(f"{name}.*.ckpt"))


class FollowedCheckpoints(Checkpoints):
    """The checkpoints that the first of several processes writes."""

    def write(self, name: str, epoch: int, save: Callable[[Path], None]) -> None:
        """Take part in the first process's writing; Lightning writes nothing here."""
        save(self.folder / f".{name}.aside")

    def latest(self, name: str) -> Path | None:
        return self._epochs(name)[-1][1] if self._epochs(name) else None


def settings_of(config: Mapping, features: Mapping) -> dict:
    """Return what decides trained weights: settings of a plain configuration, the report of the features, and the code.

    A training goes on with another number of processes, so that PLACEMENT is left out.
    """
    settings = {key: config[key] for key in ("model", "trainer", "seed")}
    settings["trainer"] = {key: value for key, value in config["trainer"].items() if key not in PLACEMENT}
    return settings | {"features": features, "code": code_of(*targets_of(config["model"]["module"]))}


@contextmanager
def described_folder(root: Path, name: str, settings: Mapping, *, most: int) -> Iterator[Path]:
    """Open the work folder for `name` under these JSON-ready `settings` on this machine.

    The same name and settings give the same folder again, until `most` newer folders exist. Raises ValueError if another
    process holds it.
    """
    settings, text = _described(settings)
    folder = _folder(root, name, text)
    if not folder.exists() and (other := _others(folder, f"{name}-")):
        was = json.loads((other[-1] / "what.json").read_text())
        print(f"not resumed from {other[-1]}: {_listed(list(differing(was, settings)))} changed", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    with _held(folder):
        (folder / "what.json").write_text(text)
        _bounded(folder, most)
        yield folder


def _described(settings: Mapping) -> tuple[dict, str]:
    settings = {**settings, **surroundings()}
    return settings, json.dumps(settings, indent=1, sort_keys=True)


def _folder(root: Path, name: str, text: str) -> Path:
    return Path(root) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def followed(root: Path, name: str, settings: Mapping) -> FollowedCheckpoints:
    """Return the checkpoints that the first process has opened as `unfinished` with the same arguments."""
    return FollowedCheckpoints(_folder(root, name, _described(settings)[1]))


@contextmanager
def unfinished(root: Path, name: str, settings: Mapping) -> Iterator[Checkpoints]:
    """Open the checkpoints of a training, see `described_folder`. Success removes them; an error keeps them for a resume."""
    with described_folder(root, name, settings, most=KEPT) as folder:
        yield Checkpoints(folder)
        shutil.rmtree(folder)


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Lock the folder for this process; the lock is released even if the process is killed."""
    lock = FileLock(folder / "lock", timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"another process is training this model in {folder}; wait for it or stop it") from None
    try:
        yield
    finally:
        lock.release()


def surroundings() -> dict:
    """Return the parts of the environment that change the last bits of trained weights."""
    machine = {"torch": torch.__version__, "processor": torch.backends.cpu.get_cpu_capability()}
    return {**machine, "threads": torch.get_num_threads()}


def differing(first: Mapping, second: Mapping, prefix: str = "") -> Iterator[str]:
    """Yield the dotted keys whose values differ between two nested mappings."""
    for key in sorted({*first, *second}):
        one, two = first.get(key), second.get(key)
        if isinstance(one, Mapping) and isinstance(two, Mapping):
            yield from differing(one, two, f"{prefix}{key}.")
        elif one != two:
            yield f"{prefix}{key}"


def _listed(keys: list[str]) -> str:
    return ", ".join(keys[:LISTED]) + (f" and {len(keys) - LISTED} more" if len(keys) > LISTED else "")


def _others(folder: Path, prefix: str = "") -> list[Path]:
    """List sibling folders of `folder`, most recently written last."""
    folders = [path.parent for path in folder.parent.glob(f"{prefix}*/what.json") if path.parent != folder]
    return sorted(folders, key=lambda path: path.stat().st_mtime_ns)


def _bounded(folder: Path, most: int) -> None:
    """Remove the oldest sibling folders beyond `most`, except those in use."""
    for other in _others(folder)[: -(most - 1)]:
        try:
            with FileLock(other / "lock", timeout=0):
                shutil.rmtree(other)
        except Timeout:
            continue
