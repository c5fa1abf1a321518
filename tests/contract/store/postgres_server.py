"""A private PostgreSQL server for tests, from the installed binaries, on a Unix socket of its own."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def find_binaries() -> Path | None:
    """The newest installed server's bin folder."""
    folders = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: int(p.split("/")[4]), reverse=True)
    for folder in folders:
        if Path(folder, "initdb").exists():
            return Path(folder)
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


def _account() -> dict[str, int]:
    """initdb refuses root: who to be instead."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid}
    raise RuntimeError("running as root, and neither 'postgres' nor 'nobody' exists to run the server as")


class Server:
    """A running server. `stop` and `start` keep the data."""

    def __init__(self, binaries: Path, root: Path, account: dict[str, int]) -> None:
        self._binaries = binaries
        self._root = root
        self._account = account
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def initialise(self) -> None:
        command = [self._binaries / "initdb", "-D", self._root / "data", "-U", "tm", "-A", "trust", "-N"]
        # A locale that sorts unlike code points where there is one: the schema must not depend on it.
        self._call([*command, "--locale=C.UTF-8", "-E", "UTF8"])

    def start(self) -> None:
        log = open(self._root / "server.log", "ab")  # noqa: SIM115
        self._process = subprocess.Popen(
            [
                str(self._binaries / "postgres"),
                *("-D", str(self._root / "data"), "-k", str(self._root)),
                *("-c", "listen_addresses=", "-c", "max_connections=40", "-c", "fsync=off"),
            ],
            stdout=log,
            stderr=log,
            cwd=self._root,
            extra_groups=[] if self._account else None,
            **self._account,
        )
        log.close()
        deadline = time.monotonic() + 60
        ready = [self._binaries / "pg_isready", "-q", "-h", self._root, "-U", "tm"]
        while subprocess.run(ready, check=False).returncode != 0:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError((self._root / "server.log").read_text())
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown: clients are cut off
            self._process.wait(60)
            self._process = None

    def new_database(self) -> str:
        """The URL of an empty database."""
        self._databases += 1
        name = f"t{self._databases}"
        self._call([self._binaries / "createdb", "-h", self._root, "-U", "tm", name])
        return f"postgresql://tm@/{name}?host={self._root}"

    def _call(self, command: list[object]) -> None:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            check=False,
            cwd=self._root,
            extra_groups=[] if self._account else None,
            **self._account,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stderr.decode()}")


@contextmanager
def running_server(binaries: Path) -> Iterator[Server]:
    account = _account()
    # Not pytest's folder: that is 0700 root's. Short, because socket paths end at 107 bytes.
    root = Path(tempfile.mkdtemp(prefix="tmpg-", dir="/tmp"))
    try:
        if account:
            os.chown(root, account["user"], account["group"])
        server = Server(binaries, root, account)
        server.initialise()
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(root, ignore_errors=True)
