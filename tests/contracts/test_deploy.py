"""deploy/: what runs the server in containers, checked without Docker."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import jsonschema_rs
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "docker-compose.yaml").read_text())
PIN = re.compile(r"^(\S+)==(\S+) \\$", re.MULTILINE)


def pinned(file: Path) -> dict[str, str]:
    return {canonicalize_name(name): version for name, version in PIN.findall(file.read_text())}


def test_the_compose_file_follows_its_specification():
    schema = json.loads((ROOT / "tests" / "compose-spec.json").read_text())
    errors = [f"{error.instance_path}: {error.message}" for error in jsonschema_rs.validator_for(schema).iter_errors(COMPOSE)]
    assert errors == []
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(schema, COMPOSE | {"services": {"server": {"port": 3000}}})


def test_every_file_secret_and_volume_of_the_compose_file_exists():
    made = ("../releases", "../secrets")
    for service in COMPOSE["services"].values():
        assert {*service.get("secrets", ())} <= COMPOSE["secrets"].keys()
        for source, target, *_ in (each.split(":") for each in service.get("volumes", ())):
            assert target.startswith("/")
            assert source in COMPOSE["volumes"] or source.startswith(made) or (DEPLOY / source).is_file(), source
    build = COMPOSE["services"]["server"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).is_file()
    assert all(secret["file"].startswith(made) for secret in COMPOSE["secrets"].values())


def test_ports_are_open_to_this_machine_alone_and_none_is_given_twice():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert len({*ports}) == len(ports) == 3


def test_prometheus_and_grafana_find_each_other_and_the_server():
    scraped = yaml.safe_load((DEPLOY / "prometheus.yaml").read_text())["scrape_configs"][0]
    name, _, port = scraped["static_configs"][0]["targets"][0].partition(":")
    assert (name in COMPOSE["services"], port) == (True, "3000")
    assert name in COMPOSE["services"]["server"]["environment"]["WATCHNEXT_HOSTS"].split(",")
    secret = Path(scraped["authorization"]["credentials_file"])
    assert secret.parent == Path("/run/secrets")
    assert secret.name in COMPOSE["services"]["prometheus"]["secrets"]
    source = yaml.safe_load((DEPLOY / "grafana" / "datasources.yaml").read_text())["datasources"][0]
    dashboard = json.loads((DEPLOY / "grafana" / "watchnext.json").read_text())
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_the_serving_lock_holds_what_serving_needs_at_the_versions_of_the_whole():
    lock = DEPLOY / "requirements-serving.lock"
    serving, whole = pinned(lock), pinned(ROOT / "requirements.lock")
    needed = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    assert all(each.specifier.contains(serving[canonicalize_name(each.name)]) for each in needed)
    assert serving.items() <= whole.items()
    assert not serving.keys() & {"torch", "pandas", "mlflow", "hydra-core", "pytorch-lightning", "evidently", "scikit-learn"}
    entries = re.findall(r"^\S+==\S+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", lock.read_text(), re.MULTILINE)
    assert "".join(entries) == lock.read_text()


def test_the_image_runs_without_root_and_knows_if_it_is_ready():
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    last = {line.split()[0]: line for line in lines if line and line[0].isupper()}
    assert last["USER"] == "USER 10001"
    assert lines.index(last["USER"]) < lines.index(last["CMD"])
    assert "HEALTHCHECK" in last
    assert "--require-hashes -r requirements-serving.lock" in " ".join(lines)
    for copied in re.findall(r"^COPY (?!--from)(.+) \S+$", "\n".join(lines), re.MULTILINE):
        assert all((ROOT / each).exists() for each in copied.split()), copied


def test_a_bento_is_built_with_its_health_check_and_a_user_who_is_not_root(tmp_path):
    environment = os.environ | {"BENTOML_HOME": str(tmp_path), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag"]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    (dockerfile,) = tmp_path.glob("bentos/*/*/env/docker/Dockerfile")
    text = dockerfile.read_text()
    assert "HEALTHCHECK" in text
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE)[-1] == "bentoml"
    assert list(dockerfile.parents[2].glob("**/watchnext/serving/http/page/index.html"))
