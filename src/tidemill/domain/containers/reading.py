"""A container group read from ARM's `properties` (api-version 2023-05-01 and its like).

What cannot be carried out is refused by its name. The fields:
https://learn.microsoft.com/azure/templates/microsoft.containerinstance/containergroups
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from tidemill.domain.containers.model import (
    ALWAYS,
    EMPTY,
    GIB,
    HOST_PYTHON,
    NEVER,
    ON_FAILURE,
    RUNTIME_TAG,
    RUNTIMES,
    SANDBOX,
    SECRET,
    SHARE,
    ContainerProbe,
    ContainerSpec,
    GroupSpec,
    Mount,
    Secrets,
    VolumeSpec,
)
from tidemill.domain.errors import InvalidRequest, NotOffered
from tidemill.domain.fields import choice, integer, mapping, text

_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")  # Azure's, of groups, containers and volumes
_FILE = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_RESTARTS = {"always": ALWAYS, "onfailure": ON_FAILURE, "never": NEVER}
_MOST = {"containers": 60, "volumes": 60, "ports": 60}
_MOST_SECRET = 1 << 20  # bytes of a group's secret files
_LONGEST_S = 3600

# Azure has it and Tidemill does not: each with what there is instead.
_MISSING = {
    "subnetIds": "there are no virtual networks here. Leave it out: the group's network is its own loopback, "
    "and tidemill container port-forward reaches its ports",
    "networkProfile": "there are no virtual networks here. Leave it out",
    "diagnostics": "there is no Log Analytics here. Leave it out: logs are read by tidemill container logs",
    "dnsConfig": "a group's network has no name servers. Leave it out",
    "encryptionProperties": "a group has no disks of its own to encrypt with a customer's key. Leave it out",
    "extensions": "there are no extensions. Leave it out",
    "containerGroupProfile": "there are no profiles. Put the group's containers here",
    "standbyPoolProfile": "there are no standby pools. Leave it out",
    "confidentialComputeProperties": "there is no confidential computing here. Leave it out",
}


def read_group(name: str, body: Mapping[str, Any]) -> tuple[GroupSpec, Secrets]:
    """-> (what it is to be, its secure values). Raises InvalidRequest and NotOffered with the place."""
    check_group_name(name)
    given = mapping(body.get("properties"), "properties")
    _refuse_missing(body, given)
    volumes, files = _volumes(given.get("volumes"))
    known = {volume.name for volume in volumes}
    read = [_container(raw, f"properties.containers[{at}]", known) for at, raw in _items(given, "containers")]
    first = [
        _init(raw, f"properties.initContainers[{at}]", known) for at, raw in _items(given, "initContainers")
    ]
    containers, init = tuple(spec for spec, _ in read), tuple(spec for spec, _ in first)
    if not containers:
        raise _bad("properties.containers", "is empty: a group has one container at least")
    _check_distinct([one.name for one in (*init, *containers)], "properties.containers", "container")
    _check_ports(containers)
    ports, label = _address(given.get("ipAddress"), containers)
    registries = _registries(given.get("imageRegistryCredentials"))
    spec = GroupSpec(
        name,
        containers,
        choice(given.get("restartPolicy"), _RESTARTS, ALWAYS, "properties.restartPolicy"),
        volumes,
        ports,
        label,
        tuple(registries),
        init,
        _runtime(mapping(body.get("tags"), "tags")),
    )
    variables = {one.name: values for (one, values) in (*first, *read) if values}
    return spec, Secrets(variables, files, registries)


def _runtime(tags: Mapping[str, Any]) -> str:
    value = tags.get(RUNTIME_TAG)
    if value in (None, ""):
        return SANDBOX
    if value not in RUNTIMES:
        raise InvalidRequest(
            f"Tag {RUNTIME_TAG} is {value!r}: use one of {', '.join(RUNTIMES)}.",
            "InvalidTag",
            f"tags.{RUNTIME_TAG}",
        )
    return str(value)


def check_group_name(name: str) -> None:
    """Raises InvalidRequest."""
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"Container group name {name!r} is not valid: use 1 to 63 lower-case letters, digits or '-', "
            "beginning and ending with a letter or digit.",
            "InvalidContainerGroupName",
            "name",
        )


def _refuse_missing(body: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    for name, why in _MISSING.items():
        if given.get(name):
            raise NotOffered(f"properties.{name} is not offered: {why}.", f"properties.{name}")
    if body.get("identity") and mapping(body["identity"], "identity").get("type") not in (None, "None"):
        raise NotOffered(
            "identity is not offered: a container has no token of this server. Give what it needs as a "
            "secure variable.",
            "identity",
        )
    choice(given.get("osType"), {"linux": "Linux"}, "Linux", "properties.osType")
    choice(given.get("sku"), {"standard": "Standard"}, "Standard", "properties.sku")
    choice(given.get("priority"), {"regular": "Regular"}, "Regular", "properties.priority")


def _container(raw: Any, where: str, volumes: set[str]) -> tuple[ContainerSpec, dict[str, str]]:
    outer = mapping(raw, where)
    name, given = text(outer.get("name")), mapping(outer.get("properties"), f"{where}.properties")
    where = f"{where}.properties"
    if not _NAME.fullmatch(name):
        raise _bad(where.removesuffix(".properties"), f"name {name!r} must be 1 to 63 of a-z, 0-9 and '-'")
    image = text(given.get("image"))
    if not image:
        raise _bad(f"{where}.image", f"is missing: a registry's image, oci:/PATH, or {HOST_PYTHON}")
    if given.get("securityContext"):
        raise NotOffered(
            f"{where}.securityContext is not offered: every container runs as a user of its group's own, "
            "without capabilities.",
            f"{where}.securityContext",
        )
    command = _words(given.get("command"), f"{where}.command")
    if image == HOST_PYTHON and not command:
        raise _bad(f"{where}.command", f"is missing: {HOST_PYTHON} has no command of its own")
    plain, secure = _variables(given.get("environmentVariables"), f"{where}.environmentVariables")
    cpu, memory = _resources(given.get("resources"), f"{where}.resources")
    spec = ContainerSpec(
        name,
        image,
        command,
        tuple(_port(one, f"{where}.ports[{at}]") for at, one in _items(given, "ports", where)),
        tuple(plain.items()),
        tuple(secure),
        cpu,
        memory,
        _probe(given.get("livenessProbe"), f"{where}.livenessProbe"),
        _probe(given.get("readinessProbe"), f"{where}.readinessProbe"),
        tuple(_mounts(given, where, volumes)),
    )
    return spec, secure


def _init(raw: Any, where: str, volumes: set[str]) -> tuple[ContainerSpec, dict[str, str]]:
    """It shares what the others ask for, and nobody asks it anything."""
    given = mapping(mapping(raw, where).get("properties"), f"{where}.properties")
    for name in ("ports", "resources", "livenessProbe", "readinessProbe"):
        if given.get(name):
            raise _bad(f"{where}.properties.{name}", "is not for an init container: leave it out")
    return _container(raw, where, volumes)


def _variables(raw: Any, where: str) -> tuple[dict[str, str], dict[str, str]]:
    """-> (plain, secure)."""
    plain: dict[str, str] = {}
    secure: dict[str, str] = {}
    for at, one in _list(raw, where):
        given = mapping(one, f"{where}[{at}]")
        name = text(given.get("name"))
        if not _VARIABLE.fullmatch(name):
            raise _bad(f"{where}[{at}].name", f"{name!r} is no name of a variable")
        if name in plain or name in secure:
            raise _bad(f"{where}[{at}].name", f"{name!r} is there twice")
        if given.get("secureValueReference"):
            raise NotOffered(
                f"{where}[{at}].secureValueReference is not offered: give secureValue.",
                f"{where}[{at}].secureValueReference",
            )
        value, hidden = given.get("value"), given.get("secureValue")
        if (value is None) == (hidden is None):
            raise _bad(
                f"{where}[{at}]",
                f"({name}) needs either value or secureValue. A secure value is never shown, so a group that "
                "was read must be given it again",
            )
        (plain if hidden is None else secure)[name] = _no_nul(
            text(value if hidden is None else hidden), where
        )
    return plain, secure


def _resources(raw: Any, where: str) -> tuple[int, int]:
    """-> (thousandths of a core, bytes). A limit that holds nothing back needs nothing done."""
    given = mapping(raw, where)
    asked = mapping(given.get("requests"), f"{where}.requests")
    limits = mapping(given.get("limits"), f"{where}.limits")
    if asked.get("gpu") or limits.get("gpu"):
        raise NotOffered(
            f"{where}: gpu is not offered for container groups. A job or an online deployment of a size with "
            "GPUs gets them.",
            f"{where}.requests.gpu",
        )
    cpu = round(_number(asked.get("cpu"), 1.0, f"{where}.requests.cpu", 0.01, 1024) * 1000)
    memory = _number(asked.get("memoryInGB"), 1.5, f"{where}.requests.memoryInGB", 0.1, 16384)
    for name in ("cpu", "memoryInGB"):
        if limits.get(name) is not None:
            held = _number(limits[name], 0, f"{where}.limits.{name}", 0.01, 16384)
            least = cpu / 1000 if name == "cpu" else memory
            if held != least:
                raise NotOffered(
                    f"{where}.limits.{name} is not offered: the containers of a group share what they ask "
                    "for together, which no container can pass. Leave limits out.",
                    f"{where}.limits.{name}",
                )
    return cpu, round(memory * 10) * GIB // 10


def _probe(raw: Any, where: str) -> ContainerProbe | None:
    if raw is None:
        return None
    given = mapping(raw, where)
    if given.get("exec"):
        raise NotOffered(
            f"{where}.exec is not offered: a node asks ports, it starts no programs to ask. Use httpGet.",
            f"{where}.exec",
        )
    http = mapping(given.get("httpGet"), f"{where}.httpGet")
    if not http:
        raise _bad(f"{where}.httpGet", "is missing: what the container is asked")
    choice(http.get("scheme"), {"http": "http"}, "http", f"{where}.httpGet.scheme")
    if http.get("httpHeaders"):
        raise NotOffered(f"{where}.httpGet.httpHeaders is not offered: leave it out.", f"{where}.httpGet")
    path = text(http.get("path")) or "/"
    if not path.startswith("/") or any(not "!" <= character <= "~" for character in path):
        raise _bad(f"{where}.httpGet.path", f"{path!r} must begin with '/' and hold printable ASCII")

    def seconds(name: str, default: int, low: int) -> int:
        return integer(given.get(name), default, f"{where}.{name}", low, _LONGEST_S)

    return ContainerProbe(
        integer(http.get("port"), 0, f"{where}.httpGet.port", 1, 65535) or _no_port(where),
        path,
        seconds("initialDelaySeconds", 0, 0),
        seconds("periodSeconds", 10, 1),
        seconds("timeoutSeconds", 1, 1),
        seconds("failureThreshold", 3, 1),
        seconds("successThreshold", 1, 1),
    )


def _no_port(where: str) -> int:
    raise _bad(f"{where}.httpGet.port", "is missing")


def _mounts(given: Mapping[str, Any], where: str, volumes: set[str]) -> Sequence[Mount]:
    found: list[Mount] = []
    for at, raw in _items(given, "volumeMounts", where):
        place = f"{where}.volumeMounts[{at}]"
        one = mapping(raw, place)
        volume, path = text(one.get("name")), text(one.get("mountPath"))
        if volume not in volumes:
            there = ", ".join(sorted(volumes)) or "none"
            raise _bad(f"{place}.name", f"{volume!r} is no volume of the group. It has: {there}")
        parts = path.split("/")
        clean = "/" + "/".join(part for part in parts if part not in ("", "."))
        if not path.startswith("/") or ":" in path or "\0" in path or ".." in parts or clean in _TAKEN:
            raise _bad(
                f"{place}.mountPath",
                f"{path!r} must be an absolute path without ':', '..' and NUL, and none of "
                f"{', '.join(_TAKEN)}",
            )
        for other in found:
            if f"{clean}/".startswith(f"{other.path}/") or f"{other.path}/".startswith(f"{clean}/"):
                raise _bad(f"{place}.mountPath", f"{path!r} and {other.path!r} lie in each other")
        found.append(Mount(volume, clean, one.get("readOnly") is True))
    return found


_TAKEN = ("/", "/proc", "/dev", "/sys", "/tmp", "/etc", "/usr", "/bin", "/lib")


def _volumes(raw: Any) -> tuple[tuple[VolumeSpec, ...], dict[str, dict[str, str]]]:
    """-> (volumes, base64 of the files of secret ones)."""
    found: list[VolumeSpec] = []
    files: dict[str, dict[str, str]] = {}
    for at, one in _list(raw, "properties.volumes"):
        where = f"properties.volumes[{at}]"
        given = mapping(one, where)
        name = text(given.get("name"))
        if not _NAME.fullmatch(name):
            raise _bad(f"{where}.name", f"{name!r} must be 1 to 63 of a-z, 0-9 and '-'")
        kinds = [kind for kind in (EMPTY, SECRET, SHARE, "gitRepo") if given.get(kind) is not None]
        if len(kinds) != 1:
            raise _bad(where, f"({name}) must be one of {EMPTY}, {SECRET} and {SHARE}")
        if kinds == ["gitRepo"]:
            raise NotOffered(
                f"{where}.gitRepo is not offered: a node reaches no repository. Upload its files to a "
                f"container of blobs, and use {SHARE}.",
                f"{where}.gitRepo",
            )
        spec, secret = _volume(name, kinds[0], given[kinds[0]], f"{where}.{kinds[0]}")
        found.append(spec)
        if secret:
            files[name] = secret
    _check_distinct([one.name for one in found], "properties.volumes", "volume")
    if sum(len(content) for one in files.values() for content in one.values()) > _MOST_SECRET * 4 // 3:
        raise _bad("properties.volumes", "has more than 1 MiB of secret files")
    return tuple(found), files


def _volume(name: str, kind: str, raw: Any, where: str) -> tuple[VolumeSpec, dict[str, str]]:
    given = mapping(raw, where)
    if kind == EMPTY:
        return VolumeSpec(name, kind), {}
    if kind == SECRET:
        for file, content in given.items():
            if not _FILE.fullmatch(file) or file in (".", ".."):
                raise _bad(where, f"{file!r} is no name of a file: use letters, digits, '_', '.' and '-'")
            try:
                base64.b64decode(text(content), validate=True)
            except (binascii.Error, ValueError):
                raise _bad(f"{where}.{file}", "is no base64") from None
        return VolumeSpec(name, kind, tuple(sorted(given))), {key: text(given[key]) for key in given}
    account, share = text(given.get("storageAccountName")), text(given.get("shareName"))
    if not account or not share:
        raise _bad(
            where, "needs storageAccountName (a workspace's) and shareName (CONTAINER or CONTAINER/FOLDER)"
        )
    if given.get("readOnly") is not True:
        raise NotOffered(
            f"{where} is not offered for writing: there are no shares, only copies of a container of blobs. "
            "Say readOnly: true, or write to an emptyDir and upload from there.",
            f"{where}.readOnly",
        )
    container, _, folder = share.strip("/").partition("/")
    return VolumeSpec(name, kind, (), account, container, f"{folder}/" if folder else ""), {}


def _address(raw: Any, containers: Sequence[ContainerSpec]) -> tuple[tuple[int, ...], str]:
    """-> (ports, label for its name)."""
    if raw is None:
        return (), ""
    given = mapping(raw, "properties.ipAddress")
    where = "properties.ipAddress.ports"
    ports = tuple(_port(one, f"{where}[{at}]") for at, one in _list(given.get("ports"), where))
    there = {port for one in containers for port in one.ports}
    for port in ports:
        if port not in there:
            named = ", ".join(str(one) for one in sorted(there)) or "none"
            raise _bad(where, f"has {port}, which is a port of no container. They have: {named}")
    return ports, text(given.get("dnsNameLabel"))


def _registries(raw: Any) -> dict[str, tuple[str, str]]:
    where = "properties.imageRegistryCredentials"
    found: dict[str, tuple[str, str]] = {}
    for at, one in _list(raw, where):
        given = mapping(one, f"{where}[{at}]")
        server, user = text(given.get("server")), text(given.get("username"))
        if given.get("identity"):
            raise NotOffered(f"{where}[{at}].identity is not offered: give username and password.", where)
        if not server or not user or not text(given.get("password")):
            raise _bad(f"{where}[{at}]", "needs server, username and password")
        found[server.lower()] = (user, text(given.get("password")))
    return found


def _port(raw: Any, where: str) -> int:
    given = mapping(raw, where)
    if text(given.get("protocol")).upper() not in ("", "TCP"):
        raise NotOffered(f"{where}.protocol {given['protocol']!r} is not offered: use TCP.", where)
    found = integer(given.get("port"), 0, f"{where}.port", 1, 65535)
    if not found:
        raise _bad(f"{where}.port", "is missing")
    return found


def _check_ports(containers: Sequence[ContainerSpec]) -> None:
    owner: dict[int, str] = {}
    for one in containers:
        for port in one.ports:
            if owner.setdefault(port, one.name) != one.name:
                raise _bad(
                    "properties.containers",
                    f"has port {port} in {owner[port]!r} and in {one.name!r}, which share one network",
                )


def _check_distinct(names: Sequence[str], where: str, what: str) -> None:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise _bad(where, f"has the {what} {twice!r} twice")


def _items(given: Mapping[str, Any], name: str, below: str = "properties") -> Sequence[tuple[int, Any]]:
    return _list(given.get(name), f"{below}.{name}")


def _list(raw: Any, where: str) -> Sequence[tuple[int, Any]]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise _bad(where, f"must be a list, not {type(raw).__name__}")
    items = cast(list[Any], raw)
    most = _MOST.get(where.rsplit(".", 1)[-1], 1000)
    if len(items) > most:
        raise _bad(where, f"has {len(items)} entries: {most} at most")
    return list(enumerate(items))


def _words(raw: Any, where: str) -> tuple[str, ...]:
    return tuple(_no_nul(text(word), where) for _, word in _list(raw, where))


def _no_nul(value: str, where: str) -> str:
    if "\0" in value:
        raise _bad(where, "has a NUL in it")
    return value


def _number(raw: Any, default: float, where: str, low: float, high: float) -> float:
    if raw is None:
        return default
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise _bad(where, f"must be a number, not {raw!r}")
    try:
        value = float(raw)
    except ValueError:
        raise _bad(where, f"must be a number, not {raw!r}") from None
    if not low <= value <= high:
        raise _bad(where, f"is {value:g}: it must lie between {low:g} and {high:g}")
    return value


def _bad(where: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{where} {what}.", "InvalidContainerGroup", where)
