"""A real server for job tests: started, killed and restarted on one home, spoken to by plain HTTP."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tidemill.data.blobstore import BlobStore
from tidemill.helper.nodedir import NodeDir, hand_over_all_in
from tidemill.server import home as homes
from tidemill.server import launch

FINAL = ("Completed", "Failed", "Canceled")
API = "2024-04-01"


def until(condition: Callable[[], Any], seconds: float = 60.0, what: str = "it") -> Any:
    end = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < end, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def give_to_server(folder: Path) -> None:
    """What this process wrote into a home whose server may be a user of its own."""
    user = folder.stat().st_gid
    if os.geteuid() == 0 and user != 0:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        hand_over_all_in(fd, user)
        os.close(fd)


class JobServer:
    """`settings` go into config.json before the next start (cancel_grace_s, close_grace_s, …). The host
    stands in for images unless they say otherwise."""

    def __init__(self, home: Path, **settings: Any) -> None:
        self.home = home
        self.settings = {"images": "prefer-host", **settings}
        self.state: dict[str, Any] = {}
        self._token = ""

    # --- the process

    def start(self, **flags: Any) -> float:
        """-> seconds until everything answered. `flags`: of `tidemill up`."""
        if self.settings:
            where = homes.prepare(self.home)
            homes.load_config(where)
            raw = json.loads(where.config.read_bytes())
            where.config.write_text(json.dumps({**raw, **self.settings}))
        began = time.monotonic()
        self.state = launch.up(self.home, https_port=0, http_port=0, data_port=0, detach=True, **flags)
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL to the control process alone."""
        self.signal(self.state["pid"], signal.SIGKILL)

    def signal(self, pid: int, number: int) -> None:
        """One that ends it. Returns once it has ended, also where it is no child of this process."""
        os.kill(pid, number)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        until(lambda: not alive(pid), what=f"the end of process {pid}")

    def down(self) -> None:
        launch.down(self.home)
        if self.state:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.state["pid"], 0)

    def end(self) -> None:
        """The server, and the nodes that outlive it: processes and control groups."""
        self.down()
        for path in (self.home / "nodes").glob("*"):
            node = NodeDir(path.name, path)
            config = node.config()
            if config is not None:
                node.kill_agent()
                until(lambda n=node, c=config: n.kill_rest(c, hard=True), what=f"the end of node {path.name}")

    def cli(
        self, *words: str, timeout: float = 90, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        tidemill = str(Path(sys.executable).with_name("tidemill"))
        argv = [tidemill, "--home", str(self.home), *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout, cwd=cwd)

    # --- HTTP

    def connection(self) -> http.client.HTTPConnection:
        host, port = self.state["addresses"]["http"].removeprefix("http://").split(":")
        return http.client.HTTPConnection(host, int(port), timeout=60)

    def token(self) -> str:
        if not self._token:
            secret = (self.home / "secrets" / "identity.header").read_text()
            path = "/msi/token?resource=https://management.azure.com/"
            self._token = self._send("GET", path, None, {"X-IDENTITY-HEADER": secret})[1]["access_token"]
        return self._token

    def _send(self, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, Any]:
        connection = self.connection()
        try:
            raw = None if body is None else json.dumps(body).encode()
            connection.request(method, path, raw, {"Content-Type": "application/json", **headers})
            reply = connection.getresponse()
            text = reply.read()
            kind = reply.getheader("Content-Type") or ""
            return reply.status, json.loads(text) if text and "json" in kind else text
        finally:
            connection.close()

    def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return self._send(method, path, body, {"Authorization": f"Bearer {self.token()}"})

    @property
    def workspace(self) -> str:
        where = self.state["workspace"]
        group = f"/subscriptions/{where['subscription']}/resourceGroups/{where['group']}"
        return f"{group}/providers/Microsoft.MachineLearningServices/workspaces/{where['name']}"

    def arm(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return self.call(method, f"{self.workspace}/{path}?api-version={API}", body)

    def native(self, path: str) -> Any:
        status, body = self.call("GET", f"/api/v1{self.workspace}/{path}")
        assert status == 200, body
        return body

    # --- jobs

    def cluster(
        self, name: str, size: str = "Standard_DS2_v2", low: int = 0, high: int = 2, idle: str = "PT60S"
    ) -> None:
        scale = {"minNodeCount": low, "maxNodeCount": high, "nodeIdleTimeBeforeScaleDown": idle}
        properties = {"vmSize": size, "scaleSettings": scale}
        body = {"location": "eastus", "properties": {"computeType": "AmlCompute", "properties": properties}}
        status, answer = self.arm("PUT", f"computes/{name}", body)
        assert status in (200, 201), answer

    def put_job(self, name: str, command: str, **properties: Any) -> tuple[int, Any]:
        """On this host, whose nodes stay warm; with `computeId=None` on nodes of its own."""
        body = {"jobType": "Command", "command": command, "computeId": "local", **properties}
        return self.arm("PUT", f"jobs/{name}", {"properties": body})

    def submit(self, name: str, command: str, **properties: Any) -> str:
        status, answer = self.put_job(name, command, **properties)
        assert status in (200, 201), answer
        return name

    def cancel(self, name: str) -> None:
        status, answer = self.arm("POST", f"jobs/{name}/cancel")
        assert status in (200, 202), answer

    def job(self, name: str) -> dict[str, Any]:
        return self.native(f"jobs/{name}")

    def wait(self, name: str, seconds: float = 60) -> dict[str, Any]:
        """JobDetail of the job once it is final."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            found = self.native(f"jobs/{name}/wait?timeout={max(min(left, 20), 0.01):.2f}")
            if found["status"] in FINAL:
                return self.job(name)
            assert left > 0, f"{name} is {found['status']}: {self.native(f'jobs/{name}/why')}"

    def until_state(self, name: str, *states: str, seconds: float = 60) -> dict[str, Any]:
        return until(
            lambda: (found := self.job(name))["status"] in states and found, seconds, f"{name} in {states}"
        )

    def log(self, name: str, path: str = "user_logs/std_log.txt") -> str:
        raw = self.native(f"jobs/{name}/logs/{path}?limit=1048576")
        return raw.decode() if isinstance(raw, bytes) else str(raw)

    def until_log(
        self, name: str, text: str, seconds: float = 60, path: str = "user_logs/std_log.txt"
    ) -> str:
        return until(
            lambda: (found := self.log(name, path)) and text in found and found,
            seconds,
            f"{text!r} in the log",
        )

    # --- data

    def account(self) -> str:
        return str(self.arm("GET", "datastores/workspaceblobstore")[1]["properties"]["accountName"]).rsplit(
            "/", 1
        )[-1]

    @contextlib.contextmanager
    def blobs(self) -> Iterator[BlobStore]:
        store = BlobStore(self.home / "blobs", lambda: time.time_ns() // 1000)
        try:
            yield store
        finally:
            store.close()
            give_to_server(self.home / "blobs")

    def upload(self, path: str, files: dict[str, str]) -> str:
        """Files below `path` of the default datastore -> its azureml:// address."""
        account = self.account()
        with self.blobs() as store:
            for name, text in files.items():
                store.put_bytes(account, "azureml-blobstore", f"{path}/{name}", text.encode())
        return f"azureml://datastores/workspaceblobstore/paths/{path}"

    def code(self, name: str, files: dict[str, str]) -> str:
        """A registered code version -> its id."""
        account = self.account()
        self.upload(f"LocalUpload/{name}", files)
        data = self.state["addresses"]["data"]
        uri = f"{data}/{account}.blob.core.windows.net/azureml-blobstore/LocalUpload/{name}"
        status, answer = self.arm("PUT", f"codes/{name}/versions/1", {"properties": {"codeUri": uri}})
        assert status in (200, 201), answer
        return f"{self.workspace}/codes/{name}/versions/1"

    def stored(self, prefix: str, container: str = "azureml-blobstore") -> dict[str, bytes]:
        """Name below `prefix` -> content."""
        account = self.account()
        with self.blobs() as store:
            found = store.list(account, container, prefix).blobs
            return {blob.name[len(prefix) :]: store.path_of(blob).read_bytes() for blob in found}

    # --- what is on disk and what runs

    def sql(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.home / "db" / "tidemill.db", timeout=30)) as db:
            return db.execute(query, values).fetchall()

    def nodes(self) -> dict[str, int]:
        """Node id -> pid of its agent, for every node directory."""
        found: dict[str, int] = {}
        for path in (self.home / "nodes").glob("*/agent/pid"):
            with contextlib.suppress(OSError, ValueError):
                found[path.parent.parent.name] = int(path.read_text())
        return found

    def check_ledger(self, job: str, kept: bool = False) -> None:
        """One allocation per attempt and node, one node interval per node, the one inside the other, and
        allocations of a node one after the other. `kept`: nodes stayed for a look, one more each."""
        uid = self.sql("SELECT uid FROM resources WHERE type_key = 'jobs' AND name = ?", job)[0][0]
        attempts = self.sql("SELECT id, nodes FROM attempts WHERE job_uid = ?", uid)
        rows = self.sql(
            "SELECT id, node_id, started_at, ended_at FROM intervals "
            "WHERE kind = 'allocation' AND job_uid = ?",
            uid,
        )
        expected = {f"{attempt}:{node}" for attempt, nodes in attempts for node in json.loads(nodes)}
        expected |= {f"{allotted}:kept" for allotted in expected} if kept else set()
        assert {row[0] for row in rows} == expected
        assert len(rows) == len(expected)
        for _, node, started, ended in rows:
            assert ended is not None
            held = self.sql(
                "SELECT started_at, ended_at FROM intervals WHERE kind = 'node' AND node_id = ?", node
            )
            assert len(held) == 1, f"node {node} has {len(held)} intervals"
            assert held[0][0] <= started
            assert held[0][1] is None or held[0][1] >= ended, f"{node}: allocation ends after the node"
            shares = self.sql(
                "SELECT started_at, ended_at FROM intervals WHERE kind = 'allocation' AND node_id = ? "
                "ORDER BY started_at",
                node,
            )
            for (_, end), (start, _) in itertools.pairwise(shares):
                assert end is not None
                assert end <= start, f"node {node}: two allocations at once"


class Follower(threading.Thread):
    """Follows a job's stream as a client does: goes on at the last id, however often it breaks off."""

    def __init__(self, server: JobServer, job: str) -> None:
        super().__init__(daemon=True)
        self._server, self._job = server, job
        self.last = ""
        self.text = ""
        self.seqs: list[int] = []
        self.codes: list[str] = []
        self.end: dict[str, Any] | None = None
        self.breaks = 0
        self.problem = ""

    def run(self) -> None:
        deadline = time.monotonic() + 100
        while self.end is None and time.monotonic() < deadline:
            try:
                self._follow()
            except (OSError, http.client.HTTPException, UnicodeDecodeError):  # half a character, too
                self.breaks += 1
                time.sleep(0.02)

    def finished(self, seconds: float = 60) -> dict[str, Any]:
        self.join(seconds)
        assert self.end is not None, (
            f"no end of the stream of {self._job} (last id {self.last!r}) {self.problem}"
        )
        return self.end

    def _follow(self) -> None:
        server = self._server
        connection = server.connection()
        try:
            headers = {"Authorization": f"Bearer {server.token()}"}
            if self.last:
                headers["Last-Event-ID"] = self.last
            connection.request("GET", f"/api/v1{server.workspace}/jobs/{self._job}/stream", headers=headers)
            reply = connection.getresponse()
            if reply.status != 200:
                self.problem = f"{reply.status} {reply.read()[:200]!r}"
                raise OSError(self.problem)
            event: dict[str, str] = {}
            while self.end is None:
                line = reply.readline()
                if not line:
                    raise OSError("the stream broke off")
                if line == b"\n":
                    self._take(event)
                    event = {}
                    continue
                name, _, value = line.decode().rstrip("\n").partition(": ")
                event[name] = value
        finally:
            connection.close()

    def _take(self, event: dict[str, str]) -> None:
        if "event" not in event:
            return
        data = json.loads(event["data"])
        self.last = event["id"]
        match event["event"]:
            case "log":
                self.text += data["text"]
            case "timeline":
                self.seqs.append(data["seq"])
                self.codes.append(data["code"])
            case "end":
                self.end = data
