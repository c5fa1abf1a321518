"""What benchmarks share: a scratch server, a small HTTP client on one kept connection, a table."""

from __future__ import annotations

import http.client
import json
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
        fields = Path(f"/proc/{self.state['pid']}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running_server(**options: Any) -> Iterator[Server]:
    """A server in a scratch home on free ports, stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="tidemill-bench-") as folder:
        home = Path(folder) / "home"
        state = launch.up(home, https_port=0, http_port=0, data_port=0, detach=True, **options)
        try:
            yield Server(home, state, _token(launch.variables(home)))
        finally:
            launch.down(home)


def _token(env: dict[str, str]) -> str:
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

    def __init__(self, server: Server) -> None:
        self._server = server
        self._connection = http.client.HTTPConnection(server.netloc)
        self._headers = {"Authorization": f"Bearer {server.token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: Any = None) -> Any:
        raw = None if body is None else json.dumps(body)
        self._connection.request(method, path, raw, self._headers)
        reply = self._connection.getresponse()
        data = reply.read()
        if reply.status >= 400:
            raise SystemExit(f"{method} {path}: {reply.status} {data.decode()}")
        return json.loads(data) if data else None

    def submit(self, name: str, command: str, **properties: Any) -> None:
        body = {"properties": {"jobType": "Command", "command": command, **properties}}
        self.call("PUT", f"{self._server.workspace}/jobs/{name}?api-version=2024-01-01", body)

    def submit_all(self, names: Sequence[str], command: str, clients: int = 4) -> None:
        def part(mine: Sequence[str]) -> None:
            client = Client(self._server)
            for name in mine:
                client.submit(name, command)

        threads = [threading.Thread(target=part, args=(names[i::clients],)) for i in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def wait(self, name: str) -> dict[str, Any]:
        return self.call("GET", f"/api/v1{self._server.workspace}/jobs/{name}/wait?timeout=60")

    def unfinished(self) -> int:
        status = self.call("GET", "/api/v1/status")
        return int(status["queued"]) + int(status["running"])

    def states(self, names: Sequence[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        after = ""
        while True:
            page = self.call("GET", f"/api/v1{self._server.workspace}/jobs?limit=1000&after={after}")
            found |= {job["name"]: job["status"] for job in page["value"]}
            if not page["next"]:
                return {name: found.get(name, "absent") for name in names}
            after = page["next"]


@dataclass(slots=True)
class Table:
    title: str
    columns: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)

    def add(self, *cells: Any) -> None:
        self.rows.append([f"{c:.2f}x" if isinstance(c, float) else "" if c is None else str(c) for c in cells])

    def show(self) -> None:
        widths = [max(len(row[i]) for row in [list(self.columns), *self.rows]) for i in range(len(self.columns))]
        print(f"\n{self.title}")
        for row in [list(self.columns), ["-" * w for w in widths], *self.rows]:
            print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
