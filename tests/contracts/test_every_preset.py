"""Every file of conf/ composes, and every class it names exists and takes the keys that it is given."""

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hydra.utils import get_object

from printed import variants
from watchnext.cli import composed, plain

CONF = Path(__file__).resolve().parents[2] / "conf"
PRESETS = sorted((path.parent.relative_to(CONF).as_posix(), path.stem) for path in CONF.glob("*/*.yaml"))
# Groups that are composed into a model; the words are those that a person types.
INTO_A_MODEL = {
    "loss": "loss@model.module.loss={}",
    "watch_time": "watch_time@model.module.watch_time={}",
}


def test_a_key_that_no_class_takes_is_found():
    node = {"_target_": "watchnext.data.splits.TimeSplit", "valid_days": 1, "tests_days": 1}
    with pytest.raises(AssertionError, match="takes"):
        check(node)


def check(node: Mapping) -> None:
    """Assert that the class of a node takes the node's keys, and, where it is built at once, lacks none."""
    parameters = inspect.signature(get_object(node["_target_"])).parameters
    keys = {key for key in node if not (key.startswith("_") and key.endswith("_"))}
    assert keys <= set(parameters), f"{node['_target_']} takes {', '.join(parameters)}, and is given {keys - set(parameters)}"
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = {key for key, value in parameters.items() if value.default is value.empty and value.kind not in several}
    assert node.get("_partial_") or needed <= keys, f"{node['_target_']} lacks {needed - keys}"


def nodes_of(config: object) -> Iterator[Mapping]:
    """Yield every mapping that names a class as `_target_`."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield config
        config = list(config.values())
    if isinstance(config, list):
        for value in config:
            yield from nodes_of(value)


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.chdir(CONF.parent)
    for name in ("KUAIRAND_ROOT", "MOVIELENS_ROOT", "VK_LSVD_ROOT", "SEQUENCES_FILE"):
        monkeypatch.setenv(name, "somewhere")


@pytest.mark.parametrize(("group", "name"), PRESETS)
def test_a_preset_composes_and_its_classes_take_their_keys(group, name):
    words = ["model=dcn", INTO_A_MODEL[group].format(name)] if group in INTO_A_MODEL else [f"{group}={name}"]
    for node in nodes_of(plain(composed(words))):
        check(node)


@pytest.mark.parametrize("words", variants(), ids=" ".join)
def test_a_printed_variant_composes_and_its_classes_take_their_keys(words):
    for node in nodes_of(plain(composed(words))):
        check(node)
