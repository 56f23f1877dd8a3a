"""The stages of dvc.yaml on other data: the same commands in the same order, outside DVC's lock."""

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from omegaconf import OmegaConf


def stages(root: Path, parameters: Mapping) -> dict[str, str]:
    """Stage name > command, in the order of dvc.yaml, with params.yaml's values replaced by `parameters`."""
    # dvc.yaml's ${...} are OmegaConf's too.
    merged = OmegaConf.merge(OmegaConf.load(root / "params.yaml"), dict(parameters), OmegaConf.load(root / "dvc.yaml"))
    return {name: stage.cmd for name, stage in merged.stages.items()}


def run(root: Path, parameters: Mapping, *, stream=sys.stdout) -> None:
    """Run every stage; the first that fails ends it. Raises subprocess.CalledProcessError."""
    commands = stages(root, parameters)
    started = time.monotonic()
    for number, (name, command) in enumerate(commands.items(), 1):
        print(
            f"[{number}/{len(commands)}] {name}: {command}  ({time.monotonic() - started:.0f} s so far)",
            file=stream,
            flush=True,
        )
        # The interpreter that runs this runs the stages, whatever PATH says.
        words = [sys.executable if word == "python" else word for word in shlex.split(command)]
        subprocess.run(words, cwd=root, check=True)
    print(f"{len(commands)} stages in {time.monotonic() - started:.0f} s", file=stream)
