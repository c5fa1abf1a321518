"""What the `image` of an environment says: a registry's image, or one in a file. Pure.

The grammar of registry references is the distribution project's (`[host[:port]/]path[:tag][@digest]`, with
Docker Hub's short names); of local ones that of containers-transports(5).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from tidemill.domain.errors import InvalidRequest

HUB = "docker.io"
LOCAL = ("oci", "oci-archive", "docker-archive")
PACKAGE = "package"  # of a model: package://[WORKSPACE/]NAME:VERSION
TARGET = "properties.image"

_HOST = re.compile(
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?)(?:\.[A-Za-z0-9](?:[A-Za-z0-9-]*))*(?::\d{1,5})?"
)
_BRACKETED = re.compile(r"\[[0-9a-fA-F:.]+\](?::\d{1,5})?")
_PART = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}")  # an asset's name or version
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_LOOPBACK = re.compile(r"(?:localhost|127(?:\.\d{1,3}){3}|\[::1\])(?::\d+)?")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """`transport` is "docker" (a registry), one of LOCAL, or PACKAGE. Of a registry's: `registry`,
    `repository`, and `tag` or `digest` (the digest wins where both are given). Of a local one: `path`, and
    perhaps `tag`. Of a package: `repository` and `tag`, its name and version; `registry`, its workspace
    where that is named."""

    written: str
    transport: str = "docker"
    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    path: str = ""

    @property
    def local(self) -> bool:
        return self.transport != "docker"

    @property
    def loopback(self) -> bool:
        """Whether its registry is on this host: spoken to without TLS where it has none, as Docker does."""
        return bool(_LOOPBACK.fullmatch(self.registry))

    @property
    def name(self) -> str:
        """The canonical form without a tag: `docker.io/library/python`, `oci:/images/trainer`."""
        if self.transport == PACKAGE:
            workspace = f"{self.registry}/" if self.registry else ""
            return f"{PACKAGE}://{workspace}{self.repository}"
        return f"{self.transport}:{self.path}" if self.local else f"{self.registry}/{self.repository}"

    @property
    def canonical(self) -> str:
        """One spelling for what means the same: the key under which an image is known."""
        if self.digest:
            return f"{self.name}@{self.digest}"
        return f"{self.name}:{self.tag}" if self.tag else self.name

    @property
    def source(self) -> str:
        """For skopeo."""
        return self.canonical if self.local else f"docker://{self.canonical}"

    def at(self, digest: str) -> ImageReference:
        return replace(self, digest=digest, tag="")


def parse_reference(text: str) -> ImageReference:
    """Raises InvalidRequest naming the part that cannot be read, and how it is written."""
    written = text.strip()
    transport, _, rest = written.partition(":")
    if transport in LOCAL:
        return _local(written, transport, rest)
    if rest.startswith("//") and transport == PACKAGE:
        return _package(written, rest[2:])
    return _registry(written, written.removeprefix("docker://"))


def _local(written: str, transport: str, rest: str) -> ImageReference:
    path, _, tag = rest.partition(":")
    if not path.startswith("/"):
        raise _invalid(written, f"its path {path!r} is not absolute: write {transport}:/folder/image")
    if ".." in path.split("/") or "\0" in path:
        raise _invalid(written, f"its path {path!r} has a '..' in it")
    if tag and not all(_TAG.fullmatch(part) or _PART.fullmatch(part) for part in re.split("[/:]", tag)):
        raise _invalid(written, f"{tag!r} is no tag")
    clean = "/" + "/".join(part for part in path.split("/") if part not in ("", "."))
    return ImageReference(written, transport, path=clean, tag=tag)


def _package(written: str, rest: str) -> ImageReference:
    workspace, slash, named = rest.rpartition("/")
    name, _, version = named.partition(":")
    parts = [name, version, *([workspace] if slash else [])]
    if not all(_PACKAGE.fullmatch(part) for part in parts):
        raise _invalid(written, f"it names no package: write {PACKAGE}://NAME:VERSION")
    return ImageReference(written, PACKAGE, workspace, repository=name, tag=version)


def _registry(written: str, text: str) -> ImageReference:
    name, at, digest = text.partition("@")
    if at and not DIGEST.fullmatch(digest):
        raise _invalid(written, f"{digest!r} is no digest: write sha256: and 64 hexadecimal digits")
    registry, repository = _split_host(name)
    tag = ""
    if ":" in repository:
        repository, _, tag = repository.rpartition(":")
        if not _TAG.fullmatch(tag):
            raise _invalid(written, f"{tag!r} is no tag: letters, digits, '_', '.', '-', at most 128")
    for part in repository.split("/"):
        if not _PART.fullmatch(part):
            hint = f": write {part.lower()!r}" if _PART.fullmatch(part.lower()) else ""
            raise _invalid(written, f"{part!r} is no part of a repository's name{hint}")
    if registry == HUB and "/" not in repository:
        repository = f"library/{repository}"
    return ImageReference(
        written, "docker", registry, repository, "" if digest else tag or "latest", digest
    )  # fmt: skip


def _split_host(name: str) -> tuple[str, str]:
    """The first part is a host only if it could be none of Docker Hub's names."""
    first, slash, rest = name.partition("/")
    host = first == "localhost" or "." in first or ":" in first
    if not slash or not host:
        return HUB, name
    if not (_HOST.fullmatch(first) or _BRACKETED.fullmatch(first)):
        raise _invalid(name, f"{first!r} is no registry: write host/name or host:port/name")
    return (HUB if first == "index.docker.io" else first), rest


def _invalid(written: str, why: str) -> InvalidRequest:
    return InvalidRequest(
        f"Image {written!r} cannot be read: {why}. Forms: name:tag, host:port/name:tag, name@sha256:…, "
        "oci:/path[:tag], oci-archive:/path.tar[:tag], docker-archive:/path.tar[:name:tag], "
        "package://[workspace/]name:version.",
        "InvalidImage",
        TARGET,
    )
