"""The browser's session: a one-time link that the owner's command prints, and the cookie it turns into."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from urllib.parse import quote

from starlette.responses import Response

from tidemill.app.people import sign_in
from tidemill.app.people.access import authenticate
from tidemill.app.services import Caller, Services
from tidemill.domain.errors import Forbidden, InvalidRequest, Unauthenticated
from tidemill.domain.signin import SECOND
from tidemill.identity.tokens import ML_AUDIENCE
from tidemill.wire.http import Context, Request

COOKIE = "tidemill_session"
LINK_TTL_S = 120
SESSION_TTL_S = 12 * 3600
HOME = "/ui"


class LinkBook:
    """Signed links of which each opens one session. Those that were used are kept until they expire."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def make(self, services: Services, caller: Caller, after: str) -> tuple[str, int]:
        """-> (path with query, expiry in microseconds) of a link that signs the caller in and goes on to
        `after`. It ends with the sign-in that it is made in."""
        nonce, oid, by = secrets.token_urlsafe(18), caller.oid, caller.session
        expires = services.clock.now() + LINK_TTL_S * 1_000_000
        signed = services.tokens.sign_path(_purpose(services, oid, by, nonce), expires)
        going = f"next={quote(after, safe='/')}"
        return f"/ui/login?token={nonce}&oid={oid}&by={by}&{going}&{signed}", expires

    def redeem(self, services: Services, query: Mapping[str, str]) -> tuple[str, str]:
        """-> (the oid of who is signed in, the sign-in that the link was made in or ""). Raises
        Unauthenticated for a link that is changed, expired, used, or of an earlier server."""
        nonce, oid, by = (query.get(name, "") for name in ("token", "oid", "by"))
        services.tokens.check_path(_purpose(services, oid, by, nonce), query)
        now = services.clock.now()
        self._used = {key: until for key, until in self._used.items() if until > now}
        if nonce in self._used:
            raise Unauthenticated("This link was used already; each opens one session.", "LinkUsed")
        self._used[nonce] = now + LINK_TTL_S * 1_000_000
        return oid, by


def _purpose(services: Services, oid: str, by: str, nonce: str) -> str:
    # The incarnation is in it because the book of used links ends with the server.
    return f"/ui/login/{services.incarnation}/{oid}/{by}/{nonce}"


def local_page(text: str) -> str:
    """`text` if it is a page of the portal ("" is its first page). Raises InvalidRequest otherwise: a login
    link must not be able to lead to another site."""
    page = text or HOME
    inside = page == HOME or page.startswith((HOME + "/", HOME + "?"))
    if not inside or "\\" in page or not page.isprintable():
        raise InvalidRequest(f"next is {text!r}: it must be a page of this portal, /ui/…", target="next")
    return page


async def signed_in(services: Services, cookie_header: str) -> bool:
    try:
        return bool(await authenticate(services, cookie_of(cookie_header)))
    except Unauthenticated:
        return False


def cookie_of(header: str, wanted: str = COOKIE) -> str:
    """A cookie of a Cookie header, the session's token; or ""."""
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == wanted:
            return value
    return ""


async def open_session(ctx: Context, oid: str, how: str, response: Response, allowed_by: str = "") -> None:
    """A session of the browser, in a cookie. Raises Unauthenticated for a principal that is gone or disabled,
    or where the sign-in that allowed it is over.
    The cookie is Lax, not Strict: an address clicked in a notebook is a navigation from another site. It only
    lets pages be read; whatever changes something is checked for its origin as well."""
    services = ctx.services
    grant = await sign_in.begin(
        services,
        oid,
        client=sign_in.PORTAL,
        how=how,
        address=ctx.request.address,
        lasts_us=SESSION_TTL_S * SECOND,
        allowed_by=allowed_by,
    )
    who = grant.principal
    token = services.tokens.issue_to(who, ML_AUDIENCE, SESSION_TTL_S, session=grant.session.id)
    set_cookie(ctx, response, COOKIE, token, SESSION_TTL_S)
    ctx.caller = Caller(oid, who.name, who.kind.value)


def set_cookie(ctx: Context, response: Response, name: str, value: str, seconds: int) -> None:
    """Not marked secure where the browser came by plain http, which is loopback only."""
    secure = origin_of(ctx.services, ctx.request).startswith("https:")
    response.set_cookie(name, value, max_age=seconds, path="/", secure=secure, httponly=True, samesite="lax")


def origin_of(services: Services, request: Request) -> str:
    """The origin that the browser sees, by the Host header, which was checked. A laptop's loopback http port
    comes in over TLS, so the scheme is that of the port."""
    host = request.header("host").lower()
    plain = host.rpartition(":")[2] == services.addresses.http.rpartition(":")[2]
    return f"{'http' if plain else 'https'}://{host}"


def require_same_origin(ctx: Context) -> None:
    """For what a form changes before there is a session. Raises Forbidden for another site's form."""
    given = ctx.request.header("origin")
    if given != origin_of(ctx.services, ctx.request):
        raise Forbidden(
            f"This form came from {given[:100] or 'an unknown place'!r}, not from this server's own page. "
            "Open the page again.",
            "ForeignOrigin",
        )
