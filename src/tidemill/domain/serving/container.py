"""An environment's `inferenceConfig`, read: the routes of a server that an image brings.

https://learn.microsoft.com/azure/machine-learning/how-to-deploy-custom-container
"""

from __future__ import annotations

from typing import Any

from tidemill.domain.errors import InvalidRequest
from tidemill.domain.fields import integer, mapping, text
from tidemill.domain.serving.service import Container, Route

_WHERE = "properties.inferenceConfig"


def read_container(raw: Any) -> Container:
    """Raises InvalidRequest (target: the field)."""
    given = mapping(raw, _WHERE)
    liveness, readiness, scoring = (
        _route(given.get(name), f"{_WHERE}.{name}")
        for name in ("livenessRoute", "readinessRoute", "scoringRoute")
    )
    return Container(liveness, readiness, scoring)


def _route(raw: Any, where: str) -> Route:
    given = mapping(raw, where)
    if not given:
        raise InvalidRequest(f"{where} is missing: give its port and its path.", target=where)
    path = text(given.get("path")) or "/"
    if not path.startswith("/") or any(not "!" <= character <= "~" for character in path):
        raise InvalidRequest(
            f"{where}.path {path!r} must begin with '/' and hold printable ASCII without spaces.",
            target=f"{where}.path",
        )
    port = integer(given.get("port"), 0, f"{where}.port", 1, 65535)
    if not port:
        raise InvalidRequest(f"{where}.port is missing: which port the server listens on.", target=where)
    return Route(port, path)
