"""Blob addresses: `https://localhost:8445/{account}.blob.core.windows.net/{container}/{blob}` and its kin."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote, urlsplit

ENDPOINT = ".blob.core.windows.net"

_ACCOUNT = re.compile(r"^(?P<account>[a-z0-9][a-z0-9-]*)\.(?:blob|dfs)\.", re.IGNORECASE)


def resolve_blob_url(url: str) -> tuple[str | None, str, str]:
    """-> (account, container, name), unquoted; the query is left out.

    Path style (the account is the first segment), host style (`https://acct.blob.core.windows.net/c/b`) and
    a bare path are read. The account is None where the URL does not name one: build contexts of environments
    come back from the SDK as `https://localhost:8445/{container}/LocalUpload/…`. Both others may be "".
    """
    parts = urlsplit(url)
    host = _ACCOUNT.match(parts.netloc)
    segments = parts.path.lstrip("/").split("/")
    account: str | None = None
    if host is not None:
        account = host["account"].lower()
    else:
        account = account_of_segment(segments[0])
        if account is not None:
            segments = segments[1:]
    container = unquote(segments[0]) if segments else ""
    return account, container, unquote("/".join(segments[1:]))


def account_of_segment(segment: str) -> str | None:
    """`tm01.blob.core.windows.net` -> "tm01"; None for anything else."""
    match = _ACCOUNT.match(segment)
    return match["account"].lower() if match else None


def blob_url(endpoint: str, account: str, container: str, name: str = "") -> str:
    """`endpoint` is the data process's address (`https://localhost:8445`), no slash at its end."""
    url = f"{endpoint}/{account}{ENDPOINT}/{quote(container)}"
    return f"{url}/{quote(name)}" if name else url
