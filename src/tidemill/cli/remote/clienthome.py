"""The home of a connection: where the server is, its CA, and the sign-in. No server's home.

home/  client.json  server.json (while it runs)  lock  logs/connect.log
       tls/ca.pem ca-bundle.pem      secrets/sign-in.json identity.header (0600)
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tidemill.cli.errors import NOT_FOUND, REFUSED, CliError
from tidemill.identity.ca import write_bundle
from tidemill.identity.files import write_whole

_FOLDERS = frozenset(("tls", "secrets", "logs"))  # also what a connection that was not confirmed leaves


@dataclass(frozen=True, slots=True)
class Remote:
    """`host` and `port` reach the server's https listener; `ports` are those of its https, http, data and
    gateway, which are the same on this machine. `fingerprint` is its CA's."""

    host: str
    port: int
    fingerprint: str
    ports: dict[str, int]
    identity_port: int = 0  # of the last run, so that variables of a shell stay good

    @property
    def shown(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"{name}:{self.port}"


class ClientHome:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.ca = root / "tls" / "ca.pem"
        self.bundle = root / "tls" / "ca-bundle.pem"
        self.server_json = root / "server.json"
        self.lock = root / "lock"
        self.log = root / "logs" / "connect.log"
        self._remote = root / "client.json"
        self._sign_in = root / "secrets" / "sign-in.json"
        self._header = root / "secrets" / "identity.header"

    @property
    def exists(self) -> bool:
        return self._remote.exists()

    def prepare(self) -> None:
        """Makes the folders (0700). Raises CliError for a server's home or a directory of something else."""
        if (self.root / "config.json").exists():
            raise CliError(
                f"{self.root} is the home of a server on this machine. Give the connection a home of "
                f"its own: --home {self.root}-remote",
                REFUSED,
                "HomeInUse",
            )
        left = _FOLDERS if self.exists or not self.root.exists() else {e.name for e in self.root.iterdir()}
        if left - _FOLDERS:
            raise CliError(f"{self.root} holds something else. Give an empty directory: --home DIR.", REFUSED)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root.chmod(0o700)
        for name in _FOLDERS:
            (self.root / name).mkdir(mode=0o700, exist_ok=True)
        if not self._header.exists():
            write_whole(self._header, secrets.token_urlsafe(32).encode())

    def remote(self) -> Remote:
        """Raises CliError where this home is of no connection."""
        try:
            return Remote(**json.loads(self._remote.read_bytes()))
        except FileNotFoundError:
            raise CliError(
                f"{self.root} is not the home of a connection. Make one: tidemill connect HOST --home DIR",
                NOT_FOUND,
                "NotConnected",
            ) from None

    def save_remote(self, remote: Remote, ca_pem: bytes) -> None:
        write_whole(self.ca, ca_pem, 0o644)
        write_bundle(self.bundle, ca_pem)
        write_whole(self._remote, json.dumps(asdict(remote), indent=2).encode())

    def sign_in(self) -> dict[str, Any] | None:
        """What was stored by `save_sign_in`; None when signed out."""
        try:
            return json.loads(self._sign_in.read_bytes())
        except FileNotFoundError:
            return None

    def save_sign_in(self, value: dict[str, Any]) -> None:
        write_whole(self._sign_in, json.dumps(value).encode())

    def forget_sign_in(self) -> None:
        self._sign_in.unlink(missing_ok=True)

    def write_server(self, state: dict[str, Any]) -> None:
        write_whole(self.server_json, json.dumps(state, indent=2).encode())

    def identity_header(self) -> str:
        return self._header.read_text().strip()
