"""A real scoring server, as an agent starts it: by file, with a Python of the test's choice."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tidemill.serving.scoring as package

MAIN = Path(package.__file__).with_name("main.py")
DEADLINE_S = 60.0


@dataclass
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Scoring:
    process: subprocess.Popen[bytes]
    folder: Path
    code: int | None = field(default=None)

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state.json").read_text())

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def port(self) -> int:
        return int(self.state["port"])

    def wait_until(self, state: str) -> None:
        end = time.monotonic() + DEADLINE_S
        while time.monotonic() < end:
            if (self.folder / "state.json").exists() and self.state["state"] == state:
                return
            if self.process.poll() is not None and state != "failed":
                break
            time.sleep(0.01)
        raise AssertionError(f"it is not {state}:\n{self.log}")

    def connect(self, timeout: float = 30) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **options: Any
    ) -> Reply:
        connection = self.connect(**options)
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            connection.request(method, path, data, {"Content-Type": "application/json", **(headers or {})})
            reply = connection.getresponse()
            found: dict[str, str] = {}
            for name, value in reply.getheaders():
                key = name.lower()
                found[key] = f"{found[key]}, {value}" if key in found else value
            return Reply(reply.status, found, reply.read())
        finally:
            connection.close()

    def score(self, body: Any, **options: Any) -> Reply:
        return self.ask("POST", "/score", body, **options)

    def end(self, number: int = signal.SIGTERM) -> int:
        """-> its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


@contextlib.contextmanager
def scoring(
    folder: Path, script: str = "", *, python: str = sys.executable, ready: bool = True, **variables: str
) -> Iterator[Scoring]:
    """`script` becomes score.py. `variables` are those of the server's environment."""
    folder.mkdir(parents=True, exist_ok=True)
    if script:
        (folder / "score.py").write_text(script)
        variables.setdefault("AZUREML_ENTRY_SCRIPT", "score.py")
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment = {
        **kept,
        "AML_APP_ROOT": str(folder),
        "AZUREML_SERVER_PORT": "0",
        "TIDEMILL_SERVING_STATE": str(folder / "state.json"),
        **variables,
    }
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [python, str(MAIN)],
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = Scoring(process, folder)
    try:
        if ready:
            server.wait_until("ready")
        yield server
    finally:
        if process.poll() is None:
            process.kill()
            process.wait(DEADLINE_S)
