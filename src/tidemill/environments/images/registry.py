"""Images fetched by skopeo: from registries, and out of archives.

Credentials are never in an argument: skopeo reads them from a file of 0600 in a private folder that is gone
when it ends. Its HOME is that folder, so that it finds none of the server owner's own logins.
"""

from __future__ import annotations

import base64
import difflib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tidemill.domain.errors import InvalidRequest, OutOfSpace, TidemillError
from tidemill.environments.images.reference import TARGET, ImageReference
from tidemill.environments.process import capture, run

LOGIN = ".login-"  # prefix of the private folders
ANSWER_S = 60  # for a registry to say what a tag is
_POLICY = "/etc/containers/policy.json"
_KEPT = (
    "PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)  # fmt: skip
_MESSAGE = re.compile(r'msg="((?:[^"\\]|\\.)*)"')
_MISSING = ("manifest unknown", "name unknown", "not found", "MANIFEST_UNKNOWN", "NAME_UNKNOWN")
_REFUSED = (
    "unauthorized", "authentication required", "access to the resource is denied", "denied", "forbidden",
    "invalid username/password",
)  # fmt: skip
_UNREACHABLE = (
    "connection refused", "no such host", "i/o timeout", "deadline exceeded", "network is unreachable",
    "no route to host", "connection reset", "Temporary failure", "server misbehaving", "handshake timeout",
    "connection timed out", "signal: killed",
)  # fmt: skip


class Unreachable(TidemillError):
    """503: the registry does not answer. What was fetched before can still be used."""


@dataclass(frozen=True, slots=True)
class Login:
    """What a registry wants. `connection`: where it comes from, for sentences."""

    connection: str
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class _Private:
    """What one run of skopeo is given, from the folder of its own."""

    folder: str
    image: ImageReference
    insecure: bool

    def options(self, seconds: int = 0) -> list[str]:
        policy = [] if os.path.exists(_POLICY) else ["--insecure-policy"]
        limit = [f"--command-timeout={seconds}s"] if seconds else []
        return [*policy, *limit, f"--tmpdir={self.folder}"]

    def access(self, prefix: str = "") -> list[str]:
        if self.image.local:
            return []
        plain = [f"--{prefix}tls-verify=false"] if self.insecure else []
        return [f"--{prefix}authfile={self.folder}/auth.json", *plain]

    @property
    def env(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        here = dict.fromkeys(("HOME", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"), self.folder)
        return {**kept, **here, "LC_ALL": "C"}


class Skopeo:
    """`insecure`: registries that are spoken to without TLS if they have none, besides those on this host."""

    def __init__(self, work: Path, insecure: Collection[str] = ()) -> None:
        self._work = work
        self._insecure = frozenset(insecure)

    async def manifest(self, image: ImageReference, login: Login | None) -> bytes:
        """What its tag or digest names: a manifest or an index, as it is stored."""
        program = require(image)
        with self._private(image, login) as private:
            argv = [program, *private.options(ANSWER_S), "inspect", "--raw", *private.access(), image.source]
            code, output, errors = await capture(argv, env=private.env, cwd=self._work)
        if code != 0:
            raise await self._failure(errors, image, login)
        return output

    async def copy(
        self, image: ImageReference, login: Login | None, target: Path, held: Sequence[int] = ()
    ) -> None:
        """Manifest and blobs into the folder `target`, as they are stored: `manifest.json`, and each blob
        under its digest's hexadecimal digits."""
        program = require(image)
        with self._private(image, login) as private:
            argv = [program, *private.options(), "copy", "--quiet", *private.access("src-")]
            argv += [image.source, f"dir:{target}"]
            code, output = await run(argv, env=private.env, cwd=self._work, log=_silent, held=held)
        if code != 0:
            raise await self._failure(output, image, login)

    async def _tags(self, image: ImageReference, login: Login | None) -> list[str]:
        """Those that the registry tells of."""
        with self._private(image, login) as private:
            argv = [require(image), *private.options(ANSWER_S), "list-tags", *private.access()]
            argv.append(f"docker://{image.name}")
            code, output, _ = await capture(argv, env=private.env, cwd=self._work)
        try:
            return [str(tag) for tag in json.loads(output)["Tags"]] if code == 0 else []
        except (ValueError, KeyError, TypeError):
            return []

    @contextmanager
    def _private(self, image: ImageReference, login: Login | None) -> Iterator[_Private]:
        self._work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=LOGIN, dir=self._work) as folder:  # 0700
            handle = os.open(f"{folder}/auth.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(handle, "w", encoding="utf-8") as file:
                json.dump({"auths": _auths(image.registry, login)}, file)
            yield _Private(folder, image, image.loopback or image.registry in self._insecure)

    async def _failure(self, output: str, image: ImageReference, login: Login | None) -> TidemillError:
        reason = _reason(output)
        if "no space left on device" in reason:
            return out_of_space(image)
        if image.local:
            return _error("InvalidImage", f"Image {image.written!r} cannot be read: {reason}")
        where = f"registry {image.registry}"
        if any(sign in reason for sign in _UNREACHABLE):
            return Unreachable(
                f"Image {image.written!r}: the {where} cannot be reached: {reason}",
                "RegistryUnreachable",
                TARGET,
                status=503,
            )
        if any(sign in reason for sign in _REFUSED):
            return _error("RegistryUnauthorized", _refused(image, login, reason))
        if any(sign in reason for sign in _MISSING):
            tags = await self._tags(image, login) if not image.digest else []
            return _error(
                "ImageNotFound", f"Image {image.written!r} is not in the {where}{_near(image, tags)}"
            )
        if "HTTP response to HTTPS client" in reason:
            fix = f'no TLS there: add "{image.registry}" to insecure_registries in config.json to allow it.'
            return _error("RegistryInsecure", f"Image {image.written!r}: the {where}: {fix}")
        if "x509" in reason or "certificate" in reason:
            fix = (
                f"its certificate is not trusted; its CA goes into /etc/containers/certs.d/{image.registry}/."
            )
            return _error("RegistryUntrusted", f"Image {image.written!r}: the {where}: {fix} ({reason})")
        return _error(
            "ImagePullFailed", f"Image {image.written!r} could not be fetched from the {where}: {reason}"
        )


def require(image: ImageReference) -> str:
    """The path of skopeo. Raises InvalidRequest saying how to have it."""
    program = shutil.which("skopeo")
    if program is None:
        place = "is an archive" if image.local else f"lies in the registry {image.registry}"
        raise _error(
            "SkopeoMissing",
            f"Image {image.written!r} {place}, and this server's host has no skopeo, which reads those. "
            "Install it (apt install skopeo, dnf install skopeo), or give the image as an OCI layout "
            "(oci:/path), or let the host stand in for images (tidemill up --images prefer-host).",
        )
    return program


def out_of_space(image: ImageReference) -> OutOfSpace:
    return OutOfSpace(
        f"No space left on the disk of this home for image {image.written!r}; nothing of it was kept. "
        "Free space and submit again."
    )


def _reason(output: str) -> str:
    """The last thing skopeo complained about, without its log's frame."""
    found = _MESSAGE.findall(output)
    return found[-1].replace('\\"', '"') if found else " ".join(output.split())[-400:]


def _auths(registry: str, login: Login | None) -> dict[str, dict[str, str]]:
    if login is None:
        return {}
    pair = f"{login.username}:{login.password}".encode()
    return {registry: {"auth": base64.b64encode(pair).decode()}}


def _refused(image: ImageReference, login: Login | None, reason: str) -> str:
    if login is None:
        fix = (
            "It wants credentials, or has no such image, and the workspace has no connection to it: "
            f"create one of category ContainerRegistry with target {image.registry}."
        )
    else:
        fix = (
            f"It refuses the credentials of connection {login.connection!r}, or does not let them read this."
        )
    return f"Image {image.written!r}: the registry {image.registry} says no. {fix} ({reason})"


def _near(image: ImageReference, tags: list[str]) -> str:
    if not tags:
        return "."
    close = difflib.get_close_matches(image.tag, tags, 3, 0.5)
    listed = sorted(tags)[-10:]
    hint = f" Did you mean {' or '.join(close)}?" if close else ""
    more = f" (of {len(tags)})" if len(tags) > len(listed) else ""
    return f".{hint} Its tags: {', '.join(listed)}{more}."


def _error(code: str, message: str) -> InvalidRequest:
    return InvalidRequest(message, code, TARGET)


def _silent(_: str) -> None: ...
