"""Turning templates into responses. Jinja is loaded with the first page that somebody opens."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from tidemill.domain.scopes import in_words, scope_words
from tidemill.portal import words
from tidemill.portal.asset_links import asset_page

if TYPE_CHECKING:
    from jinja2 import Environment

_ROOM = Path(__file__).parent
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# Scripts, styles and connections of our own only; nothing inline, so that a value that slipped through
# unescaped could still not run.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-store",
    "referrer-policy": "same-origin",  # with no-referrer a browser hides a form's origin, too
    "x-content-type-options": "nosniff",
    "vary": "HX-Request, Cookie",
}


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_ROOM / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    names = (
        *("group", "duration", "usd", "rate", "size", "number", "clock", "full", "ago", "since"),
        *("short", "headline", "lastline", "asset", "place", "action", "kind", "shell"),
        *("patterns", "upper", "lastname", "until", "amount", "parameter"),
    )
    environment.filters |= {name: getattr(words, name) for name in names}
    environment.filters |= {"scope": scope_words, "places": in_words}
    environment.filters |= {"assetpage": asset_page}
    environment.globals["asset"] = _asset
    return environment


def fragment(template: str, **values: Any) -> str:
    return _environment().get_template(template).render(**values)


def page(template: str, status: int = 200, *, form_action: str = "", **values: Any) -> Response:
    """`form_action`: an origin besides our own that the answer to a form of the page may lead to."""
    return html(fragment(template, **values), status, form_action)


def html(text: str, status: int = 200, form_action: str = "") -> Response:
    headers = dict(_HEADERS)
    if form_action:
        headers["content-security-policy"] = POLICY.replace(
            "form-action 'self'", f"form-action 'self' {form_action}"
        )
    return Response(text, status, headers, media_type="text/html")


def unchanged() -> Response:
    """htmx leaves the page as it is."""
    return Response(status_code=204, headers=dict(_HEADERS))


def redirect(place: str) -> Response:
    return Response(status_code=303, headers={**_HEADERS, "location": place})


def fingerprint(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def static(name: str) -> Response | None:
    """One of the files in static/, by its exact name. Its address carries its hash, so it may be kept."""
    found = _files().get(name)
    if found is None:
        return None
    content, kind, _ = found
    headers = {"cache-control": "public, max-age=31536000, immutable", "x-content-type-options": "nosniff"}
    return Response(content, headers=headers, media_type=kind)


def _asset(name: str) -> str:
    return f"/ui/static/{name}?v={_files()[name][2]}"


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    found: dict[str, tuple[bytes, str, str]] = {}
    for path in sorted((_ROOM / "static").iterdir()):
        if path.suffix in _TYPES:
            content = path.read_bytes()
            found[path.name] = content, _TYPES[path.suffix], hashlib.sha256(content).hexdigest()[:12]
    return found
