"""Building the paths of requests."""

from __future__ import annotations

from urllib.parse import quote, urlencode

Query = dict[str, str | int]


def with_query(path: str, query: Query | None) -> str:
    if not query:
        return path
    text = urlencode(
        {key: str(value) for key, value in query.items() if value != ""}, quote_via=quote, safe="$"
    )
    return f"{path}{'&' if '?' in path else '?'}{text}" if text else path


def segment(text: str) -> str:
    """One path segment, percent-encoded."""
    return quote(text, safe="")
