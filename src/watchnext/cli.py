"""Command line of all stages: `python -m watchnext.<stage> <command> key=value`, or `--key value`.

This is the only module that imports Hydra.
"""

import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

__all__ = ["composed", "dispatch", "exits_on", "instantiate", "overrides_from", "plain", "write_report"]

WORD_AND_BRACKETS = re.compile(r"\w+\[[^]]*\]")  # local[2]; Hydra's grammar would read a list after the word, and fail
Command = Callable[[DictConfig], int | None]
# Modules of loaders by where they stood: teams have presets of their own that name them.
LOADERS = ("canonical", "kuairand", "movielens", "sequences", "vk_lsvd")
MOVED = {f"watchnext.data.{name}": f"watchnext.data.loaders.{name}" for name in LOADERS}
MOVED["watchnext.data.world"] = "watchnext.simulator.world"


def keys_of(config: DictConfig, prefix: str = "") -> list[str]:
    """Return every key that can be overridden, dotted."""
    keys = []
    for key in config:
        keys.append(f"{prefix}{key}")
        node = config._get_node(key)
        if isinstance(node, DictConfig) and not node._is_none() and not node._is_missing():
            keys += keys_of(node, f"{prefix}{key}.")
    return keys


def composed(overrides: list[str], conf: Path = Path("conf")) -> DictConfig:
    """Compose the configuration with `overrides`. Exits for a misspelt key or choice, naming the valid ones."""
    if not conf.is_dir():
        sys.exit(f"{conf}/ is missing in {Path.cwd()}; run this command at the root of the repository")
    with initialize_config_dir(config_dir=str(conf.resolve()), version_base=None):
        try:
            return _with_moved_loader(compose("config", overrides))
        except (HydraException, OmegaConfBaseException) as error:
            known = keys_of(compose("config", [o for o in overrides if _is_group(o, conf)]))
            sys.exit(explained(error, overrides, known))


def _with_moved_loader(config: DictConfig) -> DictConfig:
    """Let a preset that was written before the loaders had a folder name its loader by the old place; say the new one."""
    target = OmegaConf.select(config, "data.loader._target_") or ""
    if moved := MOVED.get(target.rpartition(".")[0]):
        config.data.loader._target_ = f"{moved}.{target.rpartition('.')[2]}"
        print(f"note: data.loader._target_ {target} is {config.data.loader._target_} now; write that", file=sys.stderr)
    return config


def _is_group(override: str, conf: Path) -> bool:
    group, _, choice = override.partition("=")
    return (conf / group / f"{choice}.yaml").exists()


def explained(error: Exception, overrides: list[str], known: list[str]) -> str:
    """Return Hydra's message, and for an unknown key the nearest known ones."""
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
    """Convert to plain dicts and lists, with interpolations resolved."""
    return OmegaConf.to_container(config, resolve=True)


def _is_override(word: str) -> bool:
    """Return True for key=value; `logs/date=2025-03-10` is a path."""
    key, equals, _ = word.partition("=")
    return bool(equals) and "/" not in key


def _expand_short_keys(overrides: list[str], short: Mapping[str, str]) -> list[str]:
    pairs = [override.partition("=") for override in overrides]
    return [f"{short.get(key, key)}{equals}{value}" for key, equals, value in pairs]


def _split_command(words: list[str], commands: Mapping[str, Command]) -> tuple[str, list[str]]:
    """Split words into the command, one word or two, and its arguments."""
    two = " ".join(words[:2])
    return (two, words[2:]) if two in commands else (words[0], words[1:])


def overrides_from(words: list[str]) -> list[str]:
    """Convert `--key value` and `--key=value` to the override `key=value`. Exits if a value is missing."""
    overrides, remaining = [], list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--"):
            name, _, value = word.partition("=")
            overrides.append(f"{name}={_quoted(value)}" if WORD_AND_BRACKETS.fullmatch(value) else word)
            continue
        key, equals, value = word.removeprefix("--").partition("=")
        if not equals and (not remaining or remaining[0].startswith("--")):
            sys.exit(f"{word} has no value; expected {word} VALUE, or {key}=VALUE")
        overrides.append(f"{key}={_quoted(value if equals else remaining.pop(0))}")
    return overrides


def _quoted(value: str) -> str:
    """Quote a value that Hydra's grammar would split, such as a path with `=` or a space."""
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


def write_report(path: Path, report: Mapping | Sequence[Mapping]) -> None:
    """Write a stage's figures as JSON for DVC and git: without times, equal bytes for equal figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


@contextmanager
def exits_on(*errors: type[Exception]) -> Iterator[None]:
    """Exit 1 with the message alone if one of `errors` is raised."""
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
    """Run the command in argv, one word or two, on the composed configuration and exit with its result.

    errors   exceptions that exit 1 with their message alone
    leading  command > key of the first word, so that `check PATH` is `check path=PATH`; `paths...` takes every word
    presets  command > override that precedes those given
    short    command > short key > full key
    """
    given = sys.argv[1:] or ["--help"]
    if {"-h", "--help"} & set(given):
        print(usage(program, commands, leading))
        return
    name, overrides = _split_command(given, commands)
    if name not in commands:
        sys.exit(f"unknown command {name!r}, expected one of {', '.join(commands)}; see `python -m {program} --help`")
    key, words = leading.get(name, ""), []
    while key and overrides and not _is_override(overrides[0]) and (not words or key.endswith("...")):
        words.append(overrides.pop(0))
    overrides = overrides_from(overrides)
    config = composed([*([presets[name]] if name in presets else []), *_expand_short_keys(overrides, short.get(name, {}))])
    if words:
        config[key.removesuffix("...")] = words if key.endswith("...") else words[0]
    with exits_on(*errors):
        sys.exit(commands[name](config))
