"""Where clients learn about this cloud, and the managed identity of the home's owner. Both are public: a
token cannot be asked for before there is one; the identity checks a secret of its own."""

from __future__ import annotations

from functools import lru_cache

import msgspec
from starlette.responses import Response

from tidemill import __version__
from tidemill.app.services import Addresses
from tidemill.domain.errors import InvalidRequest, Unauthenticated
from tidemill.identity.tokens import ML_AUDIENCE, PRINCIPAL_TTL_S
from tidemill.wire.http import PUBLIC, Context, Route, bytes_response, json_response

CLOUD = "LocalAML"  # must not be the name of a built-in cloud: those win in the SDK
PORTAL = "https://portal.azure.localhost/"  # the SDK derives the audience https://ml.azure.localhost from it
LOGIN = "https://localhost/"  # without a port: azureml-mlflow refuses one


@lru_cache(maxsize=4)
def cloud_metadata(addresses: Addresses) -> bytes:
    """The clouds that the SDK knows besides its own. `resourceManager` must be a substring of
    ARM_CLOUD_METADATA_URL for it to be chosen."""
    base = addresses.https + "/"
    cloud = {
        "name": CLOUD,
        "portal": PORTAL,
        "resourceManager": base,
        "authentication": {
            "loginEndpoint": LOGIN,
            "audiences": [base, addresses.https, ML_AUDIENCE],
            "tenant": "adfs",
            "identityProvider": "ADFS",
        },
        "media": addresses.https,
        "graph": addresses.https,
        "graphAudience": addresses.https,
        "batch": addresses.https,
        "suffixes": {
            "storage": "core.windows.net",
            "keyVaultDns": ".vault.localhost",
            "sqlServerHostname": ".sql.localhost",
            "acrLoginServer": "localhost",
        },
    }
    return msgspec.json.encode([cloud])


async def _metadata(ctx: Context) -> Response:
    return bytes_response(cloud_metadata(ctx.services.addresses))


async def _ca(ctx: Context) -> Response:
    """The home's CA (PEM), for who compares its fingerprint before believing it."""
    pem = (ctx.services.settings.home / "tls" / "ca.pem").read_bytes()
    return Response(pem, headers={"Cache-Control": "no-store"}, media_type="application/x-pem-file")


async def _where(ctx: Context) -> Response:
    """What `tidemill connect` needs to know before anybody signs in: the ports."""
    addresses = ctx.services.addresses
    known = {"https": addresses.https, "http": addresses.http, "data": addresses.data}
    if addresses.gateway:
        known["gateway"] = addresses.gateway
    return json_response({"version": __version__, "addresses": known})


async def _managed_identity(ctx: Context) -> Response:
    """App Service's managed identity: the secret is in the header X-IDENTITY-HEADER."""
    tokens = ctx.services.tokens
    if not tokens.is_identity_header(ctx.request.header("x-identity-header")):
        raise Unauthenticated(
            "The header X-IDENTITY-HEADER does not hold this home's secret. "
            'Set the variables again: eval "$(tidemill env)"',
            "InvalidIdentityHeader",
        )
    query = ctx.request.query
    resource = query.get("resource", "")
    if not resource:
        raise InvalidRequest("The query parameter 'resource' is missing.", "MissingParameter", "resource")
    client = query.get("client_id") or query.get("mi_res_id") or ""
    if client and client.lower() != tokens.owner.client_id.lower():
        raise InvalidRequest(
            f"There is no identity {client!r} here; leave it out.", "IdentityNotFound", "client_id"
        )
    token = tokens.issue_owner(resource)
    ctx.caller = tokens.verify(token)
    return json_response(
        {
            "access_token": token,
            "expires_on": str(ctx.services.clock.now() // 1_000_000 + PRINCIPAL_TTL_S),
            "resource": resource,
            "token_type": "Bearer",
            "client_id": tokens.owner.client_id,
        },
        headers={"Cache-Control": "no-store"},
    )


def routes() -> list[Route]:
    """The cloud's metadata and the managed identity."""
    return [
        Route("GET", "/metadata/endpoints", PUBLIC, _metadata, "metadata"),
        Route("GET", "/ca.pem", PUBLIC, _ca, "certificate authority"),
        Route("GET", "/.well-known/tidemill", PUBLIC, _where, "ports"),
        Route("GET", "/msi/token", PUBLIC, _managed_identity, "managed identity", signs_in=True),
    ]
