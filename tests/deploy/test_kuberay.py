"""deploy/kuberay.yaml: what Kubernetes and Ray would say to it, of themselves."""

import importlib
import inspect
import re
from copy import deepcopy
from importlib.metadata import version
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from app.cluster import build
from app.settings import Settings
from tests.deploy.test_stack import SERVICES, interpolated
from tests.helpers import ROOT

KUBERNETES = kubernetes_validate.latest_version()
MANIFEST = list(yaml.safe_load_all((ROOT / "deploy" / "kuberay.yaml").read_text()))
(RAY,) = (document for document in MANIFEST if document["kind"] == "RayService")
PLAIN = {
    f"{document['kind']}-{document['metadata']['name']}": document
    for document in MANIFEST
    if document is not RAY
}
CLUSTER = RAY["spec"]["rayClusterConfig"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
TEMPLATES = {
    "head": CLUSTER["headGroupSpec"]["template"],
    **{name: group["template"] for name, group in GROUPS.items()},
    "redis": PLAIN["Deployment-glow-editor-redis"]["spec"]["template"],
}
SERVE: dict[str, Any] = yaml.safe_load(RAY["spec"]["serveConfigV2"])


def check(resource: dict[str, Any]) -> None:
    """As Kubernetes' own API does, which knows every field."""
    kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def check_template(template: dict[str, Any]) -> None:
    check({"apiVersion": "v1", "kind": "PodTemplate", "template": template})


@pytest.mark.parametrize("name", PLAIN)
def test_kubernetes_takes_it(name: str) -> None:
    check(PLAIN[name])


@pytest.mark.parametrize("name", TEMPLATES)
def test_kubernetes_takes_the_pods(name: str) -> None:
    check_template(TEMPLATES[name])


def test_an_unknown_field_is_found() -> None:
    template = deepcopy(TEMPLATES["gpu"])
    template["spec"]["containers"][0]["securityContext"]["runAsNobody"] = True
    with pytest.raises(kubernetes_validate.ValidationError, match="runAsNobody"):
        check_template(template)


def test_the_cluster_has_kuberays_fields() -> None:
    """Those of its API ray.io/v1 that are used here."""
    assert RAY["apiVersion"] == "ray.io/v1"
    assert RAY["spec"].keys() == {"serveConfigV2", "serveService", "rayClusterConfig"}
    assert CLUSTER.keys() == {
        "rayVersion",
        "enableInTreeAutoscaling",
        "autoscalerOptions",
        "headGroupSpec",
        "workerGroupSpecs",
    }
    assert CLUSTER["rayVersion"] == version("ray")
    options = CLUSTER["autoscalerOptions"]
    assert options.keys() == {"idleTimeoutSeconds", "securityContext"}
    (container,) = TEMPLATES["head"]["spec"]["containers"]
    assert options["securityContext"] == container["securityContext"]
    assert CLUSTER["headGroupSpec"].keys() == {"rayStartParams", "template"}
    for group in (CLUSTER["headGroupSpec"], *GROUPS.values()):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
    for group in GROUPS.values():
        assert group.keys() == {
            "groupName",
            "replicas",
            "minReplicas",
            "maxReplicas",
            "rayStartParams",
            "template",
        }
        assert 0 < group["minReplicas"] <= group["replicas"] < group["maxReplicas"]
    check({"apiVersion": "v1", "kind": "Service", **RAY["spec"]["serveService"]})


def test_ray_takes_its_part() -> None:
    schema = ServeDeploySchema.model_validate(SERVE)
    (application,) = schema.applications
    module, _, name = application.import_path.partition(":")
    assert getattr(importlib.import_module(module), name) is build
    assert list(inspect.get_annotations(build)) == ["settings", "return"]
    ports = {
        port["name"]: port["containerPort"]
        for port in TEMPLATES["cpu"]["spec"]["containers"][0]["ports"]
    }
    assert schema.http_options.port == ports["serve"]
    (port,) = RAY["spec"]["serveService"]["spec"]["ports"]
    assert port["targetPort"] == ports["serve"]


def test_without_a_redis_there_is_no_cluster() -> None:
    with pytest.raises(ValueError, match="GLOW_REDIS_URL"):
        build(Settings(redis_url=None))


@pytest.mark.parametrize("name", TEMPLATES)
def test_pods_have_no_rights_and_write_to_no_disk(name: str) -> None:
    spec = TEMPLATES[name]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is (name == "head")
    for volume in spec.get("volumes", []):
        assert volume["emptyDir"]["medium"] == "Memory"
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert container["livenessProbe"]
    assert container["readinessProbe"]
    assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("name", ["head", *GROUPS])
def test_ray_has_what_it_needs(name: str) -> None:
    (container,) = TEMPLATES[name]["spec"]["containers"]
    environment = {entry["name"]: entry.get("value") for entry in container["env"]}
    known = {f"GLOW_{field.upper()}" for field in Settings.model_fields}
    ours = {name for name in environment if name.startswith("GLOW_")}
    assert ours - known == {"GLOW_REDIS_PASSWORD"}
    assert "$(GLOW_REDIS_PASSWORD)" in environment["GLOW_REDIS_URL"]
    order = list(environment)
    assert order.index("GLOW_REDIS_PASSWORD") < order.index("GLOW_REDIS_URL")
    assert environment["RAY_automatic_object_spilling_enabled"] == "0"
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")
    assert gpus == ("1" if name == "gpu" else None)


def test_redis_is_that_of_the_compose_file() -> None:
    (container,) = TEMPLATES["redis"]["spec"]["containers"]
    assert container["image"] == SERVICES["redis"]["image"]
    ours = re.sub(r"requirepass .*", "", container["args"][0])
    theirs = re.sub(r"requirepass .*", "", interpolated(SERVICES["redis"]["command"][0]))
    assert ours == theirs
    assert container["resources"]["limits"]["memory"] == "5Gi"  # more than maxmemory


def test_names_are_of_something() -> None:
    """Labels that are selected are carried, and the address of Redis is its service's."""
    carried = [template["metadata"]["labels"] for template in TEMPLATES.values()]
    policies = [d["spec"] for d in PLAIN.values() if d["kind"] == "NetworkPolicy"]
    for policy in policies:
        assert policy["podSelector"]["matchLabels"] in carried
    assert PLAIN["Service-glow-editor-redis"]["spec"]["selector"] in carried
    (container,) = TEMPLATES["head"]["spec"]["containers"]
    (url,) = (entry["value"] for entry in container["env"] if entry["name"] == "GLOW_REDIS_URL")
    assert url.endswith("@glow-editor-redis:6379/0")
