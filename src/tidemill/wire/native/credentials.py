"""Passwords, secrets and certificates of principals, providers of identities, and one's own sign-ins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
from starlette.responses import Response

from tidemill.app.people import credentials, providers, sign_in
from tidemill.app.people.access import JOB
from tidemill.app.times import iso
from tidemill.domain.errors import Forbidden, InvalidRequest
from tidemill.domain.oidc import Provider
from tidemill.domain.signin import Credential
from tidemill.wire.http import SIGNED_IN, Context, Route, json_response

ACTION = "Microsoft.Authorization/principals/credentials"
_ONE = "/api/v1/access/principals/{who}"
_ME = "/api/v1/access/me"
PROVIDERS = "Microsoft.Authorization/identityProviders"
_PROVIDERS = "/api/v1/access/providers"


def routes() -> list[Route]:
    return [
        Route("GET", f"{_ONE}/credentials", f"{ACTION}/read", list_credentials),
        Route("PUT", f"{_ONE}/password", f"{ACTION}/write", set_password),
        Route("POST", f"{_ONE}/secrets", f"{ACTION}/write", create_secret),
        Route("POST", f"{_ONE}/certificates", f"{ACTION}/write", add_certificate),
        Route("DELETE", f"{_ONE}/credentials/{{id}}", f"{ACTION}/delete", delete_credential),
        Route("POST", f"{_ONE}/signOut", f"{ACTION}/write", sign_out_everywhere),
        Route("GET", _PROVIDERS, f"{PROVIDERS}/read", list_providers),
        Route("PUT", f"{_PROVIDERS}/{{name}}", f"{PROVIDERS}/write", put_provider),
        Route("DELETE", f"{_PROVIDERS}/{{name}}", f"{PROVIDERS}/delete", delete_provider),
        Route("PUT", f"{_ME}/password", SIGNED_IN, change_own_password),
        Route("GET", f"{_ME}/sessions", SIGNED_IN, list_sessions),
        Route("POST", f"{_ME}/signOut", SIGNED_IN, sign_out),
    ]


def credential_body(one: Credential) -> dict[str, Any]:
    """Never its value."""
    return {
        "id": one.id,
        "kind": one.kind.value,
        "name": one.name,
        "hint": one.hint,
        "created_at": iso(one.created_at),
        "created_by": one.created_by,
        "expires_at": None if one.expires_at is None else iso(one.expires_at),
    }


async def list_credentials(ctx: Context) -> Response:
    _, found = await credentials.credentials_of(ctx.services, ctx.params["who"])
    return json_response({"value": [credential_body(one) for one in found]})


async def set_password(ctx: Context) -> Response:
    """`{"password"}`."""
    body = await ctx.request.json()
    who = await credentials.set_password(ctx.services, ctx.caller, ctx.params["who"], _text(body, "password"))
    return json_response({"name": who.name})


async def change_own_password(ctx: Context) -> Response:
    """`{"current", "password"}`: of the person who asks. Their other sign-ins end."""
    _refuse_jobs(ctx)
    body = await ctx.request.json()
    who = await credentials.change_own_password(
        ctx.services, ctx.caller, _text(body, "current"), _text(body, "password"), ctx.request.address
    )
    return json_response({"name": who.name})


async def create_secret(ctx: Context) -> Response:
    """`{"name", "days"}` -> the credential with `client_id` and `secret`, which is not shown again."""
    body = await ctx.request.json()
    days = body.get("days", credentials.SECRET_DAYS)
    if not isinstance(days, int) or isinstance(days, bool):
        raise InvalidRequest(f"days is {days!r}: it must be a whole number.", target="days")
    who, made, secret = await credentials.create_secret(
        ctx.services, ctx.caller, ctx.params["who"], str(body.get("name") or ""), days
    )
    shown = {**credential_body(made), "client_id": who.app_id, "tenant": "adfs", "secret": secret}
    return json_response(shown, 201, {"Cache-Control": "no-store"})


async def add_certificate(ctx: Context) -> Response:
    """`{"name", "certificate"}`: PEM, without its key. -> the credential with `client_id`."""
    body = await ctx.request.json()
    pem = _text(body, "certificate").encode()
    if b"PRIVATE KEY" in pem:
        raise InvalidRequest(
            "There is a private key in it, which belongs to the program alone: send the certificate only, "
            "and make a new pair, as this one has been sent.",
            target="certificate",
        )
    who, made = await credentials.add_certificate(
        ctx.services, ctx.caller, ctx.params["who"], pem, str(body.get("name") or "")
    )
    return json_response({**credential_body(made), "client_id": who.app_id, "tenant": "adfs"}, 201)


async def delete_credential(ctx: Context) -> Response:
    gone = await credentials.delete_credential(ctx.services, ctx.params["who"], ctx.params["id"])
    return json_response(credential_body(gone))


async def sign_out_everywhere(ctx: Context) -> Response:
    """Ends every sign-in of somebody. -> `{"ended": how many}`."""
    who, _ = await credentials.credentials_of(ctx.services, ctx.params["who"])
    ended = await sign_in.end_all(ctx.services, who.oid, f"signed out by {ctx.caller.name}")
    return json_response({"ended": ended})


async def list_sessions(ctx: Context) -> Response:
    """One's own sign-ins that live, the newest first; `current`: the one that asks."""
    _refuse_jobs(ctx)
    found = await sign_in.sessions_of(ctx.services, ctx.caller.oid)
    value = [
        {
            "id": one.id,
            "client": one.client,
            "how": one.how,
            "address": one.address,
            "created_at": iso(one.created_at),
            "used_at": iso(one.used_at),
            "expires_at": iso(one.expires_at),
            "current": one.id == ctx.caller.session,
        }
        for one in found
    ]
    return json_response({"value": value})


async def sign_out(ctx: Context) -> Response:
    """This sign-in, or with `?everywhere=true` all of one's own. -> `{"ended": how many}`."""
    _refuse_jobs(ctx)
    if ctx.request.query.get("everywhere") == "true":
        ended = await sign_in.end_all(ctx.services, ctx.caller.oid, "signed out everywhere")
    else:
        session = ctx.caller.session
        ended = int(bool(session) and await sign_in.end(ctx.services, session, "signed out"))
    return json_response({"ended": ended})


def provider_body(one: Provider) -> dict[str, Any]:
    """Never its client secret."""
    return {
        "name": one.name,
        "label": one.shown,
        "issuer": one.issuer,
        "client_id": one.client_id,
        "has_secret": bool(one.client_secret),
        "scopes": one.scopes,
        "user_claim": one.user_claim,
        "domains": one.domains,
        "groups_claim": one.groups_claim,
        "groups": one.groups,
    }


async def list_providers(ctx: Context) -> Response:
    found = await providers.all_of_them(ctx.services)
    return json_response({"value": [provider_body(one) for one in found]})


async def put_provider(ctx: Context) -> Response:
    """The body as `list_providers` shows it, and `client_secret`. -> it, with `redirect_uris`: what the
    provider has to know of this server."""
    body = {**await ctx.request.json(), "name": ctx.params["name"]}
    try:
        provider = msgspec.convert(body, Provider)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"The provider cannot be read: {error}.") from None
    lowered = replace(provider, domains=tuple(domain.lower() for domain in provider.domains))
    made = await providers.put(ctx.services, lowered)
    return json_response({**provider_body(made), "redirect_uris": _redirect_uris(ctx)})


async def delete_provider(ctx: Context) -> Response:
    await providers.remove(ctx.services, ctx.params["name"])
    return json_response({"name": ctx.params["name"]})


def _redirect_uris(ctx: Context) -> list[str]:
    """Of every address that a browser may come by."""
    addresses, names = ctx.services.addresses, ctx.services.settings.listening.names
    port = addresses.https.rpartition(":")[2]
    shown = [f"[{name}]" if ":" in name else name for name in names]
    bases = [*(f"https://{name}:{port}" for name in shown), addresses.http, addresses.https]
    return [f"{base}/ui/oidc/callback" for base in bases]


def _refuse_jobs(ctx: Context) -> None:
    if ctx.caller.kind == JOB:
        raise Forbidden("A job has no sign-ins and no password. Use a token of your own.")


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise InvalidRequest(f"{name!r} is missing: a text that is not empty.", target=name)
    return value
