"""What benchmarks share: a scratch server, a small HTTP client on one kept connection, a table."""

from __future__ import annotations

import http.client
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tidemill.sandbox import disk
from tidemill.server import launch


@dataclass(frozen=True, slots=True)
class Server:
    home: Path
    state: dict[str, Any]
    token: str

    @property
    def netloc(self) -> str:
        return urlsplit(self.state["addresses"]["http"]).netloc

    @property
    def workspace(self) -> str:
        where = self.state["workspace"]
        return (
            f"/subscriptions/{where['subscription']}/resourceGroups/{where['group']}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{where['name']}"
        )

    def cpu_seconds(self) -> float:
        """CPU time of the control process, its ended children excluded."""
        return process_cpu_seconds(self.state["pid"])


def process_cpu_seconds(pid: int) -> float:
    """User and system time of a process and all its threads, without its children."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running_server(**options: Any) -> Iterator[Server]:
    """A server in a scratch home on free ports, stopped at the end, its agents too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        home = Path(folder) / "home"
        try:
            launch.up(home, https_port=0, http_port=0, data_port=0, detach=True, **options)
            yield attached(home)
        finally:
            launch.down(home)
            _end_agents(home)


def attached(home: Path) -> Server:
    """The server that runs on `home`."""
    return Server(home, launch.status(home), token_of(home))


def _end_agents(home: Path) -> None:
    """Agents outlive their server; here nobody comes back for them."""
    nodes = f"{home}/nodes/".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if any(word.startswith(nodes) for word in (process / "cmdline").read_bytes().split(b"\0")):
                os.kill(int(process.name), signal.SIGKILL)
    for work in (home / "nodes").glob("*/work"):
        disk.detach(str(work))


def token_of(home: Path) -> str:
    """The owner's token, got as the SDK gets it."""
    env = launch.variables(home)
    endpoint = urlsplit(env["IDENTITY_ENDPOINT"])
    connection = http.client.HTTPConnection(endpoint.netloc)
    connection.request(
        "GET",
        f"{endpoint.path}?api-version=2019-08-01&resource=https://management.azure.com/",
        headers={"X-IDENTITY-HEADER": env["IDENTITY_HEADER"]},
    )
    return str(json.loads(connection.getresponse().read())["access_token"])


class Client:
    """ARM and native calls on one kept connection."""

    def __init__(self, server: Server, netloc: str = "") -> None:
        self.server = server
        self._connection = http.client.HTTPConnection(netloc or server.netloc)
        self._headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = self.fetch(path, method, None if body is None else json.dumps(body).encode())
        return json.loads(data) if data else None

    def fetch(self, path: str, method: str = "GET", body: bytes | None = None) -> bytes:
        """The bytes of the answer; SystemExit with it when it is an error."""
        self._connection.request(method, path, body, self._headers)
        reply = self._connection.getresponse()
        data = reply.read()
        if reply.status >= 400:
            raise SystemExit(f"{method} {path}: {reply.status} {data.decode()}")
        return data

    def submit(self, name: str, command: str, **properties: Any) -> None:
        body = {"properties": {"jobType": "Command", "command": command, **properties}}
        self.call("PUT", f"{self.server.workspace}/jobs/{name}?api-version=2024-01-01", body)

    def submit_all(self, names: Sequence[str], command: str, clients: int = 4, **properties: Any) -> None:
        def part(mine: Sequence[str]) -> None:
            client = Client(self.server)
            for name in mine:
                client.submit(name, command, **properties)

        threads = [threading.Thread(target=part, args=(names[i::clients],)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def wait(self, name: str) -> dict[str, Any]:
        return self.call("GET", f"/api/v1{self.server.workspace}/jobs/{name}/wait?timeout=60")

    def unfinished(self) -> int:
        status = self.call("GET", "/api/v1/status")
        return int(status["queued"]) + int(status["running"])

    def states(self, names: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        after = ""
        while True:
            page = self.call("GET", f"/api/v1{self.server.workspace}/jobs?limit=1000&after={after}")
            found |= {job["name"]: job["status"] for job in page["value"]}
            if not page["next"]:
                return {name: found.get(name, "absent") for name in names}
            after = page["next"]


@dataclass(slots=True)
class Table:
    """Cells are text; a float is a ratio, a bool says whether a target is met, None leaves it empty."""

    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list[list[str]])
    missed: int = 0

    def add(self, *cells: str | float | bool | None) -> None:
        self.missed += sum(cell is False for cell in cells)
        self.rows.append([_cell(cell) for cell in cells])

    def show(self) -> None:
        rows = [list(self.columns), *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        print(f"\n{self.title}")
        for row in [rows[0], ["-" * width for width in widths], *self.rows]:
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  " + "  ".join(cells).rstrip(), flush=True)


def _cell(value: str | float | bool | None) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "NO"
        case float():
            return f"{value:.2f}x"
        case _:
            return str(value)
