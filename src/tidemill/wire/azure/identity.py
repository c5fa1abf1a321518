"""Where clients learn about this cloud and get their tokens. All of it is public: a token cannot be asked
for before there is one; the token endpoints check a secret of their own."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import msgspec
from starlette.responses import Response

from tidemill.app.services import Addresses
from tidemill.domain.errors import InvalidRequest, TidemillError, Unauthenticated
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


async def _openid_configuration(ctx: Context) -> Response:
    adfs = ctx.services.addresses.https + "/adfs"
    return json_response(
        {
            "issuer": adfs,
            "authorization_endpoint": f"{adfs}/oauth2/authorize",
            "token_endpoint": f"{adfs}/oauth2/token",
            "jwks_uri": f"{adfs}/discovery/keys",
            "device_authorization_endpoint": f"{adfs}/oauth2/devicecode",
            "response_types_supported": ["code", "token"],
            "grant_types_supported": ["client_credentials"],
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "access_token_issuer": ctx.services.tokens.issuer,
        }
    )


async def _jwks(ctx: Context) -> Response:
    return json_response(ctx.services.tokens.jwks())


async def _client_credentials(ctx: Context) -> Response:
    """OAuth 2 client credentials. Errors are OAuth's, not ARM's: MSAL reads them."""
    form, tokens = await ctx.request.form(), ctx.services.tokens
    if form.get("grant_type") != "client_credentials":
        return _oauth_error("unsupported_grant_type", "Only client_credentials is offered here.", 400)
    if not tokens.is_client(form.get("client_id", ""), form.get("client_secret", "")):
        return _oauth_error("invalid_client", "The client id or the client secret is wrong.", 401)
    asked = form.get("resource") or _resource_of(form.get("scope", ""))
    try:
        token = tokens.issue_owner(asked)
    except TidemillError as error:
        return _oauth_error("invalid_resource", error.message, 400)
    ctx.caller = tokens.verify(token)
    body: dict[str, Any] = {"access_token": token, "token_type": "Bearer", "expires_in": PRINCIPAL_TTL_S}
    return json_response(body, headers={"Cache-Control": "no-store"})


def _resource_of(scopes: str) -> str:
    """`https://x//.default openid` -> `https://x/`."""
    wanted = next((scope for scope in scopes.split() if scope.endswith("/.default")), scopes)
    return wanted.removesuffix("/.default")


def _oauth_error(code: str, message: str, status: int) -> Response:
    return json_response({"error": code, "error_description": message}, status)


def routes() -> list[Route]:
    """Metadata, discovery of keys, and the two token endpoints."""
    adfs = "/adfs"
    return [
        Route("GET", "/metadata/endpoints", PUBLIC, _metadata, "metadata"),
        Route("GET", "/msi/token", PUBLIC, _managed_identity, "managed identity", signs_in=True),
        Route("GET", f"{adfs}/.well-known/openid-configuration", PUBLIC, _openid_configuration),
        Route("GET", f"{adfs}/discovery/keys", PUBLIC, _jwks),
        Route("POST", f"{adfs}/oauth2/token", PUBLIC, _client_credentials, signs_in=True),
    ]
