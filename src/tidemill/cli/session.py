"""Where a command acts: the home, its server, the workspace. Options given on the command line come first,
then the variables that `tidemill env` prints, then what the home itself says."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tidemill.cli.errors import NOT_FOUND, CliError, ServerGone
from tidemill.cli.urls import segment

if TYPE_CHECKING:
    from tidemill.cli.http import Client
    from tidemill.cli.trial import Trial

HOME_VARIABLE = "TIDEMILL_HOME"
PROVIDER = "providers/Microsoft.MachineLearningServices"
SUBSCRIPTION = ("AZURE_SUBSCRIPTION_ID", "ML_SUBSCRIPTION_ID")
GROUP = ("AZURE_RESOURCE_GROUP", "ML_RESOURCE_GROUP")
WORKSPACE = ("AZUREML_WORKSPACE_NAME", "ML_WORKSPACE_NAME")


@dataclass(slots=True)
class Given:
    """The global options as they were typed, before or after the command's name."""

    home: str | None = None
    output: str | None = None
    query: str | None = None
    workspace: str | None = None
    group: str | None = None
    subscription: str | None = None


class Session:
    """Everything a command needs of its surroundings; nothing is read before it is used."""

    def __init__(self, given: Given) -> None:
        self.given = given
        self.trial: Trial | None = None  # where what would be sent is kept instead

    @property
    def output(self) -> str:
        if self.given.query is not None and self.given.output in (None, "table"):
            return "json"  # what is picked has no columns
        return self.given.output or "table"

    @cached_property
    def home(self) -> Path:
        text = self.given.home or os.environ.get(HOME_VARIABLE) or "~/.tidemill"
        return Path(text).expanduser().absolute()

    @property
    def home_flag(self) -> str:
        """What a command that is suggested needs to reach the same home."""
        return "" if self.given.home is None else f" --home {self.home}"

    @property
    def start_hint(self) -> str:
        if (self.home / "client.json").exists():
            return f"Connect again with: tidemill connect --home {self.home} --detach"
        return f"Start the server with: tidemill up --home {self.home} --detach"

    def addresses(self) -> dict[str, Any]:
        """server.json of the home. Raises ServerGone when there is none."""
        path = self.home / "server.json"
        try:
            return json.loads(path.read_bytes())
        except FileNotFoundError:
            raise ServerGone(f"No server is running for the home {self.home}. {self.start_hint}") from None
        except PermissionError:
            raise CliError(
                f"{path} belongs to another user. Use a home of your own: --home DIR or {HOME_VARIABLE}=DIR.",
                4,
                "Forbidden",
            ) from None
        except ValueError:
            raise ServerGone(f"{path} is not readable as JSON. {self.start_hint}") from None

    @cached_property
    def client(self) -> Client:
        return self.connect()

    def connect(self, timeout: float = 60.0) -> Client:
        """A new client at the address that the home names now (it may change when the server restarts)."""
        from tidemill.cli.http import Client

        addresses = self.addresses().get("addresses", {})
        base = addresses.get("http")
        if not base:
            raise ServerGone(f"{self.home / 'server.json'} names no http address. {self.start_hint}")
        return Client(base, self._token, self.start_hint, timeout)

    def _token(self, client: Client) -> str:
        """The token of the home's owner, or of who is signed in on a connection, from the managed-identity
        endpoint, with the home's own secret."""
        from tidemill.cli.http import Client, checked

        path = self.home / "secrets" / "identity.header"
        try:
            secret = path.read_text().strip()
        except FileNotFoundError:
            raise CliError(
                f"{path} is missing, so this user cannot sign in. {self.start_hint}",
                4,
                "AuthenticationFailed",
            ) from None
        state = self.addresses()
        if "identity" in state:
            client = Client(state["identity"], None, self.start_hint)
        reply = client.request(
            "GET",
            "/msi/token",
            query={"api-version": "2019-08-01", "resource": state["addresses"]["https"]},
            headers={"X-IDENTITY-HEADER": secret},
            signed_in=False,
        )
        return checked(reply).json()["access_token"]

    @cached_property
    def scope(self) -> tuple[str, str, str]:
        """(subscription, group, workspace) that commands act on."""
        given = self.given
        found = (
            given.subscription or _variable(SUBSCRIPTION),
            given.group or _variable(GROUP),
            given.workspace or _variable(WORKSPACE),
        )
        if all(found):
            return found
        known = self._default_workspace()
        return (found[0] or known["subscription"], found[1] or known["group"], found[2] or known["name"])

    def _default_workspace(self) -> dict[str, str]:
        """The one made at the first start, from the home's config; else the first that the server names."""
        try:
            config = json.loads((self.home / "config.json").read_bytes())
            return {
                "subscription": config["subscription"],
                "group": config["group"],
                "name": config["workspace"],
            }
        except (OSError, ValueError, KeyError):
            pass
        workspaces = self.client.get("/api/v1/status").get("workspaces") or []
        if not workspaces:
            message = "This server has no workspace yet: tidemill workspace create --name main"
            raise CliError(message, NOT_FOUND, "NoWorkspace")
        first = workspaces[0]
        group = first.get("resourceGroup") or first["group"]
        return {"subscription": first["subscription"], "group": group, "name": first["name"]}

    @property
    def subscription_id(self) -> str:
        return f"/subscriptions/{segment(self.scope[0])}"

    @property
    def group_id(self) -> str:
        return f"{self.subscription_id}/resourceGroups/{segment(self.scope[1])}"

    def workspace_id(self, name: str | None = None) -> str:
        """{W} of architecture.md."""
        return f"{self.group_id}/{PROVIDER}/workspaces/{segment(name or self.scope[2])}"

    @property
    def native(self) -> str:
        """The workspace's prefix in the native API."""
        return "/api/v1" + self.workspace_id()

    @property
    def ca_file(self) -> Path:
        return self.home / "tls" / "ca.pem"

    @cached_property
    def color(self) -> bool:
        return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def note(self, text: str) -> None:
        """A line for the person, on stderr; scripts read stdout."""
        click.echo(text, err=True)


def _variable(names: tuple[str, ...]) -> str:
    return next((os.environ[name] for name in names if os.environ.get(name)), "")
