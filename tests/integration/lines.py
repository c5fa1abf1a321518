"""Open lines to a server (WebSockets of its native API), and people to open them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from accessclient import token_for
from jobserver import JobServer
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect


def person(server: JobServer, name: str, role: str) -> str:
    """Somebody new with a role in the workspace -> a token."""

    def access(*words: str) -> Any:
        done = server.cli("access", *words, "--output", "json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    made = access("create-user", name)
    access("grant", name, role, "--scope", server.workspace)
    return token_for(server.home, server.state, made)


def line(server: JobServer, token: str, path: str, **headers: str) -> Any:
    """`path` is below the workspace."""
    base = server.state["addresses"]["http"].replace("http://", "ws://")
    given = {"Authorization": f"Bearer {token}", **headers}
    where = f"{base}/api/v1{server.workspace}/{path}"
    return connect(where, additional_headers=given, proxy=None, open_timeout=60)


def refused(server: JobServer, token: str, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
    with pytest.raises(InvalidStatus) as found:
        line(server, token, path, **headers)
    return found.value.response.status_code, json.loads(found.value.response.body)["error"]


def begin(socket: Any, *command: str, terminal: Any = None) -> None:
    socket.send(json.dumps({"command": list(command), "terminal": terminal}))
