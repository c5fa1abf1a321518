"""Who may come in: the endpoint that a request's path names, its caller's credentials, and the deployment."""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from tidemill.serving.gateway.http1 import Request
from tidemill.serving.gateway.live import Deployment, Live, LiveEndpoint
from tidemill.serving.gateway.refusals import Denied

PREFIX = "/endpoints/"
KEY, AML_TOKEN, AAD_TOKEN = "Key", "AMLToken", "AADToken"  # how callers sign in: Endpoint.auth
CHALLENGE = "WWW-Authenticate: Bearer\r\n"
_PATH = re.compile(
    rb"(?:https?://[^/?#]*)?/endpoints/([^/?#]+/[^/?#]+/[^/?#]+/[^/?#]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE
)


class Admitted(NamedTuple):
    """`path`: what the instance is asked for."""

    endpoint: LiveEndpoint
    deployment: Deployment
    path: bytes


def find(live: Live, request: Request) -> tuple[LiveEndpoint, bytes]:
    """-> (the endpoint, the path below it). Raises Denied."""
    match = _PATH.fullmatch(request.target)
    if match is None:
        raise Denied(
            404,
            "NotFound",
            f"There is nothing at {_shown(request.target)}. An online endpoint answers at "
            "/endpoints/SUBSCRIPTION/GROUP/WORKSPACE/ENDPOINT/score (its scoring URI).",
        )
    name = match[1]
    endpoint = live.endpoints.get(name) or live.endpoints.get(unquote_to_bytes(name).lower())
    if endpoint is None:
        *_, workspace, last = unquote_to_bytes(name).split(b"/")
        raise Denied(
            404,
            "EndpointNotFound",
            f"There is no online endpoint {_shown(last)} in workspace {_shown(workspace)} here.",
        )
    rest: bytes = match[2] or b"/"
    return endpoint, rest if rest[:1] == b"/" else b"/" + rest


def choose(endpoint: LiveEndpoint, request: Request) -> Deployment:
    """By the header azureml-model-deployment, else by the shares of traffic. Raises Denied."""
    if request.deployment is not None:
        named = endpoint.by_name.get(request.deployment.lower())
        if named is None:
            raise Denied(
                404,
                "DeploymentNotFound",
                f"azureml-model-deployment: the endpoint has no deployment {_shown(request.deployment)}. "
                f"It has: {', '.join(sorted(one.name for one in endpoint.by_name.values())) or 'none'}.",
            )
        return named
    if endpoint.deck is None:
        raise Denied(
            404,
            "NoTraffic",
            "No deployment of this endpoint gets traffic. Give one a share (tidemill endpoint traffic), or "
            "name one in the header azureml-model-deployment.",
        )
    return endpoint.named(endpoint.deck.shares[endpoint.deck.deal()][0])


def check_reach(endpoint: LiveEndpoint, is_local: bool) -> None:
    """Raises Denied."""
    if not endpoint.record.public and not is_local:
        raise Denied(
            403,
            "PublicNetworkAccessDisabled",
            "This endpoint's public network access is disabled: it answers on its own machine only.",
        )


def bearer(request: Request) -> str:
    """The key or token. Raises Denied."""
    given = request.authorization
    if given is None:
        raise Denied(
            401,
            "Unauthorized",
            "The request has no Authorization header. Send: Authorization: Bearer KEY-OR-TOKEN.",
            CHALLENGE,
        )
    scheme, _, value = given.partition(b" ")
    if scheme.lower() != b"bearer" or not value.strip():
        raise Denied(401, "Unauthorized", "The Authorization header is not: Bearer KEY-OR-TOKEN.", CHALLENGE)
    return value.strip().decode("latin-1")


def check_key(endpoint: LiveEndpoint, key: str) -> None:
    """In a time that does not depend on how much of it is right. Raises Denied."""
    digest = hashlib.sha256(key.encode("latin-1")).digest()
    right = False
    for known in endpoint.digests:
        right |= hmac.compare_digest(digest, known)
    if not right:
        raise Denied(
            401,
            "InvalidKey",
            "The key is none of this endpoint's, or was replaced. It signs callers in by key: "
            "tidemill endpoint keys shows them to who may see them.",
            CHALLENGE,
        )


def _shown(raw: bytes) -> str:
    text = raw.decode("latin-1")
    return repr(text if len(text) <= 120 else text[:120] + "…")
