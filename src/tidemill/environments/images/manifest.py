"""Manifests, indexes and image configurations, as OCI's image spec and Docker's schema 2 have them. Pure."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from tidemill.environments.images.reference import DIGEST

INDEXES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LAYER = re.compile(r"\.tar(?:[.+]\w+)?$")  # encrypted ones end differently
REF_NAME = "org.opencontainers.image.ref.name"
MOST_BYTES = 8 << 20  # of a manifest or a configuration
MOST_LAYERS = 512
# What `uname -m` says -> GOARCH, which images use.
_ARCHITECTURES = {
    "x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x",
    "riscv64": "riscv64", "i686": "386",
}  # fmt: skip


class Broken(ValueError):
    """What was read is no image, or not one for this host. `str()` goes on after "Image X: "."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    digest: str
    size: int
    media_type: str = ""

    @property
    def hex(self) -> str:
        return self.digest.removeprefix("sha256:")


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image of one platform. `size` is that of its layers as they are stored, in bytes."""

    digest: str
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image asks of whoever runs it. Azure ML runs the job's command, never the entry point."""

    env: tuple[tuple[str, str], ...] = ()
    working_dir: str = ""
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()


def digest_of(raw: bytes) -> str:
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def host_architecture() -> str:
    machine = platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def read_manifest(raw: bytes, architecture: str) -> Manifest | Descriptor:
    """A manifest, or of an index the descriptor of the one for linux/`architecture`. Raises Broken."""
    body = _object(raw, "manifest")
    kind = str(body.get("mediaType") or (INDEXES[0] if "manifests" in body else MANIFESTS[0]))
    if kind in INDEXES:
        return choose(body, architecture)
    if kind not in MANIFESTS or body.get("schemaVersion") != 2:
        raise Broken(
            f"its manifest is of a kind that is not read here ({kind}, schema {body.get('schemaVersion')})"
        )
    layers = tuple(_descriptor(item, "layer") for item in _list(body, "layers"))
    if len(layers) > MOST_LAYERS:
        raise Broken(f"it has {len(layers)} layers, more than {MOST_LAYERS}")
    for layer in layers:
        if not _LAYER.search(layer.media_type):
            raise Broken(f"layer {layer.digest[:19]} is no archive of files ({layer.media_type})")
    return Manifest(digest_of(raw), _descriptor(body.get("config"), "config"), layers)


def choose(index: Mapping[str, Any], architecture: str) -> Descriptor:
    """The entry for linux/`architecture`; of several the first, as Docker takes it. Raises Broken."""
    there: list[str] = []
    for item in _list(index, "manifests"):
        entry = _mapping(item, "an entry of the index")
        where = _mapping(entry.get("platform") or {}, "platform")
        os_name, arch = str(where.get("os", "linux")), str(where.get("architecture", architecture))
        if os_name == "linux" and arch == architecture:
            return _descriptor(entry, "entry of the index")
        if os_name != "unknown":  # attestations
            there.append(f"{os_name}/{arch}")
    raise Broken(f"there is none for linux/{architecture}, only for {', '.join(there) or 'nothing'}")


def in_layout(raw: bytes, tag: str, architecture: str) -> Descriptor:
    """The entry of an OCI layout's index.json: the one with that name, or the only one. Raises Broken."""
    entries = [
        _mapping(item, "an entry of index.json") for item in _list(_object(raw, "index.json"), "manifests")
    ]
    named = {str(_mapping(e.get("annotations") or {}, "annotations").get(REF_NAME, "")): e for e in entries}
    if tag:
        if tag not in named:
            raise Broken(
                f"the layout has no {tag!r}: it has {', '.join(sorted(filter(None, named))) or 'no names'}"
            )
        return _descriptor(named[tag], "entry of index.json")
    if len(entries) == 1:
        return _descriptor(entries[0], "entry of index.json")
    names = sorted(filter(None, named))
    if len(names) > 1 or not entries:
        raise Broken(
            f"the layout has {len(entries)} images: name one of them, oci:/path:TAG ({', '.join(names)})"
        )
    return choose({"manifests": entries}, architecture)


def read_config(raw: bytes, architecture: str) -> ImageConfig:
    """Raises Broken, also for an image of another platform."""
    body = _object(raw, "configuration")
    os_name, arch = body.get("os") or "linux", body.get("architecture") or architecture
    if (os_name, arch) != ("linux", architecture):
        raise Broken(f"it is for {os_name}/{arch}, and this host is linux/{architecture}")
    config = _mapping(body.get("config") or {}, "config")
    env = [str(line).partition("=") for line in _list(config, "Env")]
    return ImageConfig(
        tuple((name, value) for name, _, value in env if name and "\0" not in value),
        str(config.get("WorkingDir") or ""),
        str(config.get("User") or ""),
        tuple(str(word) for word in _list(config, "Entrypoint")),
        tuple(str(word) for word in _list(config, "Cmd")),
    )


def _descriptor(value: Any, what: str) -> Descriptor:
    found = _mapping(value, what)
    digest, size = found.get("digest"), found.get("size")
    if not isinstance(digest, str) or not DIGEST.fullmatch(digest):
        raise Broken(f"a {what} has no sha256 digest ({digest!r})")
    if not isinstance(size, int) or size < 0:
        raise Broken(f"{what} {digest[:19]} has no size")
    return Descriptor(digest, size, str(found.get("mediaType", "")))


def _object(raw: bytes, what: str) -> Mapping[str, Any]:
    if len(raw) > MOST_BYTES:
        raise Broken(f"its {what} is larger than {MOST_BYTES >> 20} MiB")
    try:
        return _mapping(json.loads(raw), what)
    except (ValueError, RecursionError) as error:
        raise Broken(f"its {what} is not JSON ({error})") from None


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Broken(f"{what} is no object")
    return cast("Mapping[str, Any]", value)


def _list(body: Mapping[str, Any], key: str) -> list[Any]:
    value = body.get(key) or []
    if not isinstance(value, list):
        raise Broken(f"{key} is no list")
    return cast("list[Any]", value)
