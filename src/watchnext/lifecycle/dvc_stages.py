"""Run the stages of dvc.yaml: on other data the same commands in the same order, without DVC's lock."""

import importlib.util
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf

from watchnext.lifecycle.stage_process import Start, started


def stages(root: Path, parameters: Mapping) -> dict[str, str]:
    """Return stage name > command, in the order of dvc.yaml, with `parameters` in place of params.yaml's values."""
    # OmegaConf resolves dvc.yaml's ${...} too. Without DVC, `reads` is not watched.
    chosen = {"reads": "null", **parameters}
    merged = OmegaConf.merge(OmegaConf.load(root / "params.yaml"), chosen, OmegaConf.load(root / "dvc.yaml"))
    return {name: stage.cmd for name, stage in merged.stages.items()}


def run_stages(
    root: Path,
    parameters: Mapping,
    overrides: Sequence[str] = (),
    *,
    stream=sys.stdout,
    only: Collection[str] | None = None,
    ended: Callable[[str, float], None] = lambda name, seconds: None,
    start: Start = started,
    keeps: Sequence[int] = (),
) -> None:
    """Run every stage, or those that are named in `only`, with `overrides` after its own, until one fails.

    A pipeline that `dvc repro` runs with these parameters is run by DVC, stage by stage. `ended` gets each stage with its
    seconds of processor time, and each stage the open descriptors `keeps`. Raises ValueError for an override of a key that a
    stage sets itself, and subprocess.CalledProcessError.
    """
    commands = {name: shlex.split(command) for name, command in stages(root, parameters).items()}
    for override in overrides:
        _require_free(override, commands)
    commands = {name: words for name, words in commands.items() if only is None or name in only}
    if by_dvc := only is not None and not overrides and is_of_dvc(root, parameters):
        commands = {name: ["python", "-m", "dvc", "repro", name] for name in commands}
    # Stages of DVC name `python`: let it be the running interpreter, whatever PATH says.
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    started = time.monotonic()
    for number, (name, command) in enumerate(commands.items(), 1):
        words, began = [*command, *overrides], time.monotonic()
        print(
            f"[{number}/{len(commands)}] {name}: {shlex.join(words)}  ({began - started:.0f} s so far)",
            file=stream,
            flush=True,
        )
        run = [sys.executable if word == "python" else word for word in words]
        code, processor_s = start(run, root, environment if by_dvc else None, keeps)
        if code:
            raise subprocess.CalledProcessError(code, run)
        ended(name, processor_s)
    print(f"{len(commands)} stages in {time.monotonic() - started:.0f} s", file=stream)


def is_of_dvc(root: Path, parameters: Mapping) -> bool:
    """Return True where `dvc repro` runs the stages with `parameters`: params.yaml has them, and DVC is set up."""
    own = OmegaConf.load(root / "params.yaml")
    same = all(str(own.get(name)) == str(value) for name, value in parameters.items())
    return same and (root / ".dvc").is_dir() and importlib.util.find_spec("dvc") is not None


def _require_free(override: str, commands: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError where a stage's own command sets the key of `override`, or a parent of it."""
    key = override.partition("=")[0].lstrip("+~")
    for name, command in commands.items():
        for word in command:
            stage_key, equals, _ = word.partition("=")
            if equals and stage_key != "data" and f"{key}.".startswith(f"{stage_key}."):
                raise ValueError(
                    f"{override}: stage {name} sets {word} itself, so the pipeline cannot override it; "
                    f"run `{shlex.join([*command, override])}`, or edit the preset in conf/"
                )
