"""A trained network's folder is data: what it names is built only where it is a class of this package."""

import json
import sys
from functools import partial

import pytest
import torch

from watchnext.nn.weights import described, load_network, rebuilt


@pytest.mark.parametrize(
    "target",
    ["os.remove", "evil.Network", "watchnextevil.Network", "watchnext.files.os", "watchnext.files.os.remove", "watchnext",
     "watchnext.cli.instantiate", "watchnext.files.link", "watchnext.nn.weights.nothing", "torch.nn.Linear"],
)  # fmt: skip
def test_a_recipe_builds_no_class_but_our_own(target, world_schema, tmp_path, monkeypatch):
    (tmp_path / "evil.py").write_text("raise SystemExit('it was imported')")
    (tmp_path / "watchnextevil.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    told = {"recipe": {"target": target, "arguments": {}, "sizes": {}}, "schema": world_schema.fingerprint}
    (tmp_path / "model.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=f"'{target}' is not a class of watchnext.*run `dvc repro ranker`"):
        load_network(tmp_path, schema=world_schema, repair="dvc repro ranker")
    assert not {"evil", "watchnextevil"} & set(sys.modules)


def test_a_part_inside_a_recipe_is_held_to_the_same():
    inner = {"target": "os.system", "arguments": {"command": "true"}}
    with pytest.raises(ValueError, match=r"'os\.system' is not a class of watchnext"):
        rebuilt({"target": "watchnext.ranking.models.dcn.DCN", "arguments": {"tasks": inner}})


def test_a_network_that_could_not_be_loaded_is_refused_before_training():
    with pytest.raises(ValueError, match=r"'torch\.nn\.modules\.linear\.Linear' is not a class of watchnext"):
        described(partial(torch.nn.Linear, out_features=3))
