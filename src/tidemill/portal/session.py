"""The browser's session: a one-time link that the owner's command prints, and the cookie it turns into."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from urllib.parse import quote

from starlette.responses import Response

from tidemill.app.access import check_lives
from tidemill.app.services import Caller, Services
from tidemill.domain.errors import InvalidRequest, Unauthenticated
from tidemill.identity.tokens import ML_AUDIENCE

COOKIE = "tidemill_session"
LINK_TTL_S = 120
SESSION_TTL_S = 12 * 3600
HOME = "/ui"


class LinkBook:
    """Signed links of which each opens one session. Those that were used are kept until they expire."""

    def __init__(self) -> None:
        self._used: dict[str, int] = {}

    def make(self, services: Services, oid: str, after: str) -> tuple[str, int]:
        """-> (path with query, expiry in microseconds) of a link that signs the principal in and goes on to
        `after`."""
        nonce = secrets.token_urlsafe(18)
        expires = services.clock.now() + LINK_TTL_S * 1_000_000
        signed = services.tokens.sign_path(_purpose(services, oid, nonce), expires)
        return f"/ui/login?token={nonce}&oid={oid}&next={quote(after, safe='/')}&{signed}", expires

    def redeem(self, services: Services, query: Mapping[str, str]) -> str:
        """-> the oid of who is signed in. Raises Unauthenticated for a link that is changed, expired, used,
        or of an earlier server."""
        nonce, oid = query.get("token", ""), query.get("oid", "")
        services.tokens.check_path(_purpose(services, oid, nonce), query)
        now = services.clock.now()
        self._used = {key: until for key, until in self._used.items() if until > now}
        if nonce in self._used:
            raise Unauthenticated("This link was used already; each opens one session.", "LinkUsed")
        self._used[nonce] = now + LINK_TTL_S * 1_000_000
        return oid


def _purpose(services: Services, oid: str, nonce: str) -> str:
    # The incarnation is in it because the book of used links ends with the server.
    return f"/ui/login/{services.incarnation}/{oid}/{nonce}"


def local_page(text: str) -> str:
    """`text` if it is a page of the portal ("" is its first page). Raises InvalidRequest otherwise: a login
    link must not be able to lead to another site."""
    page = text or HOME
    inside = page == HOME or page.startswith((HOME + "/", HOME + "?"))
    if not inside or "\\" in page or not page.isprintable():
        raise InvalidRequest(f"next is {text!r}: it must be a page of this portal, /ui/…", target="next")
    return page


def signed_in(services: Services, cookie_header: str) -> bool:
    try:
        return bool(services.tokens.verify(cookie_of(cookie_header)))
    except Unauthenticated:
        return False


def cookie_of(header: str) -> str:
    """The session's token in a Cookie header, or ""."""
    for part in header.split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value
    return ""


async def open_session(services: Services, oid: str, response: Response, secure: bool) -> Caller:
    """-> who is signed in. Raises Unauthenticated for a principal that is gone or disabled. The cookie is
    Lax, not Strict: an address clicked in a notebook is a navigation from another site. It only lets pages be
    read; whatever changes something is checked for its origin as well."""
    principal = await check_lives(services, Caller(oid, oid, ""))
    assert principal is not None
    token = services.tokens.issue_to(principal, ML_AUDIENCE, SESSION_TTL_S)
    response.set_cookie(
        COOKIE, token, max_age=SESSION_TTL_S, path="/", secure=secure, httponly=True, samesite="lax"
    )
    return Caller(oid, principal.name, principal.kind.value)
