"""Save and load a trained network as a folder: safetensors, schema fingerprint and recipe. No pickle."""

import importlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

from safetensors.torch import load_model, save_file
from torch import Tensor, nn

from watchnext.features.encode.encodings import InputSizes
from watchnext.files import sha256_of
from watchnext.schema import FeatureSchema


class RecipeError(ValueError):
    """A recipe names a class outside this package."""


@contextmanager
def written_aside(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` if the block succeeds."""
    folder = Path(folder)
    aside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    aside.rename(folder)


def described(part: partial) -> dict:
    """Describe a configured partial as JSON-ready data, including nested partials."""
    arguments = {name: described(value) if isinstance(value, partial) else value for name, value in part.keywords.items()}
    target = f"{part.func.__module__}.{part.func.__qualname__}"
    _class_of(target)  # fail before training what could not be loaded
    return json.loads(json.dumps({"target": target, "arguments": arguments}, default=list))


def rebuilt(description: Mapping) -> partial:
    """Rebuild the partial from its description."""
    arguments = {key: _argument(value) for key, value in description["arguments"].items()}
    return partial(_class_of(description["target"]), **arguments)


def _class_of(target: str) -> type:
    """Resolve a class defined in this package. Anything else is refused, so that loading a foreign recipe imports no other code
    and calls no function."""
    module, _, name = target.rpartition(".")
    if module.startswith("watchnext."):
        try:
            cls = getattr(importlib.import_module(module), name, None)
        except ModuleNotFoundError:
            cls = None
        if isinstance(cls, type) and cls.__module__ == module:
            return cls
    raise RecipeError(f"{target!r} is not a class of watchnext; a recipe may build no other")


def _argument(value: object) -> object:
    """Convert JSON to arguments: lists to tuples, descriptions to partials."""
    if isinstance(value, list):
        return tuple(_argument(each) for each in value)
    if not isinstance(value, Mapping):
        return value
    return rebuilt(value) if "target" in value else {key: _argument(each) for key, each in value.items()}


def recipe_of(network: partial, sizes: InputSizes) -> dict:
    """Return the JSON-ready recipe of a network: its configured partial and the input sizes."""
    return described(network) | {"sizes": json.loads(json.dumps(asdict(sizes), default=list))}


def build_network(recipe: Mapping) -> nn.Module:
    """Build the untrained network of a recipe."""
    return rebuilt(recipe)(sizes=InputSizes.from_mapping(recipe["sizes"]))


def save_network(folder: Path, network: nn.Module, *, schema: FeatureSchema, recipe: Mapping) -> None:
    save_file(_distinct(network), Path(folder) / "weights.safetensors")
    (Path(folder) / "model.json").write_text(json.dumps({"schema": schema.fingerprint, "recipe": recipe}, indent=1))


def _distinct(network: nn.Module) -> dict[str, Tensor]:
    """Return every tensor once, under its first name, because towers share tables. Safetensors' `save_model` writes the aliases
    in random order, which would make equal weights differ in bytes."""
    first: dict[int | str, tuple[str, Tensor]] = {}
    for name, tensor in sorted(network.state_dict().items()):
        first.setdefault(tensor.data_ptr() or name, (name, tensor.contiguous()))
    return dict(first.values())


def fingerprint(folder: Path) -> str:
    """Return 16 hex digits of the digest of the saved weights."""
    return sha256_of(Path(folder) / "weights.safetensors")[:16]


def load_network(folder: Path, *, schema: FeatureSchema, repair: str) -> nn.Module:
    """Load the network in evaluation mode. Raises FileNotFoundError, SchemaError or RecipeError naming `repair`, the command
    that trains it."""
    if not (Path(folder) / "model.json").exists():
        raise FileNotFoundError(f"{folder} holds no trained network; run `{repair}`")
    meta = json.loads((Path(folder) / "model.json").read_text())
    schema.require(meta["schema"], artefact=str(folder), repair=repair)
    try:
        network = build_network(meta["recipe"])
    except RecipeError as error:
        raise RecipeError(f"{Path(folder) / 'model.json'}: {error}; run `{repair}`") from error
    load_model(network, Path(folder) / "weights.safetensors")
    return network.eval()
