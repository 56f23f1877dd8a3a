"""deploy/kubernetes.yaml by structural rules: no schema of Kubernetes is among the packages, and no cluster is asked."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from watchnext.serving.http.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = list(yaml.safe_load_all((ROOT / "deploy" / "kubernetes.yaml").read_text()))
VERSIONS = {
    "ConfigMap": "v1", "Service": "v1", "Deployment": "apps/v1", "StatefulSet": "apps/v1", "Job": "batch/v1",
    "CronJob": "batch/v1", "HorizontalPodAutoscaler": "autoscaling/v2", "PodDisruptionBudget": "policy/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}  # fmt: skip
BY_NAME = {(each["kind"], each["metadata"]["name"]): each for each in MANIFESTS}


def pods() -> Iterator[tuple[str, dict]]:
    """Name and template of every pod."""
    for (kind, name), manifest in BY_NAME.items():
        spec = manifest.get("spec", {})
        if "jobTemplate" in spec:
            spec = spec["jobTemplate"]["spec"]
        if "template" in spec:
            yield f"{kind} {name}", spec["template"]


def containers(pod: dict) -> list[dict]:
    return pod["spec"].get("initContainers", []) + pod["spec"]["containers"]


def test_every_manifest_is_of_a_known_version_and_named_once():
    assert [each["metadata"]["name"] for each in MANIFESTS if each["apiVersion"] != VERSIONS[each["kind"]]] == []
    assert len(BY_NAME) == len(MANIFESTS)
    assert {kind for kind, _ in BY_NAME} == VERSIONS.keys()


def test_no_container_is_root_or_writes_outside_of_its_volumes():
    for name, pod in pods():
        assert pod["spec"]["securityContext"]["runAsNonRoot"], name
        assert pod["spec"]["securityContext"]["runAsUser"] > 0, name
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["spec"]["automountServiceAccountToken"] is False, name
        for container in containers(pod):
            limits = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
            assert container["securityContext"] == limits, name
            assert {"cpu", "memory"} == container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name


def test_every_name_that_a_manifest_uses_exists():
    labels = [pod["metadata"]["labels"] for _, pod in pods()]
    for kind, name in BY_NAME:
        spec = BY_NAME[kind, name].get("spec", {})
        selector = spec.get("selector") or spec.get("podSelector") or {}
        if selector := selector.get("matchLabels", selector):
            assert any(selector.items() <= each.items() for each in labels), name
    target = BY_NAME["HorizontalPodAutoscaler", "watchnext"]["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) in BY_NAME
    assert ("Service", BY_NAME["StatefulSet", "redis"]["spec"]["serviceName"]) in BY_NAME
    for name, pod in pods():
        claims = BY_NAME["StatefulSet", "redis"]["spec"]["volumeClaimTemplates"] if name.startswith("StatefulSet") else []
        volumes = {each["name"] for each in pod["spec"].get("volumes", [])} | {each["metadata"]["name"] for each in claims}
        for container in containers(pod):
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= volumes, name
            for source in container.get("envFrom", []):
                assert ("ConfigMap", source["configMapRef"]["name"]) in BY_NAME


def test_the_server_is_probed_on_its_routes_and_set_by_variables_that_it_knows():
    (server,) = BY_NAME["Deployment", "watchnext"]["spec"]["template"]["spec"]["containers"]
    app = (ROOT / "src/watchnext/serving/http/app.py").read_text()
    probes = {name: server[name]["httpGet"] for name in ("startupProbe", "readinessProbe", "livenessProbe")}
    assert [probe["path"] for probe in probes.values()] == ["/readyz", "/readyz", "/livez"]
    variables = BY_NAME["ConfigMap", "watchnext"]["data"]
    for probe in probes.values():
        assert f'"{probe["path"]}"' in app
        assert probe["port"] in {port["name"] for port in server["ports"]}
        assert probe["httpHeaders"][0]["value"] in variables["WATCHNEXT_HOSTS"].split(",")
    known = {f"WATCHNEXT_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in variables if name.startswith("WATCHNEXT_")} <= known
    mounts = {mount["mountPath"] for mount in server["volumeMounts"]}
    assert {variables["WATCHNEXT_RELEASES"], variables["WATCHNEXT_SERVED"], variables["HOME"]} <= mounts
    metric = BY_NAME["HorizontalPodAutoscaler", "watchnext"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert f'"{metric.removeprefix("watchnext_")}"' in app


def test_redis_keeps_what_it_acknowledges():
    (redis,) = BY_NAME["StatefulSet", "redis"]["spec"]["template"]["spec"]["containers"]
    words = [*redis["command"], *redis["args"]]
    given = dict(zip(words[1::2], words[2::2], strict=True))
    for name, value in {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "cluster-enabled": "yes",
    }.items():
        assert given[f"--{name}"] == value
    url = BY_NAME["ConfigMap", "watchnext"]["data"]["WATCHNEXT_STORE"]
    host, port = re.fullmatch(r"redis-cluster://(\w+):(\d+)", url).groups()
    assert int(port) in {each["port"] for each in BY_NAME["Service", host]["spec"]["ports"]}
