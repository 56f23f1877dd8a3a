"""Run the stages of dvc.yaml on other data: the same commands in the same order, without DVC's lock."""

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf


def stages(root: Path, parameters: Mapping) -> dict[str, str]:
    """Return stage name > command, in the order of dvc.yaml, with `parameters` in place of params.yaml's values."""
    # OmegaConf resolves dvc.yaml's ${...} too. Without DVC, `reads` is not watched.
    chosen = {"reads": "null", **parameters}
    merged = OmegaConf.merge(OmegaConf.load(root / "params.yaml"), chosen, OmegaConf.load(root / "dvc.yaml"))
    return {name: stage.cmd for name, stage in merged.stages.items()}


def run_stages(root: Path, parameters: Mapping, overrides: Sequence[str] = (), *, stream=sys.stdout) -> None:
    """Run every stage with `overrides` after its own, until one fails.

    Raises ValueError for an override of a key that a stage sets itself, and subprocess.CalledProcessError.
    """
    commands = {name: shlex.split(command) for name, command in stages(root, parameters).items()}
    for override in overrides:
        _require_free(override, commands)
    started = time.monotonic()
    for number, (name, command) in enumerate(commands.items(), 1):
        words = [*command, *overrides]
        print(
            f"[{number}/{len(commands)}] {name}: {shlex.join(words)}  ({time.monotonic() - started:.0f} s so far)",
            file=stream,
            flush=True,
        )
        # Use the running interpreter, whatever PATH says.
        subprocess.run([sys.executable if word == "python" else word for word in words], cwd=root, check=True)
    print(f"{len(commands)} stages in {time.monotonic() - started:.0f} s", file=stream)


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
