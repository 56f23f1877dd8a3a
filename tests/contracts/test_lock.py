"""requirements.lock: all that pyproject.toml needs, each at one version whose files have hashes."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "requirements.lock").read_text()
PINNED = {canonicalize_name(name): version for name, version in re.findall(r"^(\S+)==(\S+) \\$", LOCK, re.MULTILINE)}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LISTS = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][name] for name in ("train", "dev"))]  # spark is apart
NEEDED = [Requirement(one) for each in LISTS for one in each]


@pytest.mark.parametrize("needed", NEEDED, ids=lambda needed: needed.name)
def test_every_dependency_is_locked_where_the_project_allows(needed):
    if needed.name == "torch":  # its builds for CPU and CUDA differ under one version, see the Makefile
        assert re.fullmatch(r"==[\d.]+", str(needed.specifier))
        return
    assert needed.specifier.contains(PINNED[canonicalize_name(needed.name)])


def test_every_version_has_hashes_and_no_line_is_anything_else():
    entries = re.findall(r"^\S+==\S+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", LOCK, re.MULTILINE)
    assert "".join(entries) == LOCK
    assert len(entries) == len(PINNED) > 200


def test_dependencies_of_a_build_for_cuda_are_not_locked():
    cuda = [name for name in PINNED if re.match(r"torch$|nvidia-|triton|cuda", name)]
    assert cuda == ["nvidia-ml-py"]  # plain Python, which BentoML needs
    assert {"setuptools", "sympy", "networkx", "jinja2"} <= PINNED.keys()  # what every build of PyTorch needs is
