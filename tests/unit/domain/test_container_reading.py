"""What a container group may ask for, and what is refused by its name."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tidemill.app.containers.container_bodies import shown_properties
from tidemill.domain.containers.model import GIB, ContainerProbe, Mount
from tidemill.domain.containers.plan import mounts_of
from tidemill.domain.containers.reading import read_group
from tidemill.domain.errors import InvalidRequest, NotOffered

BODY: dict[str, Any] = {
    "location": "westeurope",
    "properties": {
        "osType": "Linux",
        "restartPolicy": "OnFailure",
        "containers": [
            {
                "name": "web",
                "properties": {
                    "image": "host-python",
                    "command": ["python3", "-m", "http.server"],
                    "ports": [{"port": 8000, "protocol": "TCP"}],
                    "environmentVariables": [
                        {"name": "A", "value": "1"},
                        {"name": "B", "secureValue": "hush"},
                    ],
                    "resources": {"requests": {"cpu": 0.5, "memoryInGB": 1.5}},
                    "livenessProbe": {"httpGet": {"port": 8000, "path": "/live"}, "periodSeconds": 5},
                    "volumeMounts": [
                        {"name": "room", "mountPath": "/data/"},
                        {"name": "keys", "mountPath": "/keys"},
                    ],
                },
            }
        ],
        "imageRegistryCredentials": [{"server": "R.example", "username": "u", "password": "pw"}],
        "ipAddress": {"type": "Public", "ports": [{"port": 8000}], "dnsNameLabel": "mine"},
        "volumes": [
            {"name": "room", "emptyDir": {}},
            {"name": "keys", "secret": {"token": "aGk="}},
            {
                "name": "blobs",
                "azureFile": {
                    "shareName": "data",
                    "storageAccountName": "acc",
                    "storageAccountKey": "k",
                    "readOnly": True,
                },
            },
        ],
    },
}


def changed(path: str, value: Any) -> dict[str, Any]:
    """The body with one field another; `c.` stands for the container's properties."""
    body = copy.deepcopy(BODY)
    at: Any = body["properties"]
    if path.startswith("c."):
        at, path = at["containers"][0]["properties"], path[2:]
    *above, last = path.split(".")
    for name in above:
        at = at.setdefault(name, {})
    at[last] = value
    return body


def test_a_whole_group_is_read() -> None:
    spec, secrets = read_group("front", BODY)
    (web,) = spec.containers
    assert (web.cpu_milli, web.memory, web.ports) == (500, GIB * 3 // 2, (8000,))
    assert (web.variables, web.secure) == ((("A", "1"),), ("B",))
    assert web.liveness == ContainerProbe(8000, "/live", period_s=5)
    assert web.mounts == (Mount("room", "/data"), Mount("keys", "/keys"))
    assert [m.read_only for m in mounts_of(spec, web.mounts)] == [False, True]
    assert (spec.restart, spec.ports, spec.dns_label) == ("OnFailure", (8000,), "mine")
    assert (spec.label, spec.registries) == ("container.front", ("r.example",))
    assert secrets.variables == {"web": {"B": "hush"}}
    assert secrets.files == {"keys": {"token": "aGk="}}
    assert secrets.registries == {"r.example": ("u", "pw")}
    assert "hush" not in repr((spec, secrets))


def test_what_is_stored_in_the_open_has_nothing_secure() -> None:
    shown = shown_properties({**BODY["properties"], "provisioningState": "Succeeded"})
    assert not any(word in repr(shown) for word in ("hush", "'pw'", "aGk=", "'k'", "provisioningState"))
    (web,) = shown["containers"]
    assert web["properties"]["environmentVariables"] == [{"name": "A", "value": "1"}, {"name": "B"}]
    assert shown["volumes"][1] == {"name": "keys", "secret": {}}


@pytest.mark.parametrize(
    ("path", "value", "word"),
    [
        ("subnetIds", [{"id": "/x"}], "subnetIds"),
        ("diagnostics", {"logAnalytics": {}}, "diagnostics"),
        ("dnsConfig", {"nameServers": ["1.1.1.1"]}, "dnsConfig"),
        ("c.resources.requests.gpu", {"count": 1, "sku": "V100"}, "gpu"),
        ("c.resources.limits", {"cpu": 4}, "limits.cpu"),
        ("c.livenessProbe", {"exec": {"command": ["x"]}}, "exec"),
        ("c.securityContext", {"privileged": True}, "securityContext"),
        ("c.ports", [{"port": 53, "protocol": "UDP"}], "UDP"),
        ("volumes", [{"name": "room", "gitRepo": {"repository": "r"}}], "gitRepo"),
        (
            "volumes",
            [{"name": "room", "azureFile": {"shareName": "s", "storageAccountName": "a"}}],
            "readOnly",
        ),
    ],
)
def test_what_is_not_offered(path: str, value: Any, word: str) -> None:
    with pytest.raises(NotOffered) as refused:
        read_group("front", changed(path, value))
    assert word in refused.value.message
    assert (refused.value.target or "").startswith("properties.")


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        ("containers", [], "properties.containers"),
        (
            "initContainers",
            [{"name": "a", "properties": {"image": "x", "ports": [{"port": 1}]}}],
            "properties.init",
        ),
        ("initContainers", [{"name": "web", "properties": {"image": "x"}}], "properties.containers"),
        ("containers", "web", "properties.containers"),
        ("osType", "Windows", "properties.osType"),
        ("restartPolicy", "Sometimes", "properties.restartPolicy"),
        ("c.image", "", "properties.containers[0].properties.image"),
        ("c.command", [], "properties.containers[0].properties.command"),
        ("c.resources.requests.cpu", 0, "properties.containers[0].properties.resources.requests.cpu"),
        ("c.resources.requests.cpu", True, "properties.containers[0].properties.resources.requests.cpu"),
        ("c.environmentVariables", [{"name": "B"}], "properties.containers[0].properties.environment"),
        ("c.environmentVariables", [{"name": "a=b", "value": ""}], "properties.containers[0]"),
        ("c.environmentVariables", [{"name": "A\n", "value": ""}], "properties.containers[0]"),
        ("c.volumeMounts", [{"name": "none", "mountPath": "/a"}], "properties.containers[0]"),
        ("c.volumeMounts", [{"name": "room", "mountPath": "/a/../b"}], "properties.containers[0]"),
        ("c.volumeMounts", [{"name": "room", "mountPath": "/usr"}], "properties.containers[0]"),
        ("c.volumeMounts", [{"name": "room", "mountPath": "//etc/./"}], "properties.containers[0]"),
        ("c.volumeMounts", [{"name": "room", "mountPath": "/."}], "properties.containers[0]"),
        ("c.volumeMounts", [{"name": "room", "mountPath": "/a\0b"}], "properties.containers[0]"),
        ("ipAddress.ports", [{"port": 9}], "properties.ipAddress.ports"),
        ("volumes", [{"name": "keys", "secret": {"../x": "aGk="}}], "properties.volumes[0].secret"),
        ("volumes", [{"name": "keys", "secret": {"x": "?"}}], "properties.volumes[0].secret.x"),
        ("volumes", [{"name": "keys", "secret": {"x\n": "aGk="}}], "properties.volumes[0].secret"),
        ("volumes", [{"name": "keys\n", "emptyDir": {}}], "properties.volumes[0].name"),
    ],
)
def test_what_cannot_be_read_names_its_place(path: str, value: Any, place: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_group("front", changed(path, value))
    assert (refused.value.target or "").startswith(place)
    assert place.rsplit(".", 1)[-1].split("[")[0] in refused.value.message


def test_init_containers_come_first_and_ask_for_nothing() -> None:
    first = {
        "name": "first",
        "properties": {"image": "x", "environmentVariables": [{"name": "C", "secureValue": "h"}]},
    }
    spec, secrets = read_group("front", changed("initContainers", [first]))
    assert [one.name for one in spec.every] == ["first", "web"]
    assert spec.cpu_milli == 500
    assert secrets.variables == {"first": {"C": "h"}, "web": {"B": "hush"}}


def test_mounts_do_not_lie_in_each_other() -> None:
    mounts = [{"name": "room", "mountPath": "/data"}, {"name": "keys", "mountPath": "/data/keys"}]
    with pytest.raises(InvalidRequest, match="lie in each other"):
        read_group("front", changed("c.volumeMounts", mounts))


@pytest.mark.parametrize("name", ["", "Front", "a" * 64, "-a", "a_b", "a/b", "web\n"])
def test_names_as_azure_has_them(name: str) -> None:
    with pytest.raises(InvalidRequest, match="not valid"):
        read_group(name, BODY)


@pytest.mark.parametrize(
    ("tags", "runtime"),
    [
        (None, "sandbox"),
        ({}, "sandbox"),
        ({"tidemill.runtime": ""}, "sandbox"),
        ({"tidemill.runtime": "sandbox"}, "sandbox"),
        ({"tidemill.runtime": "runc", "owner": "me"}, "runc"),
    ],
)
def test_a_tag_asks_for_a_runtime(tags: dict[str, str] | None, runtime: str) -> None:
    assert read_group("web", {**BODY, "tags": tags})[0].runtime == runtime


@pytest.mark.parametrize("value", ["kata", "RUNC", 1, ["runc"]])
def test_another_runtime_is_refused_with_its_place(value: object) -> None:
    with pytest.raises(InvalidRequest, match="use one of sandbox, runc") as caught:
        read_group("web", {**BODY, "tags": {"tidemill.runtime": value}})
    assert (caught.value.code, caught.value.target) == ("InvalidTag", "tags.tidemill.runtime")
    assert repr(value) in str(caught.value)
