"""The stages of dvc.yaml on other data: the same commands in the same order, outside DVC's lock."""

import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from omegaconf import OmegaConf


def stages(root: Path, parameters: Mapping) -> dict[str, str]:
    """Stage name > command, in the order of dvc.yaml, with params.yaml's values replaced by `parameters`."""
    # dvc.yaml's ${...} are OmegaConf's too. DVC watches nothing here.
    chosen = {"reads": "null", **parameters}
    merged = OmegaConf.merge(OmegaConf.load(root / "params.yaml"), chosen, OmegaConf.load(root / "dvc.yaml"))
    return {name: stage.cmd for name, stage in merged.stages.items()}


def run(root: Path, parameters: Mapping, overrides: Sequence[str] = (), *, stream=sys.stdout) -> None:
    """Run every stage with `overrides` behind its own; the first that fails ends it.

    Raises ValueError for an override of what a stage sets itself, subprocess.CalledProcessError.
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
        # The interpreter that runs this runs the stages, whatever PATH says.
        subprocess.run([sys.executable if word == "python" else word for word in words], cwd=root, check=True)
    print(f"{len(commands)} stages in {time.monotonic() - started:.0f} s", file=stream)


def _require_free(override: str, commands: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError where a stage's own command sets what `override` does, or what it is a part of."""
    key = override.partition("=")[0].lstrip("+~")
    for name, command in commands.items():
        for word in command:
            own, equals, _ = word.partition("=")
            if equals and own != "data" and f"{key}.".startswith(f"{own}."):
                raise ValueError(
                    f"{override}: stage {name} sets {word} itself, so the pipeline cannot pass it on; "
                    f"run `{shlex.join([*command, override])}`, or edit the preset in conf/"
                )
