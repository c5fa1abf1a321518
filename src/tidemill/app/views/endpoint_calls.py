"""One request to an online endpoint, sent by the server itself through its gateway: the portal's console."""

from __future__ import annotations

import asyncio
import ssl
import time
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from urllib.parse import urlsplit

from tidemill.app.rows.codec import decode_object
from tidemill.app.services import Services
from tidemill.app.serving import endpoint_keys, endpoints
from tidemill.app.views.endpoint_views import scoring_uri
from tidemill.domain.errors import Conflict, InvalidRequest
from tidemill.domain.model import Caller, Resource, Scope
from tidemill.domain.serving.model import AML_TOKEN, KEY
from tidemill.identity.tokens import ML_AUDIENCE

DEPLOYMENT_HEADER = "azureml-model-deployment"
TIMEOUT_S = 120.0
MOST_SHOWN = 256 * 1024  # bytes of an answer
_TOKEN_TTL_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """`milliseconds`: from the first byte sent to the last one read. `cut`: the answer was longer."""

    status: int
    text: str
    milliseconds: float
    deployment: str
    cut: bool


async def call(
    s: Services, caller: Caller, scope: Scope, endpoint: str, body: bytes, deployment: str = ""
) -> Answer:
    """In the caller's name: as whoever has the endpoint's key, or by the caller's own roles. Raises NotFound,
    InvalidRequest for an empty body, Conflict where nothing answers."""
    row = await endpoints.get(s, scope, endpoint)
    uri = scoring_uri(s, row)
    if uri is None:
        raise Conflict("This server runs no gateway, so no request reaches an endpoint.", "NoGateway")
    if not body.strip():
        raise InvalidRequest("There is nothing to send: write a request body.", target="body")
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {await _credential(s, caller, row)}",
    }
    if deployment:
        headers[DEPLOYMENT_HEADER] = deployment
    return await asyncio.to_thread(_send, uri, str(s.settings.ca_bundle), body, headers)


async def _credential(s: Services, caller: Caller, row: Resource) -> str:
    mode = decode_object(row.spec)["authMode"]
    if mode == KEY:
        return endpoint_keys.keys_of(s, row).primary
    if mode == AML_TOKEN:
        return s.tokens.issue_for_endpoint(row.uid, caller.oid, caller.name)[0]
    principal = (await s.access.current()).principal(caller.oid)
    if principal is None:
        raise Conflict("Only a principal can call an endpoint with auth mode aad_token.", "NoPrincipal")
    return s.tokens.issue_to(principal, ML_AUDIENCE, _TOKEN_TTL_S)


def _send(uri: str, ca_file: str, body: bytes, headers: dict[str, str]) -> Answer:
    parts = urlsplit(uri)
    context = ssl.create_default_context(cafile=ca_file)
    connection = HTTPSConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S, context=context)
    began = time.perf_counter()
    try:
        connection.request("POST", parts.path, body, headers)
        response = connection.getresponse()
        raw = response.read(MOST_SHOWN + 1)
    except (OSError, HTTPException) as error:
        raise Conflict(f"The gateway at {uri} does not answer: {error}.", "NoAnswer") from error
    finally:
        connection.close()
    took = (time.perf_counter() - began) * 1000
    text = raw[:MOST_SHOWN].decode("utf-8", "replace")
    name = response.getheader(DEPLOYMENT_HEADER) or ""
    return Answer(response.status, text, took, name, len(raw) > MOST_SHOWN)
