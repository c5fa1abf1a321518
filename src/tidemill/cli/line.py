"""An open line to the server: a WebSocket over its loopback listener, signed in like every request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from tidemill.cli.errors import ServerGone
from tidemill.cli.http import Reply, checked
from tidemill.cli.urls import Query, with_query

if TYPE_CHECKING:
    from tidemill.cli.session import Session

MAX_MESSAGE = 1 << 20


def opened(session: Session, path: str, query: Query) -> ClientConnection:
    """Raises CliError with the server's own message where it refuses, ServerGone where it does not answer."""
    client = session.connect()
    address = client.base.replace("http://", "ws://", 1) + with_query(path, query)
    try:
        return connect(
            address,
            additional_headers={"Authorization": client.authorization()},
            user_agent_header="tidemill",
            compression=None,
            proxy=None,
            max_size=MAX_MESSAGE,
        )
    except InvalidStatus as error:
        response = error.response
        headers = {name.lower(): value for name, value in response.headers.raw_items()}
        checked(Reply(response.status_code, headers, bytes(response.body or b"")))
        raise ServerGone(
            f"The server at {client.base} opens no line (status {response.status_code})."
        ) from error
    except (OSError, WebSocketException) as error:
        raise ServerGone(f"No answer from {client.base} ({error}). {session.start_hint}") from error
