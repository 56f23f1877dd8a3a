"""DVC knows what its stages run: the modules that a command imports, and the files that its configuration is composed of."""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from watchnext.cli import composed
from watchnext.code_digest import PACKAGE, imported, targets_of

ROOT = Path(__file__).resolve().parents[2]
# What is told in config.yaml itself, and which a stage is given by its command or has no use for.
TOLD = {"out", "metrics", "evaluated"}
# Folders of which a data set may have a file, and the key that it changes.
# Stages that rebuild trained networks, from the classes that these presets name.
REBUILDS = {"selection": ("two_tower", "ranker"), "release": ("ranker",), "evaluation": ("ranker",), "drift": ("ranker",)}
LEAST = 0.2  # of a folder's modules that a stage runs, where it depends on the folder


def resolved(root: Path = ROOT) -> dict[str, dict]:
    """The stages of dvc.yaml with params.yaml's values put in."""
    params, stages = (OmegaConf.load(root / name) for name in ("params.yaml", "dvc.yaml"))
    return OmegaConf.to_container(OmegaConf.merge(params, stages), resolve=True)["stages"]


STAGES = resolved()


@dataclass(frozen=True)
class Program:
    """Find what a stage's command reaches in the file that it starts: the command's function and those that it calls there."""

    path: Path
    nodes: list[ast.AST]
    overrides: list[str]

    @classmethod
    def of(cls, command: str) -> "Program":
        python, *words = command.split()
        assert python == "python"
        overrides = [word for word in words if "=" in word]
        if words[0] != "-m":
            return cls(ROOT / words[0], [ast.parse((ROOT / words[0]).read_text())], overrides)
        path = PACKAGE / Path(*words[1].split(".")[1:]) / "__main__.py"
        return cls(path, _reached(ast.parse(path.read_text()), words[2]), overrides)

    @property
    def imports(self) -> set[str]:
        found = set()
        for node in self._walk():
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
        return found

    @property
    def reads(self) -> set[str]:
        """Keys that are read of the configuration, as `data.split`."""
        chains = (ast.unparse(node) for node in self._walk() if isinstance(node, ast.Attribute))
        dotted = {chain.removeprefix("config.") for chain in chains if re.fullmatch(r"config(\.\w+)+", chain)}
        return {chain for chain in dotted if not any(other.startswith(f"{chain}.") for other in dotted)}

    @property
    def parts(self) -> set[str]:
        """Texts right of a `/`: folders, among others."""
        divided = (node.right for node in self._walk() if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div))
        return {node.value for node in divided if isinstance(node, ast.Constant)}

    @property
    def reads_schema(self) -> bool:
        return any(isinstance(node, ast.Constant) and "conf/features/" in str(node.value) for node in self._walk())

    def _walk(self):
        return (found for node in self.nodes for found in ast.walk(node))


def _reached(tree: ast.Module, command: str) -> list[ast.AST]:
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    (start,) = {
        value.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == command and isinstance(value, ast.Name)
    }
    reached, left = {}, [start]
    while left:
        name = left.pop()
        if name in functions and name not in reached:
            reached[name] = functions[name]
            left += [node.id for node in ast.walk(functions[name]) if isinstance(node, ast.Name)]
    return [node for node in tree.body if not isinstance(node, ast.FunctionDef)] + list(reached.values())


@cache
def groups_of(overrides: tuple[str, ...]) -> dict[str, set[str]]:
    """Top-level key > the files below conf/ that it is composed of, by the same composition as the command's."""
    with initialize_config_dir(config_dir=str(ROOT / "conf"), version_base=None):
        loader = GlobalHydra.instance().config_loader()
        defaults = loader.compute_defaults_list("config", list(overrides), RunMode.RUN).defaults
    found: dict[str, set[str]] = {}
    for default in defaults:
        if (path := f"conf/{default.config_path}.yaml") != "conf/config.yaml" and (ROOT / path).exists():
            found.setdefault((default.package or "").split(".")[0], set()).add(path)
    return found


def referred(key: str, config: DictConfig) -> set[str]:
    """The key and those that its values refer to."""
    found, left = set(), [key]
    while left:
        if (key := left.pop()) in config and key not in found:
            found.add(key)
            raw = OmegaConf.to_yaml(config._get_node(key)) if OmegaConf.is_config(config._get_node(key)) else ""
            left += re.findall(r"\$\{([a-z_]+)", raw)
    return found


def test_the_optional_file_is_that_of_tuning():
    entries = [
        key
        for entry in yaml.safe_load((ROOT / "conf/config.yaml").read_text())["defaults"]
        if entry != "_self_"
        for key in entry
    ]
    assert {key for key in entries if key.startswith("optional ")} == {"optional tune"}


def plain_of(config: DictConfig, path: str) -> object:
    found = OmegaConf.select(config, path)
    return OmegaConf.to_container(found, resolve=False) if OmegaConf.is_config(found) else found


@dataclass(frozen=True)
class Needed:
    modules: set[Path]
    files: set[str]
    keys: set[str]  # of config.yaml itself


@cache
def needed(name: str) -> Needed:
    program = Program.of(STAGES[name]["cmd"])
    config = composed(program.overrides, ROOT / "conf")
    groups = groups_of(tuple(program.overrides))
    keys = {found for read in program.reads for found in referred(read.split(".")[0], config)} - TOLD
    files = {path for key in keys for path in groups.get(key, ())}
    if program.reads_schema:
        files.add(f"conf/features/{config.data.features}.yaml")
    own = {word.partition("=")[0] for word in program.overrides}
    inline = keys - own - groups.keys()
    inline |= {"defaults"} if keys & groups.keys() - {"data"} else set()  # which file it is of each group
    read = program.reads | keys - {read.split(".")[0] for read in program.reads}
    targets = [target for path in read for target in targets_of(plain_of(config, path))]
    for other in REBUILDS.get(name, ()):
        targets += targets_of(plain_of(composed([f"model={other}"], ROOT / "conf"), "model"))
    return Needed({program.path, *imported(*program.imports, *targets).values()}, files, inline)


def named(stage: dict) -> dict[str, list[str] | None]:
    """Parameter files of a stage > the keys of them, None for all."""
    return {path: keys for entry in stage.get("params", []) for path, keys in entry.items()}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_every_module_that_its_command_imports(name):
    deps = [ROOT / dep for dep in STAGES[name]["deps"] if dep.startswith("src/") or dep.endswith(".py")]
    modules = {path for path in needed(name).modules if path.name != "__init__.py"}
    missing = sorted(f"{path.relative_to(ROOT)}" for path in modules if not any(path.is_relative_to(dep) for dep in deps))
    assert not missing, f"dvc.yaml: stage {name} runs {', '.join(missing)}; name them under its deps"
    for dep in deps:
        below = [dep] if dep.is_file() else [path for path in dep.rglob("*.py") if path.name != "__init__.py"]
        used = len(modules & set(below)) / len(below)
        assert used > LEAST, f"dvc.yaml: stage {name} runs {used:.0%} of {dep.relative_to(ROOT)}; name the files that it runs"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_every_file_that_its_configuration_is_composed_of(name):
    stage, need = STAGES[name], needed(name)
    params = named(stage)
    conf = {dep for dep in stage["deps"] if dep.startswith("conf/")} | (params.keys() - {"conf/config.yaml"})
    assert conf == need.files, f"dvc.yaml: stage {name} is composed of the second, not of the first"
    assert set(params.get("conf/config.yaml") or []) == need.keys


def test_a_package_runs_no_code_of_its_own():
    """So no stage has to name `__init__.py`. Only the package itself has a function, which finds the client."""
    for path in PACKAGE.rglob("__init__.py"):
        kinds = {type(node) for node in ast.parse(path.read_text()).body}
        assert kinds <= {ast.Expr, *((ast.ImportFrom, ast.FunctionDef) if path.parent == PACKAGE else ())}, path
    assert not [name for name in imported("watchnext") if name != "watchnext"]


def test_a_stage_depends_on_the_outputs_that_its_command_reads():
    made = {out: name for name, stage in STAGES.items() for out in map(_path, stage.get("outs", []))}
    for name, stage in STAGES.items():
        program, outputs = Program.of(stage["cmd"]), OmegaConf.load(ROOT / "params.yaml").outputs
        read = {f"{outputs}/{part}" for part in program.parts} & made.keys()
        own = {out for out, maker in made.items() if maker == name}
        assert read - own <= set(stage["deps"]), name


def _path(out: str | dict) -> str:
    return out if isinstance(out, str) else next(iter(out))
