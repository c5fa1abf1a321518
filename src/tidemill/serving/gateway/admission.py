"""Who may come in: the endpoint that a request's path names, its caller's credentials, and the deployment."""

from __future__ import annotations

import re
from hashlib import sha256
from hmac import compare_digest
from urllib.parse import unquote_to_bytes

from tidemill.domain.serving.limits import RATE
from tidemill.serving.gateway.http1 import Request
from tidemill.serving.gateway.live import Deployment, Live, LiveEndpoint
from tidemill.serving.gateway.refusals import Denied

SCORE = b"/score"
KEY, AML_TOKEN, AAD_TOKEN = "Key", "AMLToken", "AADToken"  # how callers sign in: Endpoint.auth
CHALLENGE = "WWW-Authenticate: Bearer\r\n"
_PATH = re.compile(
    rb"(?:https?://[^/?#]*)?/endpoints/([^/?#]+/[^/?#]+/[^/?#]+/[^/?#]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE
)


Admitted = tuple[LiveEndpoint, Deployment, bytes]
"""The endpoint, the deployment, and the path that its instance is asked for."""


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


def path_at(deployment: Deployment, path: bytes) -> bytes:
    """What an instance is asked for: its /score may have another name."""
    if deployment.score_path is not None and (path == SCORE or path.startswith(SCORE + b"?")):
        return deployment.score_path + path[len(SCORE) :]
    return path


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
    return endpoint.dealt[endpoint.deck.deal()]


def check_reach(endpoint: LiveEndpoint, is_local: bool) -> None:
    """Raises Denied."""
    if not endpoint.record.public and not is_local:
        raise Denied(
            403,
            "PublicNetworkAccessDisabled",
            "This endpoint's public network access is disabled: it answers on its own machine only.",
        )


def check_rate(endpoint: LiveEndpoint, now: float) -> None:
    """Counts a request; a second's worth may come at once. Raises Denied."""
    rate = endpoint.record.rate
    endpoint.allowance = min(max(rate, 1.0), endpoint.allowance + (now - endpoint.counted_at) * rate)
    endpoint.counted_at = now
    if endpoint.allowance < 1.0:
        raise Denied(
            429,
            "RateLimitExceeded",
            f"This endpoint takes {rate:g} requests a second ({RATE} of its properties).",
            "Retry-After: 1\r\n",
        )
    endpoint.allowance -= 1.0


def bearer(request: Request) -> bytes:
    """The key or token. Raises Denied."""
    given = request.authorization
    if given is None:
        raise Denied(
            401,
            "Unauthorized",
            "The request has no Authorization header. Send: Authorization: Bearer KEY-OR-TOKEN.",
            CHALLENGE,
        )
    value = given[7:].strip()
    if given[:7].lower() != b"bearer " or not value:
        text = "The Authorization header is not: Bearer KEY-OR-TOKEN."
        raise Denied(401, "Unauthorized", text, CHALLENGE)
    return value


def check_key(endpoint: LiveEndpoint, key: bytes) -> None:
    """In a time that does not depend on how much of it is right. Raises Denied."""
    digest = sha256(key).digest()
    right = False
    for known in endpoint.digests:
        right |= compare_digest(digest, known)
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
