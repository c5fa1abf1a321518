"""What a command would send, kept instead of sent; the server is then asked what would come of it all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tidemill.cli.http import Client, Query
from tidemill.cli.session import Session

_READ = "MLTable"  # the server reads it at a submit
_MOST = 10_000  # of a folder's files, by which the server sees what is in it


@dataclass(slots=True)
class Trial:
    """`requests`: PUTs by their path below the workspace, in order. `uploads`: files, by their
    folder."""

    workspace: str
    requests: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    uploads: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def put(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """-> what the server would answer, as far as what comes after needs it."""
        below = path.removeprefix(f"{self.workspace}/")
        self.requests.append({"path": below, "body": body})
        return {"id": path, "name": below.rsplit("/", 1)[-1], "properties": body.get("properties") or {}}

    def upload(self, uri: str, files: Sequence[tuple[Path, str]]) -> None:
        """`files`: each with its name below the folder `uri`."""
        tables = [(path, name) for path, name in files if path.name == _READ]
        texts = {name: path.read_text("utf-8", "replace") for path, name in tables}
        self.uploads.append({"uri": uri, "files": [name for _, name in files[:_MOST]], "texts": texts})

    def code(self, path: str, digest: str, name: str) -> str:
        uri = f"azureml://datastores/workspaceblobstore/paths/LocalUpload/{digest}/{name}"
        return self.put(path, {"properties": {"codeUri": uri, "isAnonymous": True}})["id"]


class TrialClient(Client):
    """Asks the server as ever, and keeps what would change it."""

    def __init__(self, real: Client, trial: Trial) -> None:
        self.__dict__.update(real.__dict__)
        self._trial = trial

    def call(self, method: str, path: str, body: Any = None, query: Query | None = None) -> Any:
        return self._trial.put(path, body) if method == "PUT" else super().call(method, path, body, query)

    def begin(
        self, method: str, path: str, body: Any, query: Query, wait: bool = True, deadline_s: float = 300
    ) -> Any:
        return self.call(method, path, body, query)


def tried(
    session: Session, send: Callable[[Session], None], placed: AbstractContextManager[None]
) -> list[dict[str, Any]]:
    """`send` with nothing sent, then the server's word on all of it: of each request {path, created, runs}.
    What it refuses is told as `placed` does. Raises CliError."""
    trial = Trial(session.workspace_id())
    dry = Session(session.given)
    dry.trial = trial
    dry.__dict__["client"] = TrialClient(session.connect(), trial)
    with placed:
        send(dry)
        body = {"requests": trial.requests, "uploads": trial.uploads}
        return session.client.call("POST", f"{session.native}/validate", body)["value"]
