"""Small images made by hand, and a registry of our own on the loopback."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jobserver import until

from tidemill.environments.process import uv_program

ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
USER, PASSWORD = "tide", "moon-and-sun"
# bcrypt of PASSWORD: the registry takes no other hash.
HTPASSWD = f"{USER}:$2b$05$WW6IojaUKUXRgZo63XLclOhKnugTVt/E7dCxSy2v3TM1AzolCwCRW\n"


def need(*programs: str) -> None:
    """Skips, or fails where CI=true, naming what is missing."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        message = f"not installed: {', '.join(missing)} (tests/system-packages.sh installs it)"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)


class Layer:
    """A tar layer, filled by hand. Names are as they are given."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._buffer, mode="w")  # noqa: SIM115

    def file(self, name: str, data: bytes | str = b"", mode: int = 0o644) -> Layer:
        raw = data.encode() if isinstance(data, str) else data
        info = tarfile.TarInfo(name)
        info.size, info.mode = len(raw), mode
        self._tar.addfile(info, io.BytesIO(raw))
        return self

    def link(self, name: str, target: str) -> Layer:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, target
        self._tar.addfile(info)
        return self

    def tree(self, source: Path, name: str, leave_out: Sequence[str] = ()) -> Layer:
        """A folder or file of this host; what a link names, not the link, if `source` is one."""

        def chosen(info: tarfile.TarInfo) -> tarfile.TarInfo | None:
            return None if any(part in leave_out for part in info.name.split("/")) else info

        self._tar.add(source.resolve(), name, filter=chosen)
        return self

    def raw(self) -> bytes:
        self._tar.close()
        return self._buffer.getvalue()


class Layout:
    """An OCI image layout at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs" / "sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self._entries: list[dict[str, Any]] = []

    def add(
        self,
        layers: Sequence[Layer | bytes],
        tag: str = "latest",
        config: Mapping[str, Any] | None = None,
        architecture: str = ARCHITECTURE,
    ) -> str:
        """-> the digest of its manifest."""
        raws = [layer.raw() if isinstance(layer, Layer) else layer for layer in layers]
        packed = [self._blob(gzip.compress(raw, 1), "layer.v1.tar+gzip") for raw in raws]
        body = {
            "architecture": architecture,
            "os": "linux",
            "config": dict(config or {}),
            "rootfs": {
                "type": "layers",
                "diff_ids": [f"sha256:{hashlib.sha256(r).hexdigest()}" for r in raws],
            },
        }
        described = self._blob(json.dumps(body).encode(), "config.v1+json")
        manifest = {"schemaVersion": 2, "mediaType": described["mediaType"].replace("config", "manifest")}
        entry = self._blob(
            json.dumps({**manifest, "config": described, "layers": packed}).encode(), "manifest.v1+json"
        )
        self.name(entry, tag)
        return str(entry["digest"])

    def name(self, entry: Mapping[str, Any], tag: str) -> None:
        self._entries.append({**entry, "annotations": {"org.opencontainers.image.ref.name": tag}})
        index = {"schemaVersion": 2, "manifests": self._entries}
        (self.path / "index.json").write_text(json.dumps(index))

    def index(self, digests: Mapping[str, str], tag: str) -> str:
        """An index of manifests by architecture, under a tag of its own -> its digest."""
        manifests = [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": self.blob(digest).stat().st_size,
                "platform": {"os": "linux", "architecture": architecture},
            }
            for architecture, digest in digests.items()
        ]
        kind = "application/vnd.oci.image.index.v1+json"
        raw = json.dumps({"schemaVersion": 2, "mediaType": kind, "manifests": manifests}).encode()
        entry = self._blob(raw, "index.v1+json")
        self.name(entry, tag)
        return str(entry["digest"])

    def blob(self, digest: str) -> Path:
        return self.path / "blobs" / "sha256" / digest.removeprefix("sha256:")

    def _blob(self, raw: bytes, kind: str) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
        self.blob(digest).write_bytes(raw)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": digest, "size": len(raw)}


def busybox(*commands: str) -> Layer:
    """A small image that can run a shell: Debian's static busybox under the names of `commands`."""
    need("busybox")
    program = Path(str(shutil.which("busybox"))).read_bytes()
    layer = Layer().file("bin/busybox", program, 0o755)
    for name in (
        "sh",
        "cat",
        "ls",
        "id",
        "env",
        "echo",
        "mkdir",
        "sleep",
        "wget",
        "pwd",
        "realpath",
        "dirname",
        *commands,
    ):
        layer.link(f"bin/{name}", "busybox")
    return layer


PYTHON_ENV = ("PATH=/opt/python/bin:/bin", "LD_LIBRARY_PATH=/opt/python/lib")


def with_python() -> Layer:
    """A glibc image with this interpreter's Python below /opt/python, and the libraries that it and uv need.
    It is run with PYTHON_ENV."""
    need("ldd", "busybox")
    prefix = Path(sys.base_prefix)
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    layer = busybox().tree(prefix / "bin" / f"python{version}", f"opt/python/bin/python{version}")
    layer.link("opt/python/bin/python", f"python{version}").link("opt/python/bin/python3", f"python{version}")
    library = prefix / "lib" / f"python{version}"
    left_out = (
        "site-packages",
        "dist-packages",
        "test",
        "tests",
        "idlelib",
        "tkinter",
        "__pycache__",
        "lib2to3",
    )
    layer.tree(library, f"opt/python/lib/python{version}", (*left_out, *_config(library)))
    objects = [prefix / "bin" / f"python{version}", *library.glob("lib-dynload/*.so"), Path(uv_program())]
    for path in sorted(_libraries(objects)):
        if path.is_relative_to(prefix):
            layer.tree(path, f"opt/python/lib/{path.name}")
        else:
            layer.tree(path, str(path).lstrip("/"))
    return layer


def _config(library: Path) -> list[str]:
    return [path.name for path in library.glob("config-*")]


def _libraries(objects: Sequence[Path]) -> set[Path]:
    text = subprocess.run(["ldd", *map(str, objects)], capture_output=True, text=True, timeout=60).stdout
    return {Path(match) for match in re.findall(r"(/\S+\.so\S*)(?= \(0x)", text)}


@contextmanager
def registry(folder: Path, *, login: bool = False) -> Iterator[str]:
    """docker-registry on a free port of the loopback -> "127.0.0.1:PORT"."""
    need("docker-registry", "skopeo")
    folder.mkdir(parents=True)
    settings: dict[str, Any] = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(folder / "data")}, "delete": {"enabled": True}},
        "http": {"addr": "127.0.0.1:0"},
        "log": {"accesslog": {"disabled": True}, "level": "info"},
    }
    if login:
        (folder / "htpasswd").write_text(HTPASSWD)
        settings["auth"] = {"htpasswd": {"realm": "tests", "path": str(folder / "htpasswd")}}
    (folder / "config.yml").write_text(json.dumps(settings))  # JSON is YAML
    log = folder / "log"
    with log.open("wb") as errors:  # a pipe that nobody reads would stop it in the end
        argv = ["docker-registry", "serve", str(folder / "config.yml")]
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        yield until(lambda: _listening(process, log), what="the start of docker-registry")
    finally:
        process.kill()
        process.wait(10)


def _listening(process: subprocess.Popen[bytes], log: Path) -> str:
    assert process.poll() is None, log.read_text()
    found = re.search(r"listening on (127\.0\.0\.1:\d+)", log.read_text())
    return found[1] if found else ""


def push(layout: Layout, tag: str, to: str, login: bool = False) -> None:
    argv = ["skopeo", "--insecure-policy", "copy", "-q", "--all", "--dest-tls-verify=false"]
    argv += ["--dest-creds", f"{USER}:{PASSWORD}"] if login else []
    subprocess.run([*argv, f"oci:{layout.path}:{tag}", f"docker://{to}"], check=True, timeout=60)
