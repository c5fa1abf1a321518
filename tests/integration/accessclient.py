"""Somebody else than the owner: made through the CLI, with a token signed by the home's own key."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

from tidemill.app.services import Addresses
from tidemill.domain.principals import Principal, PrincipalKind
from tidemill.identity import keys as key_files
from tidemill.identity.tokens import TokenIssuer
from tidemill.server import compose
from tidemill.server import home as homes


def issuer_of(root: Path, state: dict[str, Any]) -> TokenIssuer:
    home = homes.Home(root)
    addresses = Addresses(**state["addresses"])
    return compose.issuer(home, homes.load_config(home), key_files.load_or_create(home.secrets), addresses)


def token_for(root: Path, state: dict[str, Any], principal: dict[str, Any], audience: str = "") -> str:
    """As a login would give it; `principal` is what the CLI prints."""
    who = Principal(
        principal["oid"], PrincipalKind(principal["kind"]), principal["name"], app_id=principal["app_id"]
    )
    return issuer_of(root, state).issue_to(who, audience or state["addresses"]["https"])


def ask(state: dict[str, Any], token: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """-> (status, JSON or bytes), over the plain listener."""
    host, port = state["addresses"]["http"].removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        raw = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
        connection.request(method, path, raw, headers)
        reply = connection.getresponse()
        text = reply.read()
        is_json = "json" in (reply.getheader("Content-Type") or "")
        return reply.status, json.loads(text) if text and is_json else text
    finally:
        connection.close()
