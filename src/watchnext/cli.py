"""The one door to Hydra behind `python -m watchnext.<stage> <command> key=value`; `--key value` is the same."""

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

__all__ = ["composed", "dispatch", "exits_on", "instantiate", "optioned", "plain", "write_report"]

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


def _spelt_out(overrides: list[str], short: Mapping[str, str]) -> list[str]:
    pairs = [override.partition("=") for override in overrides]
    return [f"{short.get(key, key)}{equals}{value}" for key, equals, value in pairs]


def _named(words: list[str], commands: Mapping[str, Command]) -> tuple[str, list[str]]:
    """The command, of one word or two, and the words behind it."""
    two = " ".join(words[:2])
    return (two, words[2:]) if two in commands else (words[0], words[1:])


def optioned(words: list[str]) -> list[str]:
    """`--key value` and `--key=value` as the override `key=value`. Exits where the value is missing."""
    found, left = [], list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            found.append(word)
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals and (not left or left[0].startswith("--")):
            sys.exit(f"{word} lacks its value: {word} VALUE, or {key}=VALUE")
        found.append(f"{key}={_quoted(value if equals else left.pop(0))}")
    return found


def _quoted(value: str) -> str:
    """A value that Hydra's grammar would take apart, such as a path with `=` or a space, as the string it is."""
    if not re.search(r"[^a-zA-Z0-9_./:+-]", value):
        return value
    escaped = re.sub(r"(\\*)'", r"\1\1\\'", value)
    return "'" + re.sub(r"(\\+)$", r"\1\1", escaped) + "'"


def usage(program: str, commands: Mapping[str, Command], leading: Mapping[str, str]) -> str:
    words = {name: f"{name} {leading[name].upper()}" if name in leading else name for name in commands}
    width = max(14, *(len(word) + 2 for word in words.values()))
    listed = "\n".join(
        f"  {words[name]:<{width}}{(command.__doc__ or '').splitlines()[0]}" for name, command in commands.items()
    )
    return (
        f"usage: python -m {program} COMMAND [key=value ...]\n\n{listed}\n\n"
        "key=value overrides conf/config.yaml, e.g. data=kuairand; --key value is the same"
    )


def write_report(path: Path, report: Mapping) -> None:
    """A stage's figures as JSON, for DVC and for git: no clock in them, the same bytes for the same figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


@contextmanager
def exits_on(*errors: type[Exception]) -> Iterator[None]:
    """Exit 1 with the message alone where one of `errors` is raised."""
    try:
        yield
    except errors as error:
        sys.exit(f"{type(error).__name__}: {error}")


def dispatch(
    program: str,
    commands: Mapping[str, Command],
    errors: tuple[type[Exception], ...],
    *,
    leading: Mapping[str, str] = MappingProxyType({}),
    presets: Mapping[str, str] = MappingProxyType({}),
    short: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> None:
    """Run the command that argv names, of one word or two, on the composed configuration and exit with what it returns;
    `errors` exit 1 with their message alone.

    leading  command > the key that a first word sets, so that `check PATH` is `check path=PATH`; `paths...` takes every word
    presets  command > an override that comes before those given
    short    command > short key > the key it stands for
    """
    given = sys.argv[1:] or ["--help"]
    if {"-h", "--help"} & set(given):
        print(usage(program, commands, leading))
        return
    name, overrides = _named(given, commands)
    if name not in commands:
        sys.exit(f"unknown command {name!r}, expected one of {', '.join(commands)}; see `python -m {program} --help`")
    key, words = leading.get(name, ""), []
    while key and overrides and not _is_override(overrides[0]) and (not words or key.endswith("...")):
        words.append(overrides.pop(0))
    overrides = optioned(overrides)
    config = composed([*([presets[name]] if name in presets else []), *_spelt_out(overrides, short.get(name, {}))])
    if words:
        config[key.removesuffix("...")] = words if key.endswith("...") else words[0]
    with exits_on(*errors):
        sys.exit(commands[name](config))
