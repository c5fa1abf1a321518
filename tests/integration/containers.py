"""podman and runc from Debian's packages, with a storage of their own and no network."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from imagemaker import need as need_programs
from jobserver import until

from hostcan import need

# Asked inside the container's own network, which has a loopback and nothing else.
_ASK = (
    "import sys, urllib.request as r\n"
    "try:\n"
    "    print(r.urlopen(r.Request('http://127.0.0.1:5001' + sys.argv[1], sys.argv[2].encode() or None),"
    " timeout=50).read().decode())\n"
    "except OSError as error:\n"
    "    sys.exit(str(error))\n"
)


def ask(pid: int, path: str, body: str = "") -> str | None:
    """None: it does not answer yet."""
    argv = ["nsenter", "-t", str(pid), "-n", sys.executable, "-c", _ASK, path, body]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    return done.stdout.strip() if done.returncode == 0 else None


def scored(pid: int, body: str, log: Callable[[], str]) -> Any:
    """What a container answers once it is ready. `log`: what it said, for a failure."""
    try:
        until(lambda: ask(pid, "/") is not None, what="an answer")
    except AssertionError as error:
        raise AssertionError(f"{error}: {log()}") from None
    return json.loads(ask(pid, "/score", body) or "null")


class Podman:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._containers: list[str] = []

    def __call__(self, *words: str, check: bool = True) -> str:
        done = subprocess.run(self._argv(*words), capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, done.stderr
        return done.stdout.strip()

    def _argv(self, *words: str) -> list[str]:
        argv = ["podman", "--root", f"{self._folder}/root", "--runroot", f"{self._folder}/run"]
        argv += ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
        return [*argv, "--runtime", shutil.which("runc") or "runc", *words]

    def start(self, image: str) -> int:
        """-> the process in it. Limits of this host, since podman asks for more than it may give."""
        limits = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")
        self._containers.append(self("run", "-d", *limits, "--network", "none", image))
        return int(self("inspect", "-f", "{{.State.Pid}}", self._containers[-1]))

    def logs(self) -> str:
        argv = ["sh", "-c", 'exec "$@" 2>&1', "sh", *self._argv("logs", self._containers[-1])]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout

    def run(self, *words: str) -> str:
        """In the container that was started last."""
        return self("exec", self._containers[-1], *words)

    def end(self) -> None:
        for name in self._containers:
            self("rm", "-f", "-t", "5", name, check=False)
        self("rmi", "-a", "-f", check=False)


@contextlib.contextmanager
def podman() -> Iterator[Podman]:
    """Skips, or fails where CI=true, with the reason."""
    if os.geteuid() != 0:
        need("needs root: podman with runc, whose containers need control groups")
    need_programs("podman", "runc", "nsenter")
    with tempfile.TemporaryDirectory(prefix="tidemill-podman-") as folder:
        made = Podman(Path(folder))
        try:
            yield made
        finally:
            made.end()
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def runc(layout: Path, folder: Path) -> Iterator[int]:
    """Of a layout that is unpacked by tar alone and run by runc alone -> the process in it."""
    if os.geteuid() != 0:
        need("needs root: runc, whose containers need control groups")
    need_programs("runc", "nsenter")
    config = _unpack(layout, folder / "rootfs")
    subprocess.run(["runc", "spec"], cwd=folder, check=True, timeout=30)
    spec = json.loads((folder / "config.json").read_bytes())
    user = [int(part) for part in config["User"].split(":")]
    spec["process"] |= {
        "terminal": False,
        "args": config["Entrypoint"],
        "env": config["Env"],
        "cwd": config["WorkingDir"],
        "user": {"uid": user[0], "gid": user[1]},
        "rlimits": [],
    }
    (folder / "config.json").write_text(json.dumps(spec))
    name, pid_file = f"tidemill-test-{os.getpid()}", folder / "pid"
    with (folder / "log").open("wb") as log:
        argv = ["runc", "--root", f"{folder}/state", "run", "-d", "--pid-file", str(pid_file), name]
        subprocess.run(
            argv, cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=60
        )
    try:
        yield int(pid_file.read_text())
    finally:
        subprocess.run(["runc", "--root", f"{folder}/state", "delete", "-f", name], check=True, timeout=60)


def _unpack(layout: Path, root: Path) -> dict[str, Any]:
    """-> the image's config."""

    def blob(digest: str) -> Path:
        return layout / "blobs" / "sha256" / digest.removeprefix("sha256:")

    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    manifest = json.loads(blob(entry["digest"]).read_bytes())
    for layer in manifest["layers"]:
        with gzip.open(blob(layer["digest"])) as file, tarfile.open(fileobj=file) as tar:
            tar.extractall(root, numeric_owner=True, filter="fully_trusted")
    return json.loads(blob(manifest["config"]["digest"]).read_bytes())["config"]
