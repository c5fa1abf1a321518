"""A real server with online deployments: made over ARM, asked at their instances without a gateway."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobserver import JobServer, until

from tidemill.agent import protocol

SCORE = """
import os, json
def init():
    global model
    folder = os.environ["AZUREML_MODEL_DIR"]
    with open(os.path.join(folder, "model.json")) as file:
        model = json.load(file)
    print("loaded", model, flush=True)
def run(data):
    return {"sum": sum(json.loads(data)["data"]) + model["bias"], "version": VERSION, "pid": os.getpid()}
"""


class Deployments:
    """Of endpoint `sums` of a server."""

    def __init__(self, server: JobServer) -> None:
        self.server = server

    def prepare(self) -> None:
        server = self.server
        body = {"properties": {"authMode": "Key"}, "location": "eastus"}
        self._put("onlineEndpoints/sums", body)
        uri = server.upload("models/m", {"model.json": '{"bias": 1000}'}) + "/model.json"
        self._put("models/adder/versions/1", {"properties": {"modelUri": uri}})
        # No image is fetched: the host's Python stands in for it.
        image = {"properties": {"image": "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu20.04"}}
        self._put("environments/plain/versions/1", image)
        self.code("one", SCORE.replace("VERSION", "1"))

    def code(self, name: str, script: str) -> str:
        return self.server.code(name, {"score.py": script})

    def deploy(self, name: str = "blue", code: str = "one", count: int = 1, **changes: Any) -> str:
        """-> the operation to poll."""
        properties = {
            "model": "azureml:adder:1",
            "environmentId": f"{self.server.workspace}/environments/plain/versions/1",
            "codeConfiguration": {
                "codeId": f"{self.server.workspace}/codes/{code}/versions/1",
                "scoringScript": "score.py",
            },
            "instanceType": "Standard_DS1_v2",
            **changes,
        }
        body = {"properties": properties, "location": "eastus", "sku": {"name": "Default", "capacity": count}}
        self._put(f"onlineEndpoints/sums/deployments/{name}", body)
        return name

    def shown(self, name: str = "blue") -> tuple[int, Any]:
        return self.server.arm("GET", f"onlineEndpoints/sums/deployments/{name}")

    def state(self, name: str = "blue") -> str:
        status, body = self.shown(name)
        return body["properties"]["provisioningState"] if status == 200 else "gone"

    def until(self, state: str, name: str = "blue", seconds: float = 60) -> None:
        until(lambda: self.state(name) == state, seconds, f"{name} {state} (is {self.state(name)})")

    def error(self, name: str = "blue") -> dict[str, Any]:
        """As the operation has it."""
        ((uid, _),) = [(row[0], row[1]) for row in self.rows() if row[1] == name]
        base = f"/subscriptions/{self.server.state['workspace']['subscription']}/providers/"
        path = f"{base}Microsoft.MachineLearningServices/locations/eastus/computeOperationsStatus/ready:{uid}"
        status, body = self.server.call("GET", f"{path}?api-version=2024-10-01")
        assert status == 200, body
        return body["error"]

    def rows(self) -> list[tuple[str, str]]:
        query = "SELECT uid, name FROM resources WHERE type_key = 'onlineendpoints/deployments'"
        return [(uid, name) for uid, name in self.server.sql(query)]

    def routed(self, name: str = "blue") -> list[dict[str, Any]]:
        with contextlib.suppress(FileNotFoundError):
            table = json.loads((self.server.home / "serving" / "routes.json").read_text())
            for endpoint in table["endpoints"]:
                for one in endpoint["deployments"]:
                    if one["name"] == name:
                        return list(one["instances"])
        return []

    def ask(self, target: dict[str, Any], *data: float) -> dict[str, Any]:
        """Again while it is just starting."""
        body = json.dumps({"data": data})
        head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        request = f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n{body}".encode()
        answer = until(lambda: (said := self._ask(target, request))[0] != 503 and said, what="an answer")
        assert answer[0] == 200, answer
        return json.loads(answer[1])

    def _ask(self, target: dict[str, Any], request: bytes) -> tuple[int, bytes]:
        with dialed(self.server.home, target) as sock:
            sock.sendall(request)
            answer = b""
            while part := sock.recv(65536):
                answer += part
        head, _, rest = answer.partition(b"\r\n\r\n")
        return int(head.split(b" ", 2)[1]), rest

    def logs(self, name: str = "blue") -> str:
        status, body = self.server.arm(
            "POST", f"onlineEndpoints/sums/deployments/{name}/getLogs", {"tail": 100}
        )
        assert status == 200, body
        return body["content"]

    def delete_endpoint(self) -> None:
        status, body = self.server.arm("DELETE", "onlineEndpoints/sums")
        assert status in (200, 202, 204), body

    def delete(self, name: str = "blue") -> None:
        status, body = self.server.arm("DELETE", f"onlineEndpoints/sums/deployments/{name}")
        assert status in (200, 202, 204), body

    def _put(self, path: str, body: dict[str, Any]) -> None:
        status, answer = self.server.arm("PUT", path, body)
        assert status in (200, 201), answer


@contextlib.contextmanager
def dialed(home: Path, target: dict[str, Any], seconds: float = 60.0) -> Iterator[socket.socket]:
    """A connection to an instance, by its node's agent; again while it is just starting."""
    end = time.monotonic() + seconds
    while True:
        try:
            sock = _dial(home, target)
            break
        except (OSError, AssertionError):
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
    with sock:
        sock.settimeout(60)
        yield sock


def _dial(home: Path, target: dict[str, Any]) -> socket.socket:
    directory = os.open(home / "nodes" / target["node"] / "agent", os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(f"/proc/self/fd/{directory}/sock")
            order = {"id": 1, "verb": "dial", "attempt": target["attempt"], "rank": target["rank"]}
            link.sendall(protocol.encode(order))
            data, fds, _, _ = socket.recv_fds(link, 65536, 1)
            assert fds, data
            sock = socket.socket(fileno=fds[0])
    finally:
        os.close(directory)
    try:
        sock.settimeout(30)
        sock.connect(("127.0.0.1", target["port"]))
    except OSError:
        sock.close()
        raise
    return sock
