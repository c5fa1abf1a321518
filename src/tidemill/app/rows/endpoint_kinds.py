"""What rows of both kinds of endpoint, online and batch, have in common: keys, and how they are found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tidemill.app.errors import absent
from tidemill.app.rows.codec import encode
from tidemill.domain.errors import NotFound
from tidemill.domain.model import Event, Key, Resource, Scope
from tidemill.store.api import Read, ResourceQuery


@dataclass(frozen=True, slots=True)
class EndpointKind:
    """`endpoints`: the type of an endpoint's row; `words`: what people call one."""

    endpoints: str
    words: str

    @property
    def deployments(self) -> str:
        return f"{self.endpoints}/deployments"

    def endpoint_key(self, scope: Scope, name: str) -> Key:
        return Key(scope, self.endpoints, name)

    def deployment_key(self, scope: Scope, endpoint: str, name: str) -> Key:
        return Key(scope, self.deployments, name, parent=endpoint)

    def find_endpoint(self, read: Read, scope: Scope, name: str) -> Resource:
        """Raises NotFound naming the endpoints that exist."""
        row = read.get(self.endpoint_key(scope, name))
        if row is None:
            names = [one.key.name for one in read.find(ResourceQuery(self.endpoints, scope))]
            raise absent(self.words, name, names, f"workspace {scope.workspace!r}")
        return row

    def find_deployment(self, read: Read, scope: Scope, endpoint: str, name: str) -> Resource:
        """Raises NotFound naming what exists, also for the endpoint."""
        above = self.find_endpoint(read, scope, endpoint)
        row = read.get(self.deployment_key(scope, above.key.name, name))
        if row is None:
            raise self.no_deployment(read, above, name)
        return row

    def no_deployment(self, read: Read, endpoint: Resource, name: str) -> NotFound:
        names = [one.key.name for one in self.deployments_of(read, endpoint)]
        return absent("Deployment", name, names, f"{self.words.lower()} {endpoint.key.name!r}")

    def deployments_of(
        self, read: Read, endpoint: Resource, limit: int = 0, after: str | None = None
    ) -> Sequence[Resource]:
        """Oldest first."""
        where, above = endpoint.key.scope, endpoint.key.name
        query = ResourceQuery(self.deployments, where, parent=above, ascending=True, limit=limit, after=after)
        return read.find(query)

    def event(
        self, row: Resource, at: int, code: str, message: str, actor: str = "system", **data: Any
    ) -> Event:
        """Kinds: "endpoint" and "deployment"."""
        kind = "endpoint" if row.key.type == self.endpoints else "deployment"
        return Event(row.uid, kind, at, code, message, actor, encode(data))
