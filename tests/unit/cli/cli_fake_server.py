"""A server that answers what a test tells it to, over real HTTP on loopback; and a home that points at it."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from tidemill.cli import main

W = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.MachineLearningServices/workspaces/ws"
NATIVE = "/api/v1" + W


@dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Answer:
    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)


class Fake:
    """`on(method, path, answer)`: an Answer, JSON, or a function of Asked. Blobs live in `blobs`."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.blobs: dict[str, bytes] = {}
        self.metadata: dict[str, dict[str, str]] = {}
        self.blocks: dict[str, dict[str, bytes]] = {}
        self.answers: dict[tuple[str, str], Any] = {("GET", "/msi/token"): {"access_token": "owner-token"}}
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def handle_one(self) -> None:
                parts = urlsplit(self.path)
                body = self._body()
                asked = Asked(
                    self.command,
                    unquote(parts.path),
                    dict(parse_qsl(parts.query)),
                    {k.lower(): v for k, v in self.headers.items()},
                    body,
                )
                fake.asked.append(asked)
                fake.respond(self, asked)

            def _body(self) -> bytes:
                if self.headers.get("Transfer-Encoding") == "chunked":
                    raise AssertionError("uploads must send their length")
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))

            do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = handle_one

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def on(self, method: str, path: str, answer: Any) -> None:
        self.answers[(method, path)] = answer

    def of(self, method: str, path: str) -> list[Asked]:
        return [a for a in self.asked if (a.method, a.path) == (method, path)]

    def respond(self, handler: BaseHTTPRequestHandler, asked: Asked) -> None:
        if ".blob.core.windows.net/" in asked.path:
            answer = self._blob(asked)
        else:
            answer = self.answers.get((asked.method, asked.path))
            if callable(answer):
                answer = answer(asked)
        if isinstance(answer, (list, tuple)) and answer and isinstance(answer[0], Event):
            self._events(handler, answer)
            return
        if answer is None:
            answer = Answer(404, {"error": {"code": "ResourceNotFound", "message": f"No {asked.path}."}})
        if not isinstance(answer, Answer):
            answer = Answer(200, answer)
        raw = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        handler.send_response(answer.status)
        for name, value in answer.headers.items():
            handler.send_header(name, value)
        handler.send_header("Content-Length", str(len(raw)))
        handler.end_headers()
        if asked.method != "HEAD":
            handler.wfile.write(raw)

    def _events(self, handler: BaseHTTPRequestHandler, events: list[Event]) -> None:
        """Chunked; a Break closes the connection in the middle of the next event."""
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()

        def chunk(raw: bytes) -> None:
            handler.wfile.write(f"{len(raw):x}\r\n".encode() + raw + b"\r\n")

        for event in events:
            if isinstance(event, Break):
                chunk(b'id: half\nevent: log\ndata: {"path": "x", ')
                handler.wfile.flush()
                handler.close_connection = True
                return
            chunk(f"id: {event.id}\nevent: {event.name}\ndata: {json.dumps(event.data)}\n\n".encode())
        handler.wfile.write(b"0\r\n\r\n")

    def _blob(self, asked: Asked) -> Answer:
        name, comp = asked.path, asked.query.get("comp", "")
        if asked.query.get("restype") == "container":
            prefix = asked.query["prefix"]
            start = name + "/" + prefix
            items = "".join(
                f"<Blob><Name>{key[len(name) + 1 :]}</Name><Properties>"
                f"<Content-Length>{len(value)}</Content-Length></Properties></Blob>"
                for key, value in sorted(self.blobs.items())
                if key.startswith(start)
            )
            listed = f"<Blobs>{items}</Blobs><NextMarker/>"
            xml = f"<?xml version='1.0'?><EnumerationResults>{listed}</EnumerationResults>"
            return Answer(200, xml.encode())
        if asked.method == "PUT" and comp == "metadata":
            found = {k[10:]: v for k, v in asked.headers.items() if k.startswith("x-ms-meta-")}
            self.metadata[name] = found
            return Answer(200, b"")
        if asked.method == "PUT" and comp == "block":
            self.blocks.setdefault(name, {})[asked.query["blockid"]] = asked.body
            return Answer(201, b"")
        if asked.method == "PUT" and comp == "blocklist":
            blocks = self.blocks.pop(name)
            ids = [part.split("<")[0] for part in asked.body.decode().split("<Latest>")[1:]]
            self.blobs[name] = b"".join(blocks[block] for block in ids)
            return Answer(201, b"")
        if asked.method == "PUT":
            assert asked.headers["x-ms-blob-type"] == "BlockBlob"
            self.blobs[name] = asked.body
            return Answer(201, b"")
        if name not in self.blobs:
            return Answer(404, b"")
        meta = {f"x-ms-meta-{k}": v for k, v in self.metadata.get(name, {}).items()}
        return Answer(200, self.blobs[name], meta)


@dataclass
class Event:
    id: str
    name: str
    data: Any


class Break(Event):
    def __init__(self) -> None:
        super().__init__("", "", None)


def make_home(folder: Path, address: str) -> Path:
    home = folder / "home"
    (home / "secrets").mkdir(parents=True)
    (home / "secrets" / "identity.header").write_text("the-secret\n")
    addresses = {"http": address, "https": "https://localhost:1", "data": "https://localhost:2"}
    (home / "server.json").write_text(json.dumps({"pid": 1, "data_pid": 2, "addresses": addresses}))
    (home / "config.json").write_text(json.dumps({"subscription": "s", "group": "rg", "workspace": "ws"}))
    return home


def run(*args: str) -> int:
    return main.run(list(args))


SUMMARY: dict[str, Any] = {
    "name": "j1",
    "display_name": "digits",
    "experiment": "e",
    "compute": "cpu",
    "status": "Completed",
    "created_at": "2023-11-14T22:13:20.000000Z",
    "duration_s": 3.2,
    "queue_s": 0.4,
    "cost_usd": 0.00031,
    "exit_code": 0,
    "error": None,
    "page": "https://localhost:1/jobs/j1",
}
DETAIL: dict[str, Any] = {
    **SUMMARY,
    "command": "python train.py",
    "outputs": {
        "model": {
            "type": "custom_model",
            "uri": "azureml://datastores/art/paths/out/model",
            "asset": "digits:1",
        }
    },
    "metrics": {"accuracy": 0.9722222222},
    "price": {
        "usd": 0.00031,
        "usd_hour": 0.293,
        "size": "Standard_DS3_v2",
        "nodes": 1,
        "seconds": 3.8,
        "basis": "list",
    },
    "timeline": [{"seq": 1, "message": "Submitted.", "elapsed_s": 0.0}],
}
FAILED: dict[str, Any] = {
    **DETAIL,
    "status": "Failed",
    "exit_code": 3,
    "error": {"code": "UserError", "message": "ValueError: no"},
}


def error(status: int, code: str, message: str) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message}})


COMPUTE = {
    "name": "cpu",
    "type": "AmlCompute",
    "size": "Standard_DS3_v2",
    "state": "Succeeded",
    "min": 0,
    "max": 2,
    "idle_s": 120,
    "nodes": {"idle": 1, "running": 0, "opening": 0, "closing": 0},
    "running_jobs": 0,
    "queued_jobs": 1,
    "price_usd_hour": 0.293,
    "run_rate_usd_hour": 0.293,
    "next_action": "closes a node in 12 s",
}
