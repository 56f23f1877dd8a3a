"""The one door to Hydra behind `python -m watchnext.<stage> <command> key=value`."""

import difflib
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

__all__ = ["composed", "dispatch", "instantiate", "plain", "write_report"]

Command = Callable[[DictConfig], int | None]


def keys_of(config: DictConfig, prefix: str = "") -> list[str]:
    """Every key that can be overridden, dotted."""
    found = []
    for key in config:
        found.append(f"{prefix}{key}")
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            found += keys_of(node, f"{prefix}{key}.")
    return found


def composed(overrides: list[str], conf: Path = Path("conf")) -> DictConfig:
    """The configuration under `overrides`. Exits naming a misspelt key or choice together with the right ones."""
    if not conf.is_dir():
        sys.exit(f"there is no {conf}/ in {Path.cwd()}; run this at the root of the repository")
    with initialize_config_dir(config_dir=str(conf.resolve()), version_base=None):
        try:
            return compose("config", overrides)
        except (HydraException, OmegaConfBaseException) as error:
            known = keys_of(compose("config", [o for o in overrides if _is_group(o, conf)]))
            sys.exit(explained(error, overrides, known))


def _is_group(override: str, conf: Path) -> bool:
    group, _, choice = override.partition("=")
    return (conf / group / f"{choice}.yaml").exists()


def explained(error: Exception, overrides: list[str], known: list[str]) -> str:
    """Hydra's own words, and for an unknown key the nearest known ones."""
    message = str(error).strip()
    for override in overrides:
        key = override.partition("=")[0].lstrip("+~")
        if "=" in override and key not in known and f"'{key}'" in message.replace('"', "'"):
            siblings = [name for name in known if name.rpartition(".")[0] == key.rpartition(".")[0]]
            near = difflib.get_close_matches(key, known, 1) or difflib.get_close_matches(key.rpartition(".")[2], known, 1)
            hint = f"; did you mean {near[0]}?" if near else "."
            return f"unknown key {key!r}{hint} Known beside it: {', '.join(siblings) or ', '.join(known[:20])}"
    return message


def plain(config: DictConfig) -> dict:
    """A resolved copy without Hydra's types."""
    return OmegaConf.to_container(config, resolve=True)


def _is_override(word: str) -> bool:
    """key=value; `logs/date=2025-03-10` is a path."""
    key, equals, _ = word.partition("=")
    return bool(equals) and "/" not in key


def usage(program: str, commands: Mapping[str, Command], leading: Mapping[str, str]) -> str:
    words = {name: f"{name} {leading[name].upper()}" if name in leading else name for name in commands}
    listed = "\n".join(f"  {words[name]:<14}{(command.__doc__ or '').splitlines()[0]}" for name, command in commands.items())
    return (
        f"usage: python -m {program} COMMAND [key=value ...]\n\n{listed}\n\n"
        "key=value overrides conf/config.yaml, e.g. data=kuairand"
    )


def write_report(path: Path, report: Mapping) -> None:
    """A stage's figures as JSON, for DVC and for git: no clock in them, the same bytes for the same figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def dispatch(
    program: str,
    commands: Mapping[str, Command],
    errors: tuple[type[Exception], ...],
    *,
    leading: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Run `commands[argv[1]]` on the composed configuration and exit with what it returns; `errors` exit 1 with their message
    alone. leading: command > the key that a first word sets, so that `check PATH` is `check path=PATH`."""
    name, *overrides = sys.argv[1:] or ["--help"]
    if {name, *overrides} & {"-h", "--help"}:
        print(usage(program, commands, leading))
        return
    if name not in commands:
        sys.exit(f"unknown command {name!r}, expected one of {', '.join(commands)}; see `python -m {program} --help`")
    word = overrides.pop(0) if name in leading and overrides and not _is_override(overrides[0]) else None
    config = composed(overrides)
    if word is not None:
        config[leading[name]] = word
    try:
        sys.exit(commands[name](config))
    except errors as error:
        sys.exit(f"{type(error).__name__}: {error}")
