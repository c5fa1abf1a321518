"""Container groups of a real server, by plain HTTP: what tests of them share."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

from jobserver import JobServer

WEB = """
import http.server, os, signal, sys
signal.signal(signal.SIGTERM, lambda *a: sys.exit(0))
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = (os.environ.get("GREETING", "") + os.environ.get("SECRET", "")).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
        if self.path == "/say": print("asked to say", flush=True)
    def log_message(self, *a): pass
server = http.server.HTTPServer(("127.0.0.1", 8080), Answer)
print("web is up", flush=True)  # it listens
server.serve_forever()
"""


def container(name: str, *command: str, cpu: float = 0.5, memory: float = 0.3, **more: Any) -> dict[str, Any]:
    requests = {"cpu": cpu, "memoryInGB": memory}
    image = more.pop("image", "host-python")
    given = {"image": image, "command": list(command), "resources": {"requests": requests}, **more}
    return {"name": name, "properties": given}


def python(name: str, code: str, **more: Any) -> dict[str, Any]:
    return container(name, "python3", "-c", code, **more)


class Groups:
    def __init__(self, server: JobServer) -> None:
        self.server = server
        self.tags: dict[str, str] = {}  # of each group
        self.mark = f"marked-{uuid4().hex}"  # in the argv of processes to be found

    @property
    def base(self) -> str:
        return self.server.workspace.split("/providers/")[0]

    def call(self, method: str, path: str = "", body: Any = None) -> tuple[int, Any]:
        where = f"{self.base}/providers/Microsoft.ContainerInstance/containerGroups"
        return self.server.call(method, f"{where}/{path}?api-version=2023-05-01", body)

    def put(self, name: str, *containers: dict[str, Any], **properties: Any) -> Any:
        given = {"osType": "Linux", "containers": list(containers), **properties}
        body = {"location": "westeurope", "properties": given, "tags": self.tags}
        status, answer = self.call("PUT", name, body)
        assert status in (200, 201), answer
        return answer

    def get(self, name: str) -> dict[str, Any]:
        status, answer = self.call("GET", name)
        assert status == 200, answer
        return answer["properties"]

    def native(self, path: str) -> dict[str, Any]:
        status, answer = self.server.call("GET", f"/api/v1{self.base}/containerGroups/{path}")
        assert status == 200, answer
        return answer

    def view(self, name: str, at: int = 0) -> dict[str, Any]:
        """A container's instanceView."""
        return self.get(name)["containers"][at]["properties"]["instanceView"]

    def logs(self, name: str, container: str) -> str:
        where = f"{self.base}/providers/Microsoft.ContainerInstance/containerGroups"
        path = f"{where}/{name}/containers/{container}/logs?api-version=2023-05-01"
        status, answer = self.server.call("GET", path)
        assert status == 200, answer
        return answer["content"]

    def until(self, name: str, met: Callable[[dict[str, Any]], Any], seconds: float = 60.0) -> dict[str, Any]:
        end = time.monotonic() + seconds
        while True:
            found = self.get(name)
            if met(found):
                return found
            assert time.monotonic() < end, found
            time.sleep(0.02)

    def until_state(self, name: str, state: str, seconds: float = 60.0) -> dict[str, Any]:
        """`state`: of the group's instanceView."""
        return self.until(name, lambda found: found["instanceView"]["state"] == state, seconds)

    def until_gone(self, name: str, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while self.call("GET", name)[0] != 404:
            assert time.monotonic() < end, self.get(name)
            time.sleep(0.02)
