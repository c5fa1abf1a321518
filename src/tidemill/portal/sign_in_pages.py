"""Signing in with a browser: a password, a provider; and letting programs act for who is signed in."""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit

from starlette.responses import Response

from tidemill.app.codes import Authorization
from tidemill.app.people import providers, sign_in
from tidemill.app.people.access import JOB
from tidemill.app.services import Services
from tidemill.domain.errors import Forbidden, InvalidRequest, NotFound, TidemillError, Unauthenticated
from tidemill.domain.listening import LOCAL_NAMES
from tidemill.domain.signin import CredentialKind
from tidemill.portal import pages, session
from tidemill.portal.frame import is_fragment
from tidemill.wire.http import PUBLIC, SIGNED_IN, Context, Request, Route

CALLBACK = "/ui/oidc/callback"
BROWSER_COOKIE = "tidemill_sign_in"
BROWSER_S = 900


def routes() -> list[Route]:
    return [
        Route("GET", "/ui/sign-in", PUBLIC, show),
        Route("POST", "/ui/sign-in", PUBLIC, by_password, signs_in=True),
        Route("POST", "/ui/sign-out", SIGNED_IN, sign_out),
        Route("GET", "/ui/oidc/{provider}/start", PUBLIC, to_provider),
        Route("GET", CALLBACK, PUBLIC, from_provider, signs_in=True),
        Route("GET", "/ui/authorize", SIGNED_IN, ask_authorize),
        Route("POST", "/ui/authorize", SIGNED_IN, authorize),
        Route("GET", "/ui/device", SIGNED_IN, ask_device),
        Route("POST", "/ui/device", SIGNED_IN, allow_device),
    ]


async def sign_in_page(
    services: Services,
    request: Request,
    error: TidemillError | None = None,
    *,
    after: str = "",
    name: str = "",
) -> Response:
    """The form and the providers' buttons; with why somebody has to sign in, where there is more to say than
    that they are not. Afterwards it goes on to the page that was asked for."""
    shows_itself = request.path.lower().startswith(("/ui/login", "/ui/sign-in", "/ui/oidc"))
    if not after and request.method == "GET" and not shows_itself and not is_fragment(request):
        query = request.scope["query_string"].decode("latin-1")
        after = request.path + (f"?{query}" if query else "")
    plain = error is None or (error.code == "AuthenticationFailed" and "link" not in error.message.lower())
    response = pages.page(
        "sign_in.html",
        200 if error is None else error.status,
        providers=await providers.all_of_them(services),
        passwords=await services.store.read(lambda r: bool(r.holders(CredentialKind.PASSWORD))),
        problem="" if plain or error is None else error.message,
        after=after or session.HOME,
        name=name,
    )
    if isinstance(error, sign_in.SlowDown):
        response.headers["retry-after"] = str(error.retry_after_s)
    return response


async def show(ctx: Context) -> Response:
    after = session.local_page(ctx.request.query.get("next", ""))
    if await session.signed_in(ctx.services, ctx.request.header("cookie")):
        return pages.redirect(after)
    return await sign_in_page(ctx.services, ctx.request, after=after)


async def by_password(ctx: Context) -> Response:
    session.require_same_origin(ctx)
    form = await ctx.request.form()
    after, name = session.local_page(form.get("next", "")), form.get("name", "")
    try:
        who = await sign_in.by_password(ctx.services, name, form.get("password", ""), ctx.request.address)
    except (Unauthenticated, sign_in.SlowDown) as error:
        return await sign_in_page(ctx.services, ctx.request, error, after=after, name=name)
    response = pages.redirect(after)
    await session.open_session(ctx, who.oid, "password", response)
    return response


async def sign_out(ctx: Context) -> Response:
    if ctx.caller.session:
        await sign_in.end(ctx.services, ctx.caller.session, "signed out")
    response = pages.redirect("/ui/sign-in")
    response.delete_cookie(session.COOKIE, path="/")
    return response


async def to_provider(ctx: Context) -> Response:
    after = session.local_page(ctx.request.query.get("next", ""))
    here = session.origin_of(ctx.services, ctx.request) + CALLBACK
    url, browser = await providers.begin(ctx.services, ctx.params["provider"], here, after)
    response = pages.redirect(url)
    session.set_cookie(ctx, response, BROWSER_COOKIE, browser, BROWSER_S)
    return response


async def from_provider(ctx: Context) -> Response:
    browser = session.cookie_of(ctx.request.header("cookie"), BROWSER_COOKIE)
    try:
        who, after, provider = await providers.finish(ctx.services, ctx.request.query, browser)
        response = pages.redirect(after)
        await session.open_session(ctx, who.oid, f"oidc:{provider}", response)
    except TidemillError as error:
        response = await sign_in_page(ctx.services, ctx.request, error)
    response.delete_cookie(BROWSER_COOKIE, path="/")
    return response


# --- a program on this machine asks (RFC 8252: a loopback redirect, PKCE)


async def ask_authorize(ctx: Context) -> Response:
    query = ctx.request.query
    target = _check_authorize(ctx, query)
    client = query.get("client_id", "")
    return pages.page(
        "allow.html",
        form_action=_origin(target),
        title="Let a program act as you?",
        lines=[f"The program {client!r} on this machine, at {_origin(target)}, asks to act as you here."],
        problem="",
        action="/ui/authorize",
        fields=sorted(query.items()),
        asks_code=False,
        user=ctx.caller.name,
    )


async def authorize(ctx: Context) -> Response:
    form = await ctx.request.form()
    target = _check_authorize(ctx, form)
    answer = {"state": form["state"]} if form.get("state") else {}
    if form.get("answer") == "allow":
        asked = Authorization(
            ctx.caller.oid,
            form.get("client_id", ""),
            target,
            form["code_challenge"],
            form.get("nonce", ""),
            form.get("scope", ""),
            ctx.caller.session,
        )
        answer["code"] = ctx.services.codes.authorize(asked, ctx.services.clock.now())
    else:
        answer |= {"error": "access_denied", "error_description": "The user refused."}
    return pages.redirect(f"{target}{'&' if urlsplit(target).query else '?'}{urlencode(answer)}")


def _check_authorize(ctx: Context, asked: dict[str, str]) -> str:
    """-> where the answer goes. Raises InvalidRequest: an address that is not of this machine would get the
    code of whoever follows a link."""
    _refuse_jobs(ctx)
    target = asked.get("redirect_uri", "")
    parts = urlsplit(target)
    if parts.scheme != "http" or parts.hostname not in LOCAL_NAMES or parts.username or parts.fragment:
        raise InvalidRequest(
            f"redirect_uri {target[:200]!r} is not http on this machine (localhost, 127.0.0.1, [::1]): other "
            "programs sign in with a device code.",
            target="redirect_uri",
        )
    if asked.get("response_type") != "code":
        raise InvalidRequest("response_type must be code.", target="response_type")
    if asked.get("code_challenge_method") != "S256" or not asked.get("code_challenge"):
        raise InvalidRequest(
            "code_challenge with code_challenge_method S256 is needed (PKCE).", target="code_challenge"
        )
    return target


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


# --- a program elsewhere asks (RFC 8628: a code that a person types)


async def ask_device(ctx: Context) -> Response:
    _refuse_jobs(ctx)
    return _device_page(ctx, ctx.request.query.get("user_code", ""))


async def allow_device(ctx: Context) -> Response:
    _refuse_jobs(ctx)
    form = await ctx.request.form()
    code = form.get("user_code", "")
    if "answer" not in form:
        return _device_page(ctx, code)
    device = ctx.services.codes.waiting(code, ctx.services.clock.now())
    allowed = form["answer"] == "allow"
    if allowed:
        ctx.services.codes.allow(device, ctx.caller.oid, ctx.caller.session)
    else:
        ctx.services.codes.deny(device)
    done = "It is signed in. You can close this page." if allowed else "It was refused."
    return _allow_page(ctx, "Done" if allowed else "Refused", [done])


def _device_page(ctx: Context, code: str) -> Response:
    """Asks for the code, and then whether the program that waits with it may act as who is signed in."""
    if not code:
        return _allow_page(ctx, "Which code does the program show?", [], asks_code=True)
    try:
        device = ctx.services.codes.waiting(code, ctx.services.clock.now())
    except NotFound as error:
        return _allow_page(ctx, "Which code does the program show?", [], error.message, asks_code=True)
    lines = [
        f"A program ({device.client_id or 'unnamed'}) at the address {device.address} waits with the code "
        f"{device.user_code}. It asks to act as you here.",
        "Allow it only if you started it, and it shows this very code.",
    ]
    return _allow_page(ctx, "Let a program act as you?", lines, fields=[("user_code", device.user_code)])


def _allow_page(
    ctx: Context,
    title: str,
    lines: list[str],
    problem: str = "",
    *,
    fields: list[tuple[str, str]] | None = None,
    asks_code: bool = False,
) -> Response:
    return pages.page(
        "allow.html",
        404 if problem else 200,
        title=title,
        lines=lines,
        problem=problem,
        action="/ui/device" if fields or asks_code else "",
        fields=fields or [],
        asks_code=asks_code,
        user=ctx.caller.name,
    )


def _refuse_jobs(ctx: Context) -> None:
    if ctx.caller.kind == JOB:
        raise Forbidden("A job's token lets no program act for anybody. Use a token of your own.")
