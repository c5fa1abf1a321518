"""OAuth 2 and OpenID Connect as AD FS serves them: what MSAL, and so azure-identity, speaks to this cloud.

Errors are OAuth's, not ARM's: MSAL reads them. All of it is public, as none of it can be asked with a token;
each grant proves who asks.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.responses import Response

from tidemill.app.codes import DEVICE_US, INTERVAL_S, DevicePending
from tidemill.app.people import credentials, sign_in
from tidemill.app.people.sign_in import TOKEN_TTL_S, SlowDown
from tidemill.domain.errors import InvalidRequest, Unauthenticated
from tidemill.domain.principals import Principal
from tidemill.domain.signin import SECOND
from tidemill.identity.assertions import ASSERTION_TYPE
from tidemill.identity.tokens import PRINCIPAL_TTL_S
from tidemill.wire.http import PUBLIC, Context, Route, json_response

ADFS = "/adfs"
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
DEFAULT_RESOURCE = "https://management.azure.com"
_NO_STORE = {"Cache-Control": "no-store"}


ERROR_CODE = "x-ms-error-code"  # as ARM's errors have it: the activity log reads it


class _OAuthError(Exception):
    def __init__(self, error: str, message: str, status: int = 400) -> None:
        self.error, self.message, self.status = error, message, status


async def _openid_configuration(ctx: Context) -> Response:
    """Addresses as localhost: clients elsewhere see this server as localhost, too."""
    base = ctx.services.addresses.https
    return json_response(
        {
            "issuer": base + ADFS,
            "authorization_endpoint": f"{base}/ui/authorize",
            "token_endpoint": f"{base}{ADFS}/oauth2/token",
            "device_authorization_endpoint": f"{base}{ADFS}/oauth2/devicecode",
            "revocation_endpoint": f"{base}{ADFS}/oauth2/revoke",
            "jwks_uri": f"{base}{ADFS}/discovery/keys",
            "response_types_supported": ["code"],
            "response_modes_supported": ["query"],
            "code_challenge_methods_supported": ["S256"],
            "grant_types_supported": list(_GRANTS),
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "token_endpoint_auth_signing_alg_values_supported": ["RS256", "PS256", "ES256"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "subject_types_supported": ["public"],
            "access_token_issuer": ctx.services.tokens.issuer,
        }
    )


async def _jwks(ctx: Context) -> Response:
    return json_response(ctx.services.tokens.jwks())


async def _token(ctx: Context) -> Response:
    form = await ctx.request.form()
    try:
        grant = _GRANTS.get(form.get("grant_type", ""))
        if grant is None:
            known = ", ".join(_GRANTS)
            asked = form.get("grant_type", "")
            raise _OAuthError("unsupported_grant_type", f"grant_type is {asked!r}; here there is: {known}.")
        return json_response(await grant(ctx, form), headers=_NO_STORE)
    except _OAuthError as error:
        return oauth_error(error.error, error.message, error.status)
    except SlowDown as error:
        return oauth_error(
            "temporarily_unavailable", error.message, 429, {"Retry-After": str(error.retry_after_s)}
        )
    except DevicePending as error:
        return oauth_error(error.code, error.message, 400)
    except Unauthenticated as error:
        # RFC 6749 5.2: 401 is for programs that could not prove who they are.
        client = error.code == "invalid_client" or form.get("grant_type") == "client_credentials"
        return oauth_error(
            "invalid_client" if client else "invalid_grant", error.message, 401 if client else 400
        )
    except InvalidRequest as error:
        known_words = ("invalid_grant", "invalid_resource", "invalid_request")
        return oauth_error(error.code if error.code in known_words else "invalid_request", error.message, 400)


async def _client_credentials(ctx: Context, form: dict[str, str]) -> dict[str, Any]:
    """Programs: a secret, or an assertion signed with a certificate. The home's owner has one secret, too."""
    services, client_id = ctx.services, form.get("client_id", "")
    resource = _resource(form)
    if "client_assertion" in form:
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise _OAuthError("invalid_client", f"client_assertion_type must be {ASSERTION_TYPE}.", 401)
        audiences = [f"{services.addresses.https}{ADFS}/oauth2/token", f"{services.addresses.https}{ADFS}"]
        who = await credentials.by_assertion(services, client_id, form["client_assertion"], audiences)
        return _program(ctx, services.tokens.issue_to(who, resource, TOKEN_TTL_S), TOKEN_TTL_S)
    secret = form.get("client_secret", "")
    if services.tokens.is_client(client_id, secret):
        return _program(ctx, services.tokens.issue_owner(resource), PRINCIPAL_TTL_S)
    who = await credentials.by_secret(services, client_id, secret)
    return _program(ctx, services.tokens.issue_to(who, resource, TOKEN_TTL_S), TOKEN_TTL_S)


async def _password(ctx: Context, form: dict[str, str]) -> dict[str, Any]:
    name, password, address = form.get("username", ""), form.get("password", ""), ctx.request.address
    who = await sign_in.by_password(ctx.services, name, password, address)
    return await _person(ctx, form, who, "password")


async def _authorization_code(ctx: Context, form: dict[str, str]) -> dict[str, Any]:
    services, code = ctx.services, form.get("code", "")
    held, used = services.codes.redeem(
        code,
        form.get("client_id", ""),
        form.get("redirect_uri", ""),
        form.get("code_verifier", ""),
        services.clock.now(),
    )
    if used:
        # RFC 6749 4.1.2: somebody else has the code, too. What it gave is taken back.
        await sign_in.end(services, held.session, "its authorization code was used twice")
        raise _OAuthError("invalid_grant", "The code was used before; what it gave is void. Sign in again.")
    asked = {"scope": held.scope, **form}
    services.tokens.check_audience(_resource(asked))
    grant = await sign_in.begin(
        services,
        held.oid,
        client=held.client_id,
        how="browser",
        address=ctx.request.address,
        allowed_by=held.allowed_by,
    )
    services.codes.note_session(code, grant.session.id)
    return _answer(ctx, asked, grant, held.nonce)


async def _device_code(ctx: Context, form: dict[str, str]) -> dict[str, Any]:
    services = ctx.services
    code = form.get("device_code") or form.get("code", "")
    held = services.codes.poll(code, form.get("client_id", ""), services.clock.now())
    asked = {"scope": held.scope, **form}
    services.tokens.check_audience(_resource(asked))
    grant = await sign_in.begin(
        services,
        held.oid,
        client=held.client_id,
        how="device code",
        address=ctx.request.address,
        allowed_by=held.allowed_by,
    )
    return _answer(ctx, asked, grant)


async def _refresh(ctx: Context, form: dict[str, str]) -> dict[str, Any]:
    # Before the refresh token is turned: a client that gets no answer keeps the old one, and using that later
    # would end its sign-in.
    ctx.services.tokens.check_audience(_resource(form))
    grant = await sign_in.refresh(ctx.services, form.get("refresh_token", ""))
    return _answer(ctx, form, grant)


async def _person(ctx: Context, form: dict[str, str], who: Principal, how: str) -> dict[str, Any]:
    ctx.services.tokens.check_audience(_resource(form))  # before there is a session that nobody gets
    grant = await sign_in.begin(
        ctx.services, who.oid, client=form.get("client_id", ""), how=how, address=ctx.request.address
    )
    return _answer(ctx, form, grant)


def _answer(ctx: Context, form: dict[str, str], grant: sign_in.Grant, nonce: str = "") -> dict[str, Any]:
    services, resource = ctx.services, _resource(form)
    token = sign_in.access_token(services, grant, resource)
    ctx.caller = services.tokens.verify(token)  # for the activity log
    answer: dict[str, Any] = {
        "access_token": token,
        "token_type": "Bearer",
        "expires_in": TOKEN_TTL_S,
        "refresh_token": grant.refresh_token,
        "refresh_token_expires_in": (grant.session.expires_at - services.clock.now()) // SECOND,
        "scope": form.get("scope", ""),
        "resource": resource,
    }
    if "openid" in form.get("scope", "").split():
        issuer = services.addresses.https + ADFS
        client_id = form.get("client_id", "")
        answer["id_token"] = services.tokens.issue_id_token(grant.principal, client_id, nonce, issuer)
    return answer


def _program(ctx: Context, token: str, ttl_s: int) -> dict[str, Any]:
    ctx.caller = ctx.services.tokens.verify(token)  # for the activity log
    return {"access_token": token, "token_type": "Bearer", "expires_in": ttl_s}


async def _start_device(ctx: Context) -> Response:
    """RFC 8628. `verification_uri` is the loopback address: who has no way to it uses the server's own
    name."""
    form = await ctx.request.form()
    services = ctx.services
    device = services.codes.device(
        form.get("client_id", ""), ctx.request.address, form.get("scope", ""), services.clock.now()
    )
    page = f"{services.addresses.http}/ui/device"
    return json_response(
        {
            "device_code": device.code,
            "user_code": device.user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?user_code={device.user_code}",
            "verification_url": page,  # AD FS's spelling
            "expires_in": DEVICE_US // SECOND,
            "interval": INTERVAL_S,
            "message": f"To sign in, open {page} in a browser and enter the code {device.user_code}.",
        },
        headers=_NO_STORE,
    )


async def _revoke(ctx: Context) -> Response:
    form = await ctx.request.form()
    await sign_in.end_by_token(ctx.services, form.get("token", ""))
    return json_response({}, headers=_NO_STORE)


def _resource(form: dict[str, str]) -> str:
    """`resource`, or that of a scope: `https://x//.default openid` -> `https://x/`."""
    scopes = form.get("scope", "").split()
    wanted = next((scope for scope in scopes if scope.endswith("/.default")), "")
    plain = [scope for scope in scopes if scope not in ("openid", "profile", "offline_access")]
    return (
        form.get("resource") or wanted.removesuffix("/.default") or (plain[0] if plain else DEFAULT_RESOURCE)
    )


def oauth_error(code: str, message: str, status: int, headers: dict[str, str] | None = None) -> Response:
    body = {"error": code, "error_description": message}
    return json_response(body, status, {**_NO_STORE, ERROR_CODE: code, **(headers or {})})


_Grant = Callable[[Context, dict[str, str]], Awaitable[dict[str, Any]]]
_GRANTS: dict[str, _Grant] = {
    "client_credentials": _client_credentials,
    "password": _password,
    "authorization_code": _authorization_code,
    "refresh_token": _refresh,
    DEVICE_GRANT: _device_code,
    "device_code": _device_code,  # AD FS's spelling
}


def routes() -> list[Route]:
    """Discovery, keys, tokens."""
    return [
        Route("GET", f"{ADFS}/.well-known/openid-configuration", PUBLIC, _openid_configuration),
        Route("GET", f"{ADFS}/discovery/keys", PUBLIC, _jwks),
        Route("POST", f"{ADFS}/oauth2/token", PUBLIC, _token, signs_in=True),
        Route("POST", f"{ADFS}/oauth2/devicecode", PUBLIC, _start_device),
        Route("POST", f"{ADFS}/oauth2/revoke", PUBLIC, _revoke),
    ]
